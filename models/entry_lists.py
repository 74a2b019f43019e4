"""Append-only lists of many owners in one arena: growing blocks of power-of-two capacity."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from models.arrays import Index, Int64Array, Tensors
from models.native import compiled


@compiled
def end_before(times: Int64Array, start: Index, end: Index, ts: int) -> Index:
    """First place in start..end whose time is at or after `ts`; times[start:end] ascend."""
    while start < end:
        middle = (start + end) // 2
        if times[middle] < ts:
            start = middle + 1
        else:
            end = middle
    return start


@compiled
def _capacity(entries: Index) -> Index:
    capacity = 1
    while capacity < entries:
        capacity *= 2
    return capacity if entries > 0 else 0


@compiled
def _make_room(
    owner: Int64Array,
    added: Int64Array,
    starts: Int64Array,
    lengths: Int64Array,
    capacities: Int64Array,
    used: int,
    moved: Int64Array,
) -> tuple[int, int]:
    """Blocks too small for one more entry per mention of their owner get a new place at the arena's end.

    moved[n] = (from, to, length). `added` is all zero before and after. Returns (number moved, arena used).
    """
    for at in range(len(owner)):
        added[owner[at]] += 1
    moves = 0
    for at in range(len(owner)):
        one = owner[at]
        needed = lengths[one] + added[one]
        added[one] = 0
        if needed > capacities[one]:
            moved[moves, 0], moved[moves, 1], moved[moves, 2] = starts[one], used, lengths[one]
            moves += 1
            starts[one] = used
            capacities[one] = _capacity(needed)
            used += capacities[one]
    return moves, used


@compiled
def _layout(lengths: Int64Array, starts: Int64Array, capacities: Int64Array) -> int:
    used = 0
    for one in range(len(lengths)):
        starts[one] = used
        capacities[one] = _capacity(lengths[one])
        used += capacities[one]
    return used


@compiled
def _copy(source: npt.NDArray[Any], target: npt.NDArray[Any], moved: Int64Array) -> None:
    for move in range(len(moved)):
        begin, to = moved[move, 0], moved[move, 1]
        for at in range(moved[move, 2]):
            target[to + at] = source[begin + at]


class EntryLists:
    """One list per owner 0..owners-1; an entry is one row of every column.

    starts, lengths: int64[owners]; columns: name -> array [arena] or [arena, width]. List of owner u =
    column[starts[u] : starts[u] + lengths[u]]. Appending costs O(1) amortised: a full block moves to a block
    twice as large; the room it leaves is won back by keep_newest().
    """

    def __init__(self, **columns: npt.NDArray[Any]) -> None:
        """columns: empty arrays of the columns' types (and widths)."""
        self.columns: Tensors = columns
        self.lengths: Int64Array = np.zeros(0, np.int64)
        self.starts: Int64Array = np.zeros(0, np.int64)
        self._capacities: Int64Array = np.zeros(0, np.int64)
        self._added: Int64Array = np.zeros(0, np.int64)
        self._used = 0

    @property
    def owners(self) -> int:
        """One more than the largest owner ever given room."""
        return len(self.lengths)

    def make_room(self, owner: Int64Array) -> None:
        """Room for one more entry per mention in owner int64[N] (not negative); lengths stay as they are."""
        if len(owner) == 0:
            return
        self._add_owners(int(owner.max()) + 1)
        moved = np.empty((len(owner), 3), np.int64)
        moves, used = _make_room(
            owner, self._added, self.starts, self.lengths, self._capacities, self._used, moved
        )
        for name, column in self.columns.items():
            room = column
            if used > len(column):
                room = np.empty((max(used, 2 * len(column)), *column.shape[1:]), column.dtype)
                room[: self._used] = column[: self._used]
                self.columns[name] = room
            _copy(room, room, moved[:moves])
        self._used = used

    def clear(self, owner: Int64Array) -> None:
        """Empty the lists of owners int64[n]; unknown ones are ignored."""
        self.lengths[owner[owner < self.owners]] = 0

    def keep_newest(self, kept: Int64Array) -> None:
        """Only the last kept[u] entries (int64[owners]) of every list stay. Compacts the arena."""
        lengths = np.minimum(kept, self.lengths)
        begins = self.starts + self.lengths - lengths
        columns, self.lengths = self.columns, lengths
        self._used = _layout(lengths, self.starts, self._capacities)
        moved = np.stack([begins, self.starts, lengths], axis=1)
        for name, column in columns.items():
            self.columns[name] = np.empty((self._used, *column.shape[1:]), column.dtype)
            _copy(column, self.columns[name], moved)

    def flat(self) -> Tensors:
        """Every column without its unused places, lists back to back in the owners' order."""
        ends = np.cumsum(self.lengths)
        moved = np.stack([self.starts, ends - self.lengths, self.lengths], axis=1)
        total = int(ends[-1]) if len(ends) else 0
        flat: Tensors = {}
        for name, column in self.columns.items():
            flat[name] = np.empty((total, *column.shape[1:]), column.dtype)
            _copy(column, flat[name], moved)
        return flat

    @classmethod
    def from_flat(cls, lengths: npt.NDArray[Any], **columns: npt.NDArray[Any]) -> EntryLists:
        """The lists of `lengths` entries each that flat() wrote; ValueError when a column does not fit."""
        total = int(lengths.sum())
        for name, column in columns.items():
            if len(column) != total:
                raise ValueError(
                    f"entry lists: lengths add up to {total} entries, but column {name} has {len(column)}; "
                    "the state is damaged, load an earlier one"
                )
        lists = cls(**columns)
        lists._add_owners(len(lengths))
        lists.lengths[:] = lengths
        lists.starts[:] = np.cumsum(lists.lengths) - lists.lengths
        lists.keep_newest(lists.lengths)
        return lists

    def _add_owners(self, owners: int) -> None:
        """Exactly `owners` lists are seen, so that state is a function of the entries; arrays double."""
        have = self.owners
        if owners <= have:
            return
        base = self.lengths.base
        if base is None or owners > len(base):
            room = max(owners, 2 * have)
            for name in ("lengths", "starts", "_capacities", "_added"):
                grown = np.zeros(room, np.int64)
                grown[:have] = getattr(self, name)
                setattr(self, name, grown[:owners])
        else:  # room is left behind the views
            for name in ("lengths", "starts", "_capacities", "_added"):
                setattr(self, name, getattr(self, name).base[:owners])
