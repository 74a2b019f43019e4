"""New items: the newest of several age pools in turn, so that the youngest are shown at all.

Nobody has met them, so a list by score would hide them behind what is known. Within a pool the order differs
from user to user and from hour to hour: what is shown is spread over the pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from models.arrays import Float32Array
from serving.channels.contract import Ask, Ranking
from serving.fresh import Fresh

POOLS_H = (1, 6, 24, 720)
"""An item is in the first pool whose age in hours it is under."""
_HOUR_MS = 3_600_000
_MOST = 1000
"""Items of a pool that are looked at: the newest."""


@dataclass(frozen=True)
class FreshSource:
    """The pools of the snapshot, as of the request's moment."""

    fresh: Fresh

    def candidates(self, ask: Ask, k: int) -> Ranking:
        """At most k items, the pools taking turns; score: 1 / (1 + age in hours)."""
        pools = [self._shuffled(ask, begin, end) for begin, end in self._bounds(ask.ts_ms)]
        found: Ranking = []
        for turn in range(max((len(pool) for pool in pools), default=0)):
            found += [pool[turn] for pool in pools if turn < len(pool)]
            if len(found) >= k:
                break
        return found[:k]

    def scores(self, ask: Ask, keys: Sequence[str]) -> Float32Array:
        """The same scores; 0 for what is not new."""
        worth: dict[str, float] = {}
        for begin, end in self._bounds(ask.ts_ms):
            worth |= dict(self._scored(ask, begin, end))
        return np.array([worth.get(key, 0.0) for key in keys], np.float32)

    def _bounds(self, ts_ms: int) -> list[tuple[int, int]]:
        """Places [begin, end) of every pool; items are sorted newest first."""
        ages_ms = ts_ms - self.fresh.born_ms
        ends = [int(np.searchsorted(ages_ms, hours * _HOUR_MS)) for hours in POOLS_H]
        begins = [int(np.searchsorted(ages_ms, 0)), *ends[:-1]]  # not what is born after the moment
        return [(begin, min(end, begin + _MOST)) for begin, end in zip(begins, ends, strict=True)]

    def _scored(self, ask: Ask, begin: int, end: int) -> Ranking:
        keys = self.fresh.keys.slice(begin, max(end - begin, 0)).to_pylist()
        allowed = ask.allowed(keys)
        ages_h = (ask.ts_ms - self.fresh.born_ms[begin : begin + len(keys)]) / _HOUR_MS
        scores = (1.0 / (1.0 + ages_h)).tolist()
        return [pair for pair in zip(keys, scores, strict=True) if pair[0] in allowed]

    def _shuffled(self, ask: Ask, begin: int, end: int) -> Ranking:
        salt = f"{ask.user}\x1f{ask.ts_ms // _HOUR_MS}\x1f"
        return sorted(self._scored(ask, begin, end), key=lambda pair: crc32((salt + pair[0]).encode()))
