"""The positives of an event table, numbered as everybody numbers them, and what was known before each."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

LONGEST = 50
"""Items of history that a peer gets: the length in the documented examples of all of them."""

Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]


@dataclass(frozen=True)
class Moments:
    """n requests, each as of the time just before it."""

    row: Int64Array
    """int64[n], places among the positives."""
    ts_ms: Int64Array
    """int64[n]."""
    user: Int32Array
    """int32[n], codes."""
    history: Int32Array
    """int32[n, LONGEST], the user's items before the request, newest last, -1 for none."""


@dataclass(frozen=True)
class Positives:
    """N positives in order of time (file order among equal times), the first of each (request_id, item_id).

    Users, items and requests are codes in order of their first appearance.
    """

    ts_ms: Int64Array
    user: Int32Array
    item: Int32Array
    request: Int32Array
    user_keys: NDArray[np.object_]
    item_keys: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.ts_ms)

    @property
    def items(self) -> int:
        """How many items the whole file has; a score has one column for each."""
        return len(self.item_keys)

    def before(self, ts_ms: int) -> int:
        """How many positives are older."""
        return int(np.searchsorted(self.ts_ms, ts_ms))

    def seen(self, row: int) -> Int32Array:
        """Item codes of the user's history before this row's request, oldest first: all of it."""
        rows = self._rows_of(int(self.user[row]))
        rows = rows[: np.searchsorted(self.ts_ms[rows], self.ts_ms[row])]
        return self.item[rows[self.request[rows] != self.request[row]]]

    def moments(self, rows: Int64Array) -> Moments:
        """The moments just before the requests of these rows."""
        return Moments(rows, self.ts_ms[rows], self.user[rows], self._histories[rows])

    def sample(self, rows: Int64Array, size: int, seed: int) -> Int64Array:
        """`size` of these rows, chosen by a hash of (seed, user, time, item), in order of time."""
        if len(rows) <= size:
            return rows
        keys = [self._hash(row, seed) for row in rows]
        return np.sort(rows[np.argsort(np.array(keys, np.uint64), kind="stable")[:size]])

    def _hash(self, row: int, seed: int) -> int:
        user, item = self.user_keys[self.user[row]], self.item_keys[self.item[row]]
        text = f"{seed}\x1f{user}\x1f{self.ts_ms[row]}\x1f{item}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")

    def _rows_of(self, user: int) -> Int64Array:
        order, offsets = self._by_user
        return order[offsets[user] : offsets[user + 1]]

    @cached_property
    def _by_user(self) -> tuple[Int64Array, Int64Array]:
        counts = np.bincount(self.user, minlength=len(self.user_keys))
        return np.argsort(self.user, kind="stable"), np.concatenate([[0], np.cumsum(counts)])

    @cached_property
    def _histories(self) -> Int32Array:
        histories = np.full((len(self), LONGEST), -1, np.int32)
        for user in range(len(self.user_keys)):
            rows = self._rows_of(user)
            ends = np.searchsorted(self.ts_ms[rows], self.ts_ms[rows])
            for row, end in zip(rows, ends, strict=True):
                newest = rows[max(0, end - LONGEST) : end]
                if (self.request[newest] == self.request[row]).any():
                    newest = rows[:end][self.request[rows[:end]] != self.request[row]][-LONGEST:]
                if len(newest):
                    histories[row, -len(newest) :] = self.item[newest]
        return histories


def read_positives(path: Path, kinds: list[str]) -> Positives:
    """From a standard event table. An empty request_id makes the row a request of its own.

    Raises:
        ValueError: the table has no event of these kinds.
    """
    table = pq.read_table(path, columns=["ts_ms", "user_id", "item_id", "kind", "request_id"])
    table = table.filter(pc.is_in(table["kind"], value_set=pa.array(kinds, table["kind"].type)))
    if not len(table):
        raise ValueError(f"{path}: no event of kind {', '.join(kinds)}; see the column kind of the table")
    ts_ms = table["ts_ms"].to_numpy()
    order = np.argsort(ts_ms, kind="stable")
    user, user_keys = _codes(table["user_id"], order)
    item, item_keys = _codes(table["item_id"], order)
    # Rows without a request get names that no file can hold.
    own = pa.array([f"\x00{place}" for place in range(len(table))], table["request_id"].type)
    named = pc.not_equal(pc.fill_null(table["request_id"], ""), "")
    request, _ = _codes(pc.if_else(named, table["request_id"], own), order)
    pairs = request.astype(np.int64) * len(item_keys) + item
    first = np.sort(np.unique(pairs, return_index=True)[1])
    return Positives(ts_ms[order][first], user[first], item[first], request[first], user_keys, item_keys)


def _codes(column: pa.ChunkedArray, order: Int64Array) -> tuple[Int32Array, NDArray[np.object_]]:
    encoded = pc.dictionary_encode(pc.take(column, order).combine_chunks())
    return encoded.indices.to_numpy().astype(np.int32), encoded.dictionary.to_numpy(zero_copy_only=False)


def read_targets(path: Path, positives: Positives, start_ms: int) -> Int64Array:
    """Distinct rows of the column `row`: a list of targets, or the predictions.parquet of a backtest.

    Raises:
        ValueError: a row is not a positive, or lies before the start.
    """
    rows = np.unique(pq.read_table(path, columns=["row"])["row"].to_numpy()).astype(np.int64)
    first = positives.before(start_ms)
    if len(rows) and (rows[0] < first or rows[-1] >= len(positives)):
        raise ValueError(
            f"{path}: rows {rows[0]}..{rows[-1]}, expected {first}..{len(positives) - 1} (positives since "
            f"{start_ms}); was the file made from the same events, kinds and start?"
        )
    return rows
