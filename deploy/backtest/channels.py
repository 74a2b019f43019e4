"""Dense scores of a channel: what a strategy's version makes of a block of targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from deploy.backtest.observer import Block
from deploy.backtest.served import Items, Served
from deploy.backtest.settings import OWN_ITEMS, POPULARITY
from models.arrays import Float32Array, Int32Array, Int64Array
from models.retrieve import dense_scores


@dataclass(frozen=True)
class History:
    """What the users of a block's n targets did before: item codes with repeats, offsets int64[n+1]."""

    offsets: Int64Array
    items: Int32Array


class Channel(Protocol):
    """One source of candidates."""

    def scores(self, served: Served, block: Block, history: History) -> tuple[Items, Float32Array]:
        """The items it can recommend, and float32[n, K] for the block's targets; -inf = never."""
        ...


@dataclass(frozen=True)
class LearnedChannel:
    """A recall model."""

    name: str

    def scores(self, served: Served, block: Block, history: History) -> tuple[Items, Float32Array]:
        """Every item against the model's queries, exactly."""
        items = served.items[self.name]
        queries = served.state.learners[self.name].queries(block.moments[self.name])
        return items, dense_scores(queries, items.keys, items.vectors)[: len(block.rows)]


class PopularityChannel:
    """Time-decayed counts, the same for everybody."""

    def scores(self, served: Served, block: Block, history: History) -> tuple[Items, Float32Array]:
        """The counts of the strategy's watermark."""
        counts = served.popular.vectors[:, 0]
        return served.popular, np.repeat(counts[None], len(block.rows), axis=0)


class OwnItemsChannel:
    """How often the user had each item before; what is popular breaks ties and fills up."""

    def scores(self, served: Served, block: Block, history: History) -> tuple[Items, Float32Array]:
        """Count + popularity as a share of the greatest."""
        items, counts = PopularityChannel().scores(served, block, history)
        share = counts / (counts.max(initial=0.0) + 1.0)
        rows = np.repeat(np.arange(len(block.rows)), np.diff(history.offsets))
        places = items.places_of(history.items)
        np.add.at(share, (rows[places >= 0], places[places >= 0]), np.float32(1.0))
        return items, share


def channel(name: str) -> Channel:
    """The channel of a name."""
    if name == POPULARITY:
        return PopularityChannel()
    if name == OWN_ITEMS:
        return OwnItemsChannel()
    return LearnedChannel(name)
