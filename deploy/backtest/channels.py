"""Dense scores of a channel: what a strategy's version makes of a block of targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from deploy.backtest.observer import Block
from deploy.backtest.served import Items, Served
from deploy.backtest.settings import OWN_ITEMS, POPULARITY
from deploy.backtest.targets import History, Targets
from models.arrays import Float32Array
from models.blend_candidates import Said
from models.moments import Moments, newest_places
from models.retrieve import dense_scores
from updater.state import Recipe


class Channel(Protocol):
    """One source of candidates."""

    def scores(self, served: Served, block: Block, history: History) -> tuple[Items, Float32Array]:
        """The items it can recommend, and float32[n, K] for the block's n targets; -inf = never."""
        ...

    def said(self, items: Items, scores: Float32Array) -> Said:
        """The same without what fills answers up, on a scale that can be averaged: what is blended."""
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

    def said(self, items: Items, scores: Float32Array) -> Said:
        """Scores as they are."""
        return Said(items.codes, scores)


class PopularityChannel:
    """Time-decayed counts, the same for everybody."""

    def scores(self, served: Served, block: Block, history: History) -> tuple[Items, Float32Array]:
        """The counts of the strategy's watermark, for every item with a positive by then."""
        counts = served.popular.vectors[:, 0]
        return served.popular, np.repeat(counts[None], len(block.rows), axis=0)

    def said(self, items: Items, scores: Float32Array) -> Said:
        """Logarithms: counts have heavy tails."""
        return Said(items.codes, np.log1p(scores))


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

    def said(self, items: Items, scores: Float32Array) -> Said:
        """Own items only."""
        return Said(items.codes, np.log1p(np.floor(scores)), scores >= 1.0)


@dataclass(frozen=True)
class ItemToItemChannel:
    """Neighbours of the user's newest items; behind them all others by popularity, which fills answers up."""

    name: str
    length: int
    targets: Targets

    def scores(self, served: Served, block: Block, history: History) -> tuple[Items, Float32Array]:
        """Similarity where there is one, else below zero."""
        items, counts = PopularityChannel().scores(served, block, history)
        similar = served.neighbours[self.name].dense_scores(self._moments(block, history), items.keys)
        behind = -1.0 / (counts / (counts.max(initial=0.0) + 1.0) + 1e-12)
        return items, np.where(similar > 0, similar, behind).astype(np.float32)

    def said(self, items: Items, scores: Float32Array) -> Said:
        """Similar items only."""
        return Said(items.codes, np.maximum(scores, 0.0), scores > 0)

    def _moments(self, block: Block, history: History) -> Moments:
        targets = self.targets
        newest, offsets = newest_places(history.offsets, self.length)
        return Moments(
            user_id=targets.user_keys.take(pa.array(targets.user[block.rows])),
            ts_ms=targets.ts_ms[block.rows],
            history_id=targets.item_keys.take(pa.array(history.items[newest])),
            history_offsets=offsets,
            history_ts_ms=targets.ts_ms[history.targets[newest]],
        )


def channel_of(name: str, recipe: Recipe, targets: Targets) -> Channel:
    """The channel of a name."""
    if name == POPULARITY:
        return PopularityChannel()
    if name == OWN_ITEMS:
        return OwnItemsChannel()
    if name in recipe.channels:
        return ItemToItemChannel(name, recipe.channels[name].history_length, targets)
    return LearnedChannel(name)
