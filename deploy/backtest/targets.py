"""What is to be predicted: the positives of a table, one target per (request, item), and which are asked.

Protocol: the positive kinds, by event time and then in file order, the first of each (request_id, item_id),
numbered from 0 over the whole table; an empty request_id makes its row a request of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deploy.event_ids import content_hash
from models.arrays import Int32Array, Int64Array
from models.native import compiled


@dataclass(frozen=True)
class History:
    """What n users did before, oldest first.

    offsets: int64[n+1] into targets int64[flat], target numbers, and items int32[flat], item codes with
    repeats.
    """

    offsets: Int64Array
    targets: Int64Array
    items: Int32Array


@dataclass(frozen=True)
class Targets:
    """All N targets; row n is number n.

    ts_ms: int64[N]; asked_ms: int64[N] when its request began: the earliest event of that request, of any
    kind; user, item, request: int32 / int32 / int64[N] codes. user_keys, item_keys: key text by
    code, in order of first appearance in the table, so that events to come change no code.
    """

    ts_ms: Int64Array
    asked_ms: Int64Array
    user: Int32Array
    item: Int32Array
    request: Int64Array
    user_keys: pa.Array
    item_keys: pa.Array

    def __len__(self) -> int:
        return len(self.ts_ms)

    def sampled(self, start_ms: int, end_ms: int, size: int, seed: int) -> Int64Array:
        """At most `size` rows with start_ms <= ts_ms < end_ms, ascending: those of the smallest hashes.

        The hash is one of (user, time, item) and the seed. So a cut of the table keeps every row that is
        left and was chosen before (others may join). Targets without a user or an item are never chosen.
        """
        first, last = np.searchsorted(self.ts_ms, [start_ms, end_ms])
        rows: Int64Array = np.arange(first, last, dtype=np.int64)
        named = np.array(pc.not_equal(self.user_keys, ""))[self.user[rows]]
        named &= np.array(pc.not_equal(self.item_keys, ""))[self.item[rows]]
        rows = rows[named]
        if len(rows) <= size:
            return rows
        columns = [
            self.user_keys.take(pa.array(self.user[rows])),
            pa.array(self.ts_ms[rows]),
            self.item_keys.take(pa.array(self.item[rows])),
        ]
        order = np.argsort(content_hash(columns, seed), kind="stable")
        chosen: Int64Array = np.sort(rows[order[:size]])
        return chosen

    def before(self, rows: Int64Array) -> History:
        """What each row's user did before its moment: at an earlier event time and in another request."""
        order, starts = self._by_user
        arguments = (rows, self.ts_ms, self.user, self.request, order, starts)
        offsets = np.zeros(len(rows) + 1, np.int64)
        _history(*arguments, offsets, np.empty(0, np.int64))
        earlier = np.empty(offsets[-1], np.int64)
        _history(*arguments, offsets, earlier)
        return History(offsets, earlier, self.item[earlier])

    @cached_property
    def first_ms(self) -> Int64Array:
        """Event time of every item's first target, int64[items]; the greatest there is for one without."""
        first = np.full(len(self.item_keys), np.iinfo(np.int64).max)
        np.minimum.at(first, self.item, self.ts_ms)
        return first

    @cached_property
    def _by_user(self) -> tuple[Int64Array, Int64Array]:
        order = np.argsort(self.user, kind="stable")
        starts = np.searchsorted(self.user[order], np.arange(len(self.user_keys) + 1))
        return order.astype(np.int64), starts.astype(np.int64)


def targets_of(events: pa.Table, kinds: Sequence[str]) -> Targets:
    """Targets among events in canonical order (columns ts_ms, user_id, item_id, kind, request_id)."""
    users, items = (_codes(events[name]) for name in ("user_id", "item_id"))
    chosen = np.flatnonzero(pc.is_in(events["kind"], pa.array(list(kinds), pa.string())).to_numpy())
    every_ms = np.array(events["ts_ms"], np.int64)
    ts_ms = every_ms[chosen]
    requests = events["request_id"].combine_chunks().dictionary_encode()
    codes = np.array(requests.indices, np.int64)
    begin_ms = np.full(len(requests.dictionary), np.iinfo(np.int64).max)
    np.minimum.at(begin_ms, codes, every_ms)
    request = codes[chosen]
    alone = np.array(pc.equal(requests.dictionary, ""), bool)[request]
    asked_ms = np.where(alone, ts_ms, begin_ms[request])
    request[alone] = len(requests.dictionary) + np.flatnonzero(alone)
    item = users[0][:0] if not len(chosen) else items[0][chosen]
    _, first = np.unique(request * (len(items[1]) + 1) + item, return_index=True)
    first.sort()
    user = users[0][chosen]
    return Targets(
        ts_ms[first], asked_ms[first], user[first], item[first], request[first], users[1], items[1]
    )


def _codes(column: pa.ChunkedArray) -> tuple[Int32Array, pa.Array]:
    encoded = column.combine_chunks().dictionary_encode()
    return np.array(encoded.indices, np.int32), encoded.dictionary


@compiled
def _history(
    rows: Int64Array, ts_ms: Int64Array, user: Int32Array, request: Int64Array,
    order: Int64Array, starts: Int64Array, offsets: Int64Array, earlier: Int64Array,
) -> None:  # fmt: skip
    """Fill offsets; with room in `earlier`, fill that too."""
    filled = 0
    for n in range(len(rows)):
        row = rows[n]
        for at in range(starts[user[row]], starts[user[row] + 1]):
            other = order[at]
            if other >= row or ts_ms[other] >= ts_ms[row]:
                break
            if request[other] != request[row]:
                if len(earlier):
                    earlier[filled] = other
                filled += 1
        offsets[n + 1] = filled
