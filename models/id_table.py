"""Collisionless table from keys to entries and rows: grows, admits, expires; vectorised over Arrow key
columns.

An **entry** is given at first sight and carries counters; a **row** (of an embedding table) only at
admission.
Row 0 is the shared cold row of every key that has none. Layout and probing: models/id_table_kernels.py.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from models import id_table_kernels as kernels
from models.arrays import Int32Array, Int64Array, Tensors, UInt8Array
from models.key_bytes import key_buffers, keys_from_buffers

_DAY_MS = 86_400_000


def _grown(array: np.ndarray, capacity: int, fill: int) -> np.ndarray:
    larger = np.full(capacity, fill, array.dtype)
    larger[: len(array)] = array
    return larger


class IdTable:
    """Keys -> entries (dense from 0) and rows (from 1; 0 = the cold row).

    admit_after: sightings within `admit_window_ms` before a key is given a row.
    """

    def __init__(self, admit_after: int = 1, admit_window_ms: int = 30 * _DAY_MS) -> None:
        self.admit_after = admit_after
        self.admit_window_ms = admit_window_ms
        self._slots: Int64Array = np.full((64, 2), -1, np.int64)
        self._arena: UInt8Array = np.empty(1024, np.uint8)
        self._arena_used = 0
        self._key_start: Int64Array = np.zeros(32, np.int64)
        self._key_length: Int32Array = np.full(32, -1, np.int32)  # -1 = a free entry
        self._last_seen: Int64Array = np.zeros(32, np.int64)
        self._count: Int64Array = np.zeros(32, np.int64)
        self._window_start: Int64Array = np.zeros(32, np.int64)
        self._window_count: Int32Array = np.zeros(32, np.int32)
        self._row: Int32Array = np.zeros(32, np.int32)  # steps look up rows by the ten thousand, all over it
        self._entries_used = 0
        self._next_row = 1
        self._free_entries: Int64Array = np.empty(0, np.int64)  # taken from the end
        self._free_rows: Int64Array = np.empty(0, np.int64)
        self._new_rows: list[Int64Array] = []

    @classmethod
    def of_unique(cls, keys: pa.Array | pa.ChunkedArray) -> IdTable:
        """A table whose entry of every key is its position. ValueError for an empty or repeated key."""
        table = cls()
        entries = table.observe(keys, np.zeros(len(keys), np.int64))
        wrong = np.flatnonzero(entries != np.arange(len(keys)))
        if len(wrong):
            raise ValueError(
                f"keys: row {wrong[0]} ({keys[int(wrong[0])].as_py()!r}) is empty or a repetition"
            )
        return table

    def copy(self) -> IdTable:
        """A table of its own with the same content."""
        return IdTable.from_state(self.state())

    def __len__(self) -> int:
        """Keys held."""
        return self._entries_used - len(self._free_entries)

    @property
    def entry_capacity(self) -> int:
        """One more than the largest entry ever given: the length of arrays indexed by entry."""
        return self._entries_used

    @property
    def row_capacity(self) -> int:
        """One more than the largest row ever given (row 0 counts)."""
        return self._next_row

    @property
    def entry_rows(self) -> Int32Array:
        """Row of every entry, int32[entry_capacity]; 0 = the cold row. A view: do not write."""
        return self._row[: self._entries_used]

    def lookup(self, keys: pa.Array | pa.ChunkedArray) -> Int64Array:
        """Entry of every key, int64[N]; -1 = unknown or empty. Never mutates."""
        data, offsets = key_buffers(keys)
        entries = np.empty(len(offsets) - 1, np.int64)
        kernels.lookup(data, offsets, self._slots, self._arena, self._key_start, self._key_length, entries)
        return entries

    def observe(self, keys: pa.Array | pa.ChunkedArray, ts_ms: Int64Array) -> Int64Array:
        """Entry of every key, int64[N], inserting unknown ones; "" stays -1. Counts each sighting at ts_ms
        int64[N].

        Raises ValueError where lengths differ.
        """
        data, offsets = key_buffers(keys)
        if len(ts_ms) != len(offsets) - 1:
            raise ValueError(f"observe: {len(offsets) - 1} keys but {len(ts_ms)} times")
        entries = np.empty(len(offsets) - 1, np.int64)
        kernels.lookup(data, offsets, self._slots, self._arena, self._key_start, self._key_length, entries)
        missing = entries < 0
        self._reserve(int(missing.sum()), int(np.diff(offsets)[missing].sum()))
        new_rows = np.empty(min(len(entries), self._entries_used + int(missing.sum())), np.int64)
        used = kernels.observe(
            data,
            offsets,
            np.ascontiguousarray(ts_ms, np.int64),
            self._slots,
            self._arena,
            self._key_start,
            self._key_length,
            self._last_seen,
            self._count,
            self._window_start,
            self._window_count,
            self._row,
            self._free_entries,
            self._free_rows,
            np.array([self._entries_used, self._arena_used, self._next_row], np.int64),
            self.admit_after,
            self.admit_window_ms,
            entries,
            new_rows,
        )
        self._entries_used, self._arena_used, self._next_row, free_entries, free_rows, given = map(int, used)
        self._free_entries = self._free_entries[:free_entries].copy()
        self._free_rows = self._free_rows[:free_rows].copy()
        if given:
            self._new_rows.append(new_rows[:given].copy())
        return entries

    def take_new_rows(self) -> Int64Array:
        """Rows given since the last call, in order of admission; the embedding table starts them."""
        rows = np.concatenate(self._new_rows) if self._new_rows else np.empty(0, np.int64)
        self._new_rows = []
        return rows

    def rows(self, entries: Int32Array | Int64Array) -> Int64Array:
        """Row of every entry, same shape, int64; 0 for -1 and for entries without a row."""
        rows = np.empty(entries.shape, np.int64)
        kernels.rows_of(entries.ravel(), self._row, rows.reshape(-1))
        return rows

    def keys_of(self, entries: Int32Array | Int64Array) -> pa.StringArray:
        """Key of every entry; "" for -1 and for free entries."""
        entries = np.ascontiguousarray(entries, np.int64)
        offsets = np.zeros(len(entries) + 1, np.int32)
        lengths = np.where(entries >= 0, np.maximum(self._key_length[np.maximum(entries, 0)], 0), 0)
        np.cumsum(lengths, out=offsets[1:])
        data = np.empty(int(offsets[-1]), np.uint8)
        kernels.copy_keys(entries, self._arena, self._key_start, offsets, data)
        return keys_from_buffers(data, offsets)

    def live_entries(self) -> Int64Array:
        """Entries that hold a key, ascending; int64[len(self)]."""
        return np.flatnonzero(self._key_length[: self._entries_used] >= 0)

    def counts(self, entries: Int64Array) -> Int64Array:
        """Sightings of every entry, int64[N]."""
        return self._count[entries]

    def last_seen_ms(self, entries: Int64Array) -> Int64Array:
        """Newest event time of every entry, int64[N]."""
        return self._last_seen[entries]

    def expire(self, before_ms: int) -> tuple[pa.StringArray, Int64Array, Int64Array]:
        """Remove keys last seen before `before_ms`: (keys, entries int64[n], their rows int64[n], 0 = had
        none).

        Entries and rows are free afterwards and will be given again: whoever holds them must let go of them.
        """
        live = self.live_entries()
        gone = live[self._last_seen[live] < before_ms]
        keys, rows = self.keys_of(gone), self._row[gone].astype(np.int64)
        if len(gone) == 0:
            return keys, gone, rows
        for array, value in (
            (self._key_length, -1),
            (self._row, 0),
            (self._count, 0),
            (self._window_count, 0),
        ):
            array[gone] = value
        self._last_seen[gone] = 0
        self._window_start[gone] = 0
        self._free_entries = np.concatenate([self._free_entries, gone[::-1]])
        self._free_rows = np.concatenate([self._free_rows, np.sort(rows[rows > 0])[::-1]])
        self._repack()
        return keys, gone, rows

    def state(self) -> Tensors:
        """Everything from_state() needs, as arrays."""
        used = self._entries_used
        entries = np.arange(used)
        keys = self.keys_of(entries)
        data, offsets = key_buffers(keys)
        return {
            "key_bytes": data[: int(offsets[-1])].copy(),
            "key_offsets": offsets.copy(),
            "last_seen_ms": self._last_seen[:used].copy(),
            "count": self._count[:used].copy(),
            "window_start_ms": self._window_start[:used].copy(),
            "window_count": self._window_count[:used].copy(),
            "row": self._row[:used].astype(np.int64),
            "free_entries": self._free_entries.copy(),
            "free_rows": self._free_rows.copy(),
            "scalars": np.array([self._next_row, self.admit_after, self.admit_window_ms], np.int64),
        }

    @classmethod
    def from_state(cls, state: Tensors) -> IdTable:
        """The table that state() described; KeyError for a missing array."""
        next_row, admit_after, admit_window_ms = (int(value) for value in state["scalars"])
        table = cls(admit_after, admit_window_ms)
        offsets = np.array(state["key_offsets"], np.int32)
        used = len(offsets) - 1
        capacity = max(32, used)
        table._arena = np.array(state["key_bytes"], np.uint8)
        table._arena_used = int(offsets[-1])
        table._key_start = _grown(offsets[:-1].astype(np.int64), capacity, 0)
        table._key_length = _grown(np.diff(offsets).astype(np.int32), capacity, -1)
        table._free_entries = np.array(state["free_entries"], np.int64)
        table._free_rows = np.array(state["free_rows"], np.int64)
        table._key_length[table._free_entries] = -1
        table._last_seen = _grown(np.array(state["last_seen_ms"], np.int64), capacity, 0)
        table._count = _grown(np.array(state["count"], np.int64), capacity, 0)
        table._window_start = _grown(np.array(state["window_start_ms"], np.int64), capacity, 0)
        table._window_count = _grown(np.array(state["window_count"], np.int32), capacity, 0)
        table._row = _grown(np.array(state["row"], np.int32), capacity, 0)
        table._entries_used = used
        table._next_row = next_row
        table._rebuild_slots(capacity)
        return table

    def _reserve(self, entries: int, key_bytes: int) -> None:
        """Room for so many more keys; arrays double, slots stay at most half full."""
        needed = self._entries_used + entries
        if needed > len(self._row):
            capacity = max(needed, 2 * len(self._row))
            self._key_start = _grown(self._key_start, capacity, 0)
            self._key_length = _grown(self._key_length, capacity, -1)
            self._last_seen = _grown(self._last_seen, capacity, 0)
            self._count = _grown(self._count, capacity, 0)
            self._window_start = _grown(self._window_start, capacity, 0)
            self._window_count = _grown(self._window_count, capacity, 0)
            self._row = _grown(self._row, capacity, 0)
        if self._arena_used + key_bytes > len(self._arena):
            self._arena = _grown(self._arena, max(self._arena_used + key_bytes, 2 * len(self._arena)), 0)
        if 2 * needed > len(self._slots):
            self._rebuild_slots(needed)

    def _rebuild_slots(self, capacity: int) -> None:
        size = 64
        while size < 2 * capacity:
            size *= 2
        self._slots = np.full((size, 2), -1, np.int64)
        kernels.fill_slots(self._slots, self._arena, self._key_start, self._key_length, self._entries_used)

    def _repack(self) -> None:
        """Close the gaps of removed keys in the arena and in the probe chains."""
        data, offsets = key_buffers(self.keys_of(np.arange(self._entries_used)))
        self._arena = np.array(data[: int(offsets[-1])], np.uint8)
        self._arena_used = len(self._arena)
        self._key_start[: self._entries_used] = offsets[:-1]
        self._rebuild_slots(self._entries_used)
