"""Append-only history of every user while training, read as of any moment."""

from __future__ import annotations

import numpy as np

from models.arrays import BoolArray, Float32Array, Index, Int32Array, Int64Array, Tensors
from models.entry_lists import EntryLists, end_before
from models.history_kernels import bags, holds_request
from models.native import compiled, prefetch
from models.own_items import OwnItems, own_of_lists
from models.pooling import decay_per_s

_AHEAD = 8
_ASKED = 64
"""Entries that are asked for ahead; those before them follow in order, which processors see by themselves."""
NEAR = 512
"""Entries on either side of an event's place that are searched for the same (request, item)."""


@compiled
def _is_there(
    item: int,
    request: int,
    place: Index,
    start: Index,
    end: Index,
    items: Int32Array,
    requests: Int64Array,
    near: int,
) -> bool:
    if not holds_request(requests, max(start, place - near), min(end, place + near), request):
        return False
    for at in range(place - 1, max(start, place - near) - 1, -1):
        if requests[at] == request and items[at] == item:
            return True
    for at in range(place, min(end, place + near)):  # noqa: SIM110 - compiled: a loop, not a generator
        if requests[at] == request and items[at] == item:
            return True
    return False


@compiled
def _observe(
    user: Int64Array,
    item: Int32Array,
    ts: Int64Array,
    request: Int64Array,
    starts: Int64Array,
    lengths: Int64Array,
    items: Int32Array,
    times: Int64Array,
    requests: Int64Array,
    near: int,
    first: BoolArray,
) -> None:
    """Users lie all over the memory: their newest entries are asked for some users ahead."""
    for i in range(len(user)):
        if i + 2 * _AHEAD < len(user):
            prefetch(starts, user[i + 2 * _AHEAD])
            prefetch(lengths, user[i + 2 * _AHEAD])
            ahead = user[i + _AHEAD]
            end = starts[ahead] + lengths[ahead]
            prefetch(items, end)
            prefetch(times, end)
            for at in range(max(starts[ahead], end - _ASKED), end, 8):
                prefetch(requests, at)
        start = starts[user[i]]
        end = start + lengths[user[i]]
        place = end
        if end > start and times[end - 1] > ts[i]:  # late
            place = end_before(times, start, end, ts[i] + 1)
        first[i] = not _is_there(item[i], request[i], place, start, end, items, requests, near)
        if first[i]:
            for at in range(end, place, -1):
                items[at], times[at], requests[at] = items[at - 1], times[at - 1], requests[at - 1]
            items[place], times[place], requests[place] = item[i], ts[i], request[i]
            lengths[user[i]] += 1


@compiled
def _places(
    user: Int64Array,
    ts: Int64Array,
    request: Int64Array,
    starts: Int64Array,
    lengths: Int64Array,
    times: Int64Array,
    requests: Int64Array,
    places: Int64Array,
) -> None:
    """places[i] = arena places of the newest entries before moment i, newest last; -1 = none."""
    for i in range(len(user)):
        if user[i] < 0 or user[i] >= len(lengths):
            continue
        start = starts[user[i]]
        at = end_before(times, start, start + lengths[user[i]], ts[i]) - 1
        column = places.shape[1] - 1
        while at >= start and column >= 0:
            if requests[at] != request[i]:
                places[i, column] = at
                column -= 1
            at -= 1


@compiled
def _read(
    ts: Int64Array,
    places: Int64Array,
    items: Int32Array,
    times: Int64Array,
    out_item: Int32Array,
    out_age: Int32Array,
) -> None:
    for i in range(places.shape[0]):
        for column in range(places.shape[1]):
            at = places[i, column]
            if at >= 0:
                out_item[i, column] = items[at]
                out_age[i, column] = min((ts[i] - times[at]) // 1000, 2147483647)


@compiled
def _drop_items(
    gone: BoolArray,
    starts: Int64Array,
    lengths: Int64Array,
    items: Int32Array,
    times: Int64Array,
    requests: Int64Array,
) -> None:
    for user in range(len(lengths)):
        start = kept = starts[user]
        for at in range(start, start + lengths[user]):
            if not gone[items[at]]:
                items[kept], times[kept], requests[kept] = items[at], times[at], requests[at]
                kept += 1
        lengths[user] = kept - start


class HistoryTable:
    """Per user entry a log of (item entry, ts_ms, request hash), ordered by ts_ms, stable.

    capacity: how many entries per user, the newest, survive trim(); nothing is dropped in between. It should
    exceed the length that is read, because a reader skips its own request, its own instant and everything
    later.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 0:
            raise ValueError(f"history: capacity must not be negative, got {capacity}")
        self.capacity = capacity
        self._lists = EntryLists(
            items=np.empty(0, np.int32), ts_ms=np.empty(0, np.int64), requests=np.empty(0, np.int64)
        )

    def observe(
        self, user: Int32Array, item: Int32Array, ts_ms: Int64Array, request: Int64Array
    ) -> BoolArray:
        """Take in N events; late ones are inserted at their time, behind those of the same instant.

        user, item: int32[N] entries; ts_ms: int64[N]; request: int64[N] hash, unique where there is no
        request. Returns first bool[N]: False where the same (request, item) is already among the NEAR entries
        before or the NEAR after the event's place in its user's log (the events of one request lie close
        together; exact for every user of at most NEAR entries); such an event is not added. ValueError for a
        negative entry.
        """
        if len(user) and min(user.min(), item.min()) < 0:
            raise ValueError(
                f"history: entries must not be negative, got user {user.min()} and item {item.min()}; "
                "observe keys in their ID tables before their events"
            )
        owner = np.ascontiguousarray(user, np.int64)
        self._lists.make_room(owner)
        first = np.empty(len(owner), np.bool_)
        _observe(
            owner,
            np.ascontiguousarray(item, np.int32),
            np.ascontiguousarray(ts_ms, np.int64),
            np.ascontiguousarray(request, np.int64),
            *self._arrays(),
            NEAR,
            first,
        )
        return first

    def read(
        self, user: Int32Array, ts_ms: Int64Array, request: Int64Array, length: int
    ) -> tuple[Int32Array, Int32Array]:
        """The newest `length` entries before each of N moments: earlier ts and another request.

        Returns item entries int32[N, length] (newest last, -1 = none) and their ages in whole seconds
        int32[N, length]. Reads only; the answer does not depend on events at or after the moment, but for
        what trim() took away for them. An unknown user (also -1) has no history.
        """
        places = self._before(user, ts_ms, request, length)
        items = np.full(places.shape, -1, np.int32)
        age_s = np.zeros(places.shape, np.int32)
        columns = self._lists.columns
        _read(np.ascontiguousarray(ts_ms, np.int64), places, columns["items"], columns["ts_ms"], items, age_s)
        return items, age_s

    def bags(
        self,
        user: Int32Array,
        ts_ms: Int64Array,
        request: Int64Array,
        length: int,
        half_life_days: float,
        row: Int32Array,
    ) -> tuple[Int64Array, Int64Array, Float32Array]:
        """What read() finds as weighted bags, as models.pooling.history_bags() gives them, each item as its
        row int32[item entries]: rows int64[n], offsets int64[N+1], weights float32[n].
        """
        most = len(user) * length
        rows, weights = np.empty(most, np.int64), np.empty(most, np.float32)
        offsets = np.zeros(len(user) + 1, np.int64)
        bags(
            np.ascontiguousarray(user, np.int64),
            np.ascontiguousarray(ts_ms, np.int64),
            np.ascontiguousarray(request, np.int64),
            length, decay_per_s(half_life_days), row, *self._arrays(),
            rows, offsets, weights,
        )  # fmt: skip
        n = int(offsets[-1])
        return rows[:n], offsets, weights[:n]

    def own(self, user: Int32Array, ts_ms: Int64Array, request: Int64Array, length: int) -> OwnItems:
        """The distinct items among the newest `length` entries before each of N moments. Reads only."""
        places = self._before(user, ts_ms, request, length)
        known = places >= 0
        flat = places[known]
        offsets = np.zeros(len(places) + 1, np.int64)
        np.cumsum(known.sum(axis=1), out=offsets[1:])
        columns = self._lists.columns
        return own_of_lists(offsets, columns["items"][flat], columns["ts_ms"][flat], ts_ms)

    def trim(self) -> None:
        """Forget all but the newest `capacity` entries of every user; wins back unused memory."""
        self._lists.keep_newest(np.full(self._lists.owners, self.capacity, np.int64))

    def drop_users(self, entries: Int64Array) -> None:
        """Forget the histories of removed users."""
        self._lists.clear(entries)

    def drop_items(self, entries: Int64Array, item_entries: int) -> None:
        """Take removed items out of every history; item_entries = one more than the largest item entry."""
        gone = np.zeros(item_entries, np.bool_)
        gone[entries] = True
        _drop_items(gone, *self._arrays())

    def state(self) -> Tensors:
        """Histories back to back, without the unused places: a function of what is in them."""
        scalars: Tensors = {
            "capacity": np.array([self.capacity], np.int64),
            "lengths": self._lists.lengths.astype(np.int32),
        }
        return scalars | self._lists.flat()

    @classmethod
    def from_state(cls, state: Tensors) -> HistoryTable:
        """The table that state() described."""
        table = cls(int(state["capacity"][0]))
        columns = {name: np.asarray(state[name]) for name in ("items", "ts_ms", "requests")}
        table._lists = EntryLists.from_flat(state["lengths"], **columns)
        return table

    def _arrays(self) -> tuple[Int64Array, Int64Array, Int32Array, Int64Array, Int64Array]:
        columns = self._lists.columns
        return (
            self._lists.starts,
            self._lists.lengths,
            columns["items"],
            columns["ts_ms"],
            columns["requests"],
        )

    def _before(self, user: Int32Array, ts_ms: Int64Array, request: Int64Array, length: int) -> Int64Array:
        places = np.full((len(user), length), -1, np.int64)
        if length:
            starts, lengths, _, times, requests = self._arrays()
            _places(
                np.ascontiguousarray(user, np.int64),
                np.ascontiguousarray(ts_ms, np.int64),
                np.ascontiguousarray(request, np.int64),
                starts, lengths, times, requests, places,
            )  # fmt: skip
        return places
