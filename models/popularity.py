"""Time-decayed counts per item: what is popular as of an event time."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from models.arrays import Float32Array, Int64Array, Tensors
from models.id_table import IdTable
from models.native import compiled


@compiled
def _add(
    entries: Int64Array, ts_ms: Int64Array, scores: np.ndarray, as_of_ms: int, half_life_ms: float
) -> None:
    for i in range(len(entries)):
        if entries[i] >= 0:
            scores[entries[i]] += 2.0 ** ((ts_ms[i] - as_of_ms) / half_life_ms)


class Popularity:
    """Sum over an item's events of 2^-(age / half_life), kept relative to the newest event time seen.

    half_life_ms: event time after which an event counts half.
    """

    def __init__(self, half_life_ms: int) -> None:
        if half_life_ms <= 0:
            raise ValueError(f"popularity: half_life_ms must be above 0, got {half_life_ms}")
        self.half_life_ms = half_life_ms
        self.as_of_ms = 0
        self._ids = IdTable()
        self._scores = np.zeros(0, np.float64)

    def observe(self, item_id: pa.Array | pa.ChunkedArray, ts_ms: Int64Array) -> None:
        """Count events: item key texts string[N] ("" is ignored) at ts_ms int64[N]; late ones count by their
        age.
        """
        if len(ts_ms) == 0:
            return
        ts_ms = np.ascontiguousarray(ts_ms, np.int64)
        entries = self._ids.observe(item_id, ts_ms)
        if self._ids.entry_capacity > len(self._scores):
            grown = np.zeros(self._ids.entry_capacity, np.float64)
            grown[: len(self._scores)] = self._scores
            self._scores = grown
        newest = int(ts_ms.max())
        if newest > self.as_of_ms:
            self._scores *= 2.0 ** ((self.as_of_ms - newest) / self.half_life_ms) if self.as_of_ms else 1.0
            self.as_of_ms = newest
        _add(entries, ts_ms, self._scores, self.as_of_ms, float(self.half_life_ms))

    def top(self, n: int) -> tuple[pa.StringArray, Float32Array]:
        """The n most popular items, best first: keys string[<=n] and scores float32[<=n]; ties by key
        entry.
        """
        live = self._ids.live_entries()
        best = live[np.argsort(-self._scores[live], kind="stable")[:n]]
        return self._ids.keys_of(best), self._scores[best].astype(np.float32)

    def scores(self, item_id: pa.Array | pa.ChunkedArray) -> Float32Array:
        """Score of every key, float32[N]; 0 for unknown ones. Reads only."""
        entries = self._ids.lookup(item_id)
        if len(self._scores) == 0:
            return np.zeros(len(entries), np.float32)
        return np.where(entries >= 0, self._scores[np.maximum(entries, 0)], 0.0).astype(np.float32)

    def expire(self, before_ms: int) -> None:
        """Forget items whose newest event is older than `before_ms`."""
        _, entries, _ = self._ids.expire(before_ms)
        self._scores[entries] = 0.0

    def state(self) -> Tensors:
        """Everything from_state() needs."""
        scalars = np.array([self.half_life_ms, self.as_of_ms], np.int64)
        return self._ids.state() | {"popularity": self._scores.copy(), "popularity_scalars": scalars}

    @classmethod
    def from_state(cls, state: Tensors) -> Popularity:
        """The counts that state() described."""
        popularity = cls(int(state["popularity_scalars"][0]))
        popularity.as_of_ms = int(state["popularity_scalars"][1])
        popularity._ids = IdTable.from_state(state)
        popularity._scores = np.array(state["popularity"], np.float64)
        return popularity
