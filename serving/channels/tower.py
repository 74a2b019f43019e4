"""Candidates of a recall model: the user tower's vectors against its item index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from models.arrays import Float32Array, Int64Array
from models.query import Queries
from models.retrieve import retrieve, scores_of
from serving.channels.contract import Ask, Ranking, ranking_of
from serving.channels.moment import Asked, moments_of
from serving.snapshot import Channel


@dataclass(frozen=True)
class TowerSource:
    """One recall model of the snapshot."""

    channel: Channel

    def candidates(self, ask: Ask, k: int) -> Ranking:
        """The k items of the highest scores."""
        queries = ask.once(self.channel.tower, lambda: self._queries([ask]))
        return ranking_of(self._found([ask], queries, k), self.channel.items)

    def found(self, asks: Sequence[Ask], k: int) -> tuple[Float32Array, Int64Array]:
        """The same of N requests as arrays of the item index: scores float32[N, k] and positions int64[N, k],
        -1 beyond. N is at most `together`.
        """
        return self._found(asks, self._queries(asks), k)

    @property
    def together(self) -> int:
        """How many requests may be asked for at once, each answered to the bit as alone."""
        return self.channel.tower.together

    def scores(self, ask: Ask, keys: Sequence[str]) -> Float32Array:
        """The model's scores."""
        positions = self.channel.items.lookup(pa.array(keys, pa.string()))
        queries = ask.once(self.channel.tower, lambda: self._queries([ask]))
        return scores_of(queries, self.channel.items, positions)

    def _found(self, asks: Sequence[Ask], queries: Queries, k: int) -> tuple[Float32Array, Int64Array]:
        items = self.channel.items
        excluded = None
        if any(ask.excluded for ask in asks):
            excluded = [items.lookup(ask.excluded_keys) for ask in asks]
        return retrieve(queries, items, k, excluded)

    def _queries(self, asks: Sequence[Ask]) -> Queries:
        asked = [
            Asked(one.user, one.ts_ms, one.profile.history, one.context, one.profile.attributes)
            for one in asks
        ]
        return self.channel.tower.queries(moments_of(self.channel.config, asked))
