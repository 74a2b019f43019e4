"""The newest distinct items of every user: all that item-to-item similarities are computed from.

Blocks of one arena, a block per user, twice as large whenever it is full, until it holds `capacity` items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from models import user_window_kernels as kernels
from models.arrays import BoolArray, Float64Array, Int32Array, Int64Array, Tensors
from models.id_table import IdTable


@dataclass(frozen=True)
class Windows:
    """Plain arrays of all windows, for compiled code; views, do not write.

    start int64[U] and length int32[U] of every user's block in items int32[...] (item entries) and times
    int64[...] (ms), oldest first.
    """

    start: Int64Array
    length: Int32Array
    items: Int32Array
    times: Int64Array


@dataclass(frozen=True)
class Holders:
    """Users by item, as CSR over item entries: offsets int64[I+1]; user int32[n], ts int64[n] of their
    event; users ascending inside an item.
    """

    offsets: Int64Array
    user: Int32Array
    ts: Int64Array


class UserWindows:
    """Per user the newest `capacity` distinct items, each at its newest time.

    Events may come late: an item takes its place by time; of equal times the one observed later is newer.
    The content is a function of the sequence of events, however it was cut into calls.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.users, self.items = IdTable(), IdTable()
        self.newest_ms = 0
        self._start: Int64Array = np.zeros(0, np.int64)
        self._length: Int32Array = np.zeros(0, np.int32)
        self._room: Int32Array = np.zeros(0, np.int32)
        self._items: Int32Array = np.zeros(1024, np.int32)
        self._times: Int64Array = np.zeros(1024, np.int64)
        self._used = 0
        self._moved_user: BoolArray = np.zeros(0, np.bool_)
        self._moved_item: BoolArray = np.zeros(0, np.bool_)

    def observe(
        self, user_id: pa.Array | pa.ChunkedArray, item_id: pa.Array | pa.ChunkedArray, ts_ms: Int64Array
    ) -> None:
        """Take in events: key texts string[N] each, at ts_ms int64[N]; those without user or item count
        nothing.
        """
        if not len(ts_ms):
            return
        ts_ms = np.ascontiguousarray(ts_ms, np.int64)
        user, item = self.users.observe(user_id, ts_ms), self.items.observe(item_id, ts_ms)
        whole = (user >= 0) & (item >= 0)
        user, item, ts_ms = user[whole], item[whole], ts_ms[whole]
        if not len(ts_ms):
            return
        self.newest_ms = max(self.newest_ms, int(ts_ms.max()))
        self._reserve()
        done = 0
        while True:
            done, self._used = kernels.observe(
                user, item, ts_ms, done, self.capacity, self._used, self._start, self._length, self._room,
                self._items, self._times, self._moved_user, self._moved_item,
            )  # fmt: skip
            if done == len(user):
                return
            size = max(2 * len(self._items), self._used + self.capacity)
            self._items, self._times = _longer(self._items, size), _longer(self._times, size)

    def expire(self, before_ms: int) -> pa.StringArray:
        """Forget entries before `before_ms`, and users and items without any left; the items' keys."""
        dropped = kernels.drop_older(
            before_ms, self._start, self._length, self._items, self._times, self._moved_user, self._moved_item
        )
        _, users, _ = self.users.expire(before_ms)
        keys, items, _ = self.items.expire(before_ms)
        self._moved_user[users[users < len(self._moved_user)]] = False
        self._moved_item[items[items < len(self._moved_item)]] = False
        if dropped:
            self._pack()
        return keys

    def moved(self) -> Int64Array:
        """Items whose neighbours may have changed since settle(), ascending entries: those in the window of
        a user who did something, and those that left one.
        """
        marked = self._moved_item.copy()
        kernels.mark_items(self._moved_user, self._start, self._length, self._items, marked)
        return np.flatnonzero(marked)

    def settle(self) -> None:
        """From now on moved() counts anew."""
        self._moved_user[:] = False
        self._moved_item[:] = False

    def windows(self) -> Windows:
        """All windows."""
        return Windows(self._start, self._length, self._items, self._times)

    def counts(self, half_life_ms: float) -> tuple[Int64Array, Float64Array]:
        """Per item entry: users who hold it int64[I], and their sum of 2^-(age / half_life_ms) float64[I]
        (0 = no decay), age being that of the user's event beside the newest event seen.
        """
        entries = self.items.entry_capacity
        holders, weights = np.zeros(entries, np.int64), np.zeros(entries, np.float64)
        kernels.count(
            half_life_ms,
            self.newest_ms,
            self._start,
            self._length,
            self._items,
            self._times,
            holders,
            weights,
        )
        return holders, weights

    def holders(self, wanted: Int64Array, held: Int64Array) -> Holders:
        """Who holds the items `wanted` int64[n]; held int64[I] as counts() says."""
        flags = np.zeros(len(held), np.bool_)
        flags[wanted] = True
        offsets = np.zeros(len(held) + 1, np.int64)
        np.cumsum(np.where(flags, held, 0), out=offsets[1:])
        user, ts = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.int64)
        kernels.fill_holders(
            flags, self._start, self._length, self._items, self._times, offsets[:-1].copy(), user, ts
        )
        return Holders(offsets, user, ts)

    def state(self) -> Tensors:
        """Windows back to back, with the IDs; what moved() says is not part of it."""
        flat = self._flat()
        tables = {"users": self.users.state(), "items": self.items.state()}
        return {f"{name}.{key}": array for name, table in tables.items() for key, array in table.items()} | {
            "length": self._length.copy(),
            "item": self._items[flat],
            "ts_ms": self._times[flat],
            "newest_ms": np.array([self.newest_ms], np.int64),
        }

    @classmethod
    def from_state(cls, state: Tensors, capacity: int) -> UserWindows:
        """The windows that state() described, cut to the newest `capacity` items where that is less."""
        windows = cls(capacity)
        for name in ("users", "items"):
            prefix = f"{name}."
            part = {key.removeprefix(prefix): array for key, array in state.items() if key.startswith(prefix)}
            setattr(windows, name, IdTable.from_state(part))
        windows.newest_ms = int(state["newest_ms"][0])
        length = np.array(state["length"], np.int32)
        windows._start = np.cumsum(length, dtype=np.int64) - length
        windows._items, windows._times = np.array(state["item"]), np.array(state["ts_ms"])
        windows._start += np.maximum(length - capacity, 0)
        windows._length = np.minimum(length, capacity).astype(np.int32)
        windows._pack()
        windows._moved_user = np.zeros(len(length), np.bool_)
        windows._reserve()
        return windows

    def _flat(self) -> Int64Array:
        """Places of all entries in the arena, window after window."""
        before = np.cumsum(self._length, dtype=np.int64) - self._length
        return np.repeat(self._start - before, self._length) + np.arange(int(self._length.sum()))

    def _pack(self) -> None:
        """Close the gaps of the arena; every block is then as large as its window."""
        flat = self._flat()
        self._items, self._times = self._items[flat], self._times[flat]
        self._start = np.cumsum(self._length, dtype=np.int64) - self._length
        self._room = self._length.copy()
        self._used = len(flat)

    def _reserve(self) -> None:
        """A place for every user and item entry; arrays by user are exact, so that state() is too."""
        users, items = self.users.entry_capacity, self.items.entry_capacity
        if users > len(self._length):
            for name in ("_start", "_length", "_room", "_moved_user"):
                setattr(self, name, _longer(getattr(self, name), users))
        if items > len(self._moved_item):
            self._moved_item = _longer(self._moved_item, items)


def _longer(array: np.ndarray, size: int) -> np.ndarray:
    longer = np.zeros(size, array.dtype)
    longer[: len(array)] = array
    return longer
