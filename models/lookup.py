"""The rows one step reads: gathered first, then looked up once per table.

One call per table is what makes a step exact: the fused optimizer updates a row by the sum of its gradients,
and a row that was read in two calls would be updated twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.arrays import BoolArray, Float32Array, Int32Array, Int64Array
from models.key_bags import slot_bags
from models.native import compiled
from models.tables import Tables

Rows = dict[str, list[Int64Array]]
"""Table -> rows read in a step."""


_NOTHING = torch.empty(0)


@dataclass
class Wanted:
    """Bags asked for in one request; `value` float32[bags, E] is there after Lookup.run() or read()."""

    bags: int
    value: Tensor = _NOTHING


@dataclass(frozen=True)
class _Request:
    """offsets, weights: as in Lookup.bags(); None where every bag is one row, and counts once."""

    rows: Int64Array
    offsets: Int64Array | None
    weights: Float32Array | None
    wanted: Wanted


class Lookup:
    """Rows by table: through the fused update where a table is trained, plainly where it is frozen."""

    def __init__(self, tables: Tables, trained: frozenset[str]) -> None:
        self._tables = tables
        self._trained = trained
        self._requests: dict[str, list[_Request]] = {}
        self._moves: list[tuple[str, tuple[Tensor, Tensor, Tensor], Tensor]] = []
        self.touched: Rows = {}

    def single(self, table: str, rows: Int64Array) -> Wanted:
        """One row each: [n, E]; rows: int64[n]."""
        return self._ask(table, _Request(rows, None, None, Wanted(len(rows))))

    def bags(self, table: str, rows: Int64Array, offsets: Int64Array, weights: Float32Array) -> Wanted:
        """Weighted sums [bags, E]; rows: int64[n], offsets: int64[bags+1], weights: float32[n]."""
        return self._ask(table, _Request(rows, offsets, weights, Wanted(len(offsets) - 1)))

    def slots(self, table: str, entries: Int32Array) -> Wanted:
        """Mean of the known entries of int32[n, slots] (-1 = none), the cold row where none is known."""
        ids = self._tables.ids[table]
        if entries.shape[1] == 1:
            return self.single(table, ids.rows(entries[:, 0]))
        known, offsets, weights = slot_bags(entries)
        return self.bags(table, ids.rows(known), offsets, weights)

    def _ask(self, table: str, request: _Request) -> Wanted:
        self._requests.setdefault(table, []).append(request)
        return request.wanted

    def run(self) -> None:
        """Look everything up; backward() moves the rows of trained tables."""
        for table, requests in self._requests.items():
            read = self._joined(table, requests)
            embedding = self._tables.rows[table]
            trained = table in self._trained
            _hand_out(requests, embedding.trained(*read) if trained else embedding.frozen(*read))
        self._requests = {}

    def read(self) -> None:
        """Look everything up without autograd. Values of trained tables have a `grad`, not filled in yet, by
        which move() moves the rows.
        """
        for table, requests in self._requests.items():
            read = self._joined(table, requests)
            values = self._tables.rows[table].frozen(*read)
            gradients = None
            if table in self._trained:
                gradients = torch.empty_like(values)
                self._moves.append((table, read, gradients))
            _hand_out(requests, values, gradients)
        self._requests = {}

    def move(self) -> None:
        """Move the rows of trained tables that read() looked up; of these, `touched` has each row once."""
        for table, read, gradients in self._moves:
            self.touched[table] = [self._tables.rows[table].update(*read, gradients)]
        self._moves = []

    def _joined(self, table: str, requests: Sequence[_Request]) -> tuple[Tensor, Tensor, Tensor]:
        """(rows int64[n], offsets int64[bags+1], weights float32[n]) of all requests of a table."""
        reads = sum(len(request.rows) for request in requests)
        bags = sum(request.wanted.bags for request in requests)
        rows, weights = np.empty(reads, np.int64), np.empty(reads, np.float32)
        offsets = np.zeros(bags + 1, np.int64)
        read, bag = 0, 1
        for request in requests:
            end, following = read + len(request.rows), bag + request.wanted.bags
            rows[read:end] = request.rows
            if request.offsets is None or request.weights is None:
                weights[read:end] = 1.0
                offsets[bag:following] = np.arange(read + 1, end + 1)
            else:
                weights[read:end] = request.weights
                np.add(request.offsets[1:], read, out=offsets[bag:following])
            read, bag = end, following
        if table in self._trained:
            self.touched[table] = [rows]
        return torch.from_numpy(rows), torch.from_numpy(offsets), torch.from_numpy(weights)


@compiled
def mark(flags: BoolArray, rows: Int64Array) -> None:
    """flags[rows] = True."""
    for at in range(len(rows)):
        flags[rows[at]] = True


def _hand_out(requests: Sequence[_Request], values: Tensor, gradients: Tensor | None = None) -> None:
    # Several views made by one call: their backward makes one gradient, not one for each that are added up.
    bags = [request.wanted.bags for request in requests]
    for request, value in zip(requests, torch.split_with_sizes(values, bags), strict=True):
        request.wanted.value = value
    if gradients is not None:
        for request, gradient in zip(requests, torch.split_with_sizes(gradients, bags), strict=True):
            request.wanted.value.grad = gradient
