"""The rows one step reads: gathered first, then looked up once per table.

One call per table is what makes a step exact: the fused optimizer updates a row by the sum of its gradients,
and a row that was read in two calls would be updated twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from models.arrays import Float32Array, Int32Array, Int64Array
from models.key_bags import slot_bags
from models.tables import Tables

Rows = dict[str, list[Int64Array]]
"""Table -> rows read in a step."""


@dataclass
class Wanted:
    """Bags asked for in one request; `value` float32[bags, E] is there after Lookup.run()."""

    bags: int
    value: Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass(frozen=True)
class _Request:
    rows: Int64Array
    counts: Int64Array
    weights: Float32Array
    wanted: Wanted


class Lookup:
    """Rows by table: through the fused update where a table is trained, plainly where it is frozen."""

    def __init__(self, tables: Tables, trained: frozenset[str]) -> None:
        self._tables = tables
        self._trained = trained
        self._requests: dict[str, list[_Request]] = {}
        self.touched: Rows = {}

    def single(self, table: str, rows: Int64Array) -> Wanted:
        """One row each: [n, E]; rows: int64[n]."""
        ones = np.ones(len(rows), np.int64)
        return self._ask(table, rows, ones, np.ones(len(rows), np.float32))

    def bags(self, table: str, rows: Int64Array, offsets: Int64Array, weights: Float32Array) -> Wanted:
        """Weighted sums [bags, E]; rows: int64[n], offsets: int64[bags+1], weights: float32[n]."""
        return self._ask(table, rows, np.diff(offsets), weights)

    def slots(self, table: str, entries: Int32Array) -> Wanted:
        """Mean of the known entries of int32[n, slots] (-1 = none), the cold row where none is known."""
        ids = self._tables.ids[table]
        if entries.shape[1] == 1:
            return self.single(table, ids.rows(entries[:, 0]))
        known, offsets, weights = slot_bags(entries)
        return self._ask(table, ids.rows(known), np.diff(offsets), weights)

    def _ask(self, table: str, rows: Int64Array, counts: Int64Array, weights: Float32Array) -> Wanted:
        wanted = Wanted(len(counts))
        self._requests.setdefault(table, []).append(_Request(rows, counts, weights, wanted))
        return wanted

    def run(self) -> None:
        """Look everything up."""
        for table, requests in self._requests.items():
            rows = _joined([request.rows for request in requests])
            counts = _joined([request.counts for request in requests])
            weights = _joined([request.weights for request in requests])
            offsets = np.zeros(len(counts) + 1, np.int64)
            np.cumsum(counts, out=offsets[1:])
            embedding = self._tables.rows[table]
            arguments = torch.from_numpy(rows), torch.from_numpy(offsets), torch.from_numpy(weights)
            if table in self._trained:
                self.touched[table] = [rows]
                values = embedding.trained(*arguments)
            else:
                values = embedding.frozen(*arguments)
            at = 0
            for request in requests:
                request.wanted.value = values[at : at + request.wanted.bags]
                at += request.wanted.bags
        self._requests = {}


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.ascontiguousarray(parts[0]) if len(parts) == 1 else np.concatenate(parts)
