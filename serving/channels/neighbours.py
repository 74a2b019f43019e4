"""Candidates of an item-to-item channel (ItemCF, Swing): neighbours of the newest of the user's history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from models.arrays import Float32Array
from models.moments import Moments
from serving.channels.contract import Ask, Ranking, ranking_of
from serving.channels.moment import moment_of
from serving.snapshot import NeighbourChannel


@dataclass(frozen=True)
class NeighbourSource:
    """One item-to-item channel of the snapshot."""

    channel: NeighbourChannel

    def candidates(self, ask: Ask, k: int) -> Ranking:
        """The k items with the greatest sum of similarities to the history."""
        items = self.channel.items
        excluded = [items.lookup(ask.excluded_keys)] if ask.excluded else None
        moment = ask.once(self.channel.config, lambda: self._moment(ask))
        return ranking_of(items.search(moment, k, excluded), items)

    def scores(self, ask: Ask, keys: Sequence[str]) -> Float32Array:
        """Sums of similarities; 0 where nothing of the history leads to an item."""
        moment = ask.once(self.channel.config, lambda: self._moment(ask))
        scores: Float32Array = self.channel.items.dense_scores(moment, pa.array(keys, pa.string()))[0]
        return scores

    def _moment(self, ask: Ask) -> Moments:
        profile = ask.profile
        return moment_of(
            self.channel.config, ask.user, ask.ts_ms, profile.history, ask.context, profile.attributes
        )
