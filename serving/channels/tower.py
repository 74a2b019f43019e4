"""Candidates of a recall model: the user tower's vectors against its item index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from models.arrays import Float32Array, Int64Array
from models.query import Queries
from models.retrieve import retrieve, scores_of
from serving.channels.contract import Ask, Ranking, ranking_of
from serving.channels.moment import moment_of
from serving.snapshot import Channel


@dataclass(frozen=True)
class TowerSource:
    """One recall model of the snapshot."""

    channel: Channel

    def candidates(self, ask: Ask, k: int) -> Ranking:
        """The k items of the highest scores."""
        return ranking_of(self.found(ask, k), self.channel.items)

    def found(self, ask: Ask, k: int) -> tuple[Float32Array, Int64Array]:
        """The same as arrays of the item index: scores float32[1, k] and positions int64[1, k], -1 beyond."""
        items = self.channel.items
        excluded = None if ask.excluded_keys is None else [items.lookup(ask.excluded_keys)]
        queries = ask.once(self.channel.tower, lambda: self._queries(ask))
        return retrieve(queries, items, k, excluded)

    def scores(self, ask: Ask, keys: Sequence[str]) -> Float32Array:
        """The model's scores."""
        positions = self.channel.items.lookup(pa.array(keys, pa.string()))
        queries = ask.once(self.channel.tower, lambda: self._queries(ask))
        return scores_of(queries, self.channel.items, positions)

    def _queries(self, ask: Ask) -> Queries:
        profile = ask.profile
        moment = moment_of(
            self.channel.config, ask.user, ask.ts_ms, profile.history, ask.context, profile.attributes
        )
        return self.channel.tower.queries(moment)
