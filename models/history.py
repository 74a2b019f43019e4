"""Recent history of every user while training: what had happened before each event, in one compiled pass."""

from __future__ import annotations

import numpy as np

from models.arrays import BoolArray, Int32Array, Int64Array, Tensors
from models.native import compiled


@compiled
def _read(
    ts: int,
    request: int,
    items: Int32Array,
    times: Int64Array,
    requests: Int64Array,
    length: int,
    out_item: Int32Array,
    out_age: Int32Array,
) -> None:
    place = len(out_item) - 1
    at = length - 1
    while at >= 0 and place >= 0:
        if times[at] < ts and requests[at] != request:
            out_item[place] = items[at]
            out_age[place] = min((ts - times[at]) // 1000, 2147483647)
            place -= 1
        at -= 1


@compiled
def _push(
    item: int, ts: int, request: int, items: Int32Array, times: Int64Array, requests: Int64Array, length: int
) -> int:
    """New length; -1 when the same (request, item) is already there."""
    for at in range(length - 1, -1, -1):
        if requests[at] == request and items[at] == item:
            return -1
    capacity = len(items)
    place = length
    while place > 0 and times[place - 1] > ts:
        place -= 1
    if length == capacity:
        if place == 0:
            return length  # older than everything kept
        place -= 1
        for at in range(place):
            items[at], times[at], requests[at] = items[at + 1], times[at + 1], requests[at + 1]
    else:
        for at in range(length, place, -1):
            items[at], times[at], requests[at] = items[at - 1], times[at - 1], requests[at - 1]
        length += 1
    items[place], times[place], requests[place] = item, ts, request
    return length


@compiled
def _observe_and_read(
    user: Int32Array,
    item: Int32Array,
    ts: Int64Array,
    request: Int64Array,
    lengths: Int32Array,
    items: Int32Array,
    times: Int64Array,
    requests: Int64Array,
    out_item: Int32Array,
    out_age: Int32Array,
    first: BoolArray,
) -> None:
    start = 0
    while start < len(user):
        end = start
        while end < len(user) and ts[end] == ts[start]:
            end += 1
        if out_item.shape[1] > 0:
            for i in range(start, end):
                u = user[i]
                _read(ts[i], request[i], items[u], times[u], requests[u], lengths[u], out_item[i], out_age[i])
        for i in range(start, end):
            u = user[i]
            length = _push(item[i], ts[i], request[i], items[u], times[u], requests[u], lengths[u])
            first[i] = length >= 0
            if length >= 0:
                lengths[u] = length
        start = end


@compiled
def _drop_items(
    gone: BoolArray, lengths: Int32Array, items: Int32Array, times: Int64Array, requests: Int64Array
) -> None:
    for u in range(len(lengths)):
        kept = 0
        for at in range(lengths[u]):
            if not gone[items[u, at]]:
                items[u, kept], times[u, kept], requests[u, kept] = (
                    items[u, at],
                    times[u, at],
                    requests[u, at],
                )
                kept += 1
        lengths[u] = kept


class HistoryTable:
    """Per user entry the newest `capacity` (item entry, ts_ms, request hash), ordered by ts_ms, stable.

    Capacity is larger than the length that is read, because a reader skips its own request and its own
    instant.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._lengths: Int32Array = np.zeros(0, np.int32)
        self._items: Int32Array = np.zeros((0, capacity), np.int32)
        self._times: Int64Array = np.zeros((0, capacity), np.int64)
        self._requests: Int64Array = np.zeros((0, capacity), np.int64)

    def observe_and_read(
        self, user: Int32Array, item: Int32Array, ts_ms: Int64Array, request: Int64Array, length: int
    ) -> tuple[Int32Array, Int32Array, BoolArray]:
        """Take in N events in canonical order and read, for each, what its user had done before.

        user, item: int32[N] entries; ts_ms: int64[N]; request: int64[N] hash, unique where there is no
        request.
        Returns item entries int32[N, length] (newest last, -1 = none), their ages in seconds int32[N,
        length], and first bool[N]:
        False where the same (request, item) was already in the history. Before = earlier ts_ms and another
        request; events of one instant are all read before any is pushed. length 0 reads nothing.
        """
        n = len(user)
        if n:
            self._reserve(int(user.max()) + 1)
        out_item = np.full((n, length), -1, np.int32)
        out_age = np.zeros((n, length), np.int32)
        first = np.empty(n, np.bool_)
        _observe_and_read(
            user, item, ts_ms, request,
            self._lengths, self._items, self._times, self._requests, out_item, out_age, first,
        )  # fmt: skip
        return out_item, out_age, first

    def drop_users(self, entries: Int64Array) -> None:
        """Forget the histories of removed users."""
        self._lengths[entries[entries < len(self._lengths)]] = 0

    def drop_items(self, entries: Int64Array, item_entries: int) -> None:
        """Take removed items out of every history; item_entries = one more than the largest item entry."""
        gone = np.zeros(item_entries, np.bool_)
        gone[entries] = True
        _drop_items(gone, self._lengths, self._items, self._times, self._requests)

    def state(self) -> Tensors:
        """Histories back to back, without the unused places."""
        used = np.arange(self.capacity)[None, :] < self._lengths[:, None]
        return {
            "capacity": np.array([self.capacity], np.int64),
            "lengths": self._lengths.copy(),
            "items": self._items[used],
            "ts_ms": self._times[used],
            "requests": self._requests[used],
        }

    @classmethod
    def from_state(cls, state: Tensors) -> HistoryTable:
        """The table that state() described."""
        table = cls(int(state["capacity"][0]))
        lengths = np.array(state["lengths"], np.int32)
        table._grow(len(lengths))
        table._lengths[:] = lengths
        used = np.arange(table.capacity)[None, :] < lengths[:, None]
        table._items[used] = state["items"]
        table._times[used] = state["ts_ms"]
        table._requests[used] = state["requests"]
        return table

    def _reserve(self, users: int) -> None:
        """Exactly `users` histories are kept, so that state() is a function of the events; arrays double."""
        have = len(self._lengths)
        if users <= have:
            return
        base = self._items.base if self._items.base is not None else self._items
        if users <= len(base):  # room is left behind the views
            self._view(users)
        else:
            lengths, items, times, requests = self._lengths, self._items, self._times, self._requests
            self._grow(max(users, 2 * have))
            self._lengths[:have], self._items[:have] = lengths, items
            self._times[:have], self._requests[:have] = times, requests
            self._view(users)

    def _grow(self, users: int) -> None:
        self._all = (
            np.zeros(users, np.int32),
            np.zeros((users, self.capacity), np.int32),
            np.zeros((users, self.capacity), np.int64),
            np.zeros((users, self.capacity), np.int64),
        )
        self._view(users)

    def _view(self, users: int) -> None:
        lengths, items, times, requests = self._all
        self._lengths, self._items = lengths[:users], items[:users]
        self._times, self._requests = times[:users], requests[:users]
