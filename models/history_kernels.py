"""Compiled reading of histories as bags of rows.

Users lie all over the memory, and so do the rows of their items. Both are asked for before they are read: a
user's newest entries some users ahead, and when these are there, the rows that they lead to.
"""

import numpy as np

from models.arrays import Float32Array, Index, Int32Array, Int64Array
from models.entry_lists import end_before
from models.native import compiled, compiled_into, prefetch

_AHEAD, _ROWS_AHEAD = 8, 4
"""Users that entries, and rows, are asked for ahead."""
_LATER = 8
"""Entries at a list's end that are looked at one by one, before the others are searched."""


@compiled_into
def _newest(user: Index, length: int, starts: Int64Array, lengths: Int64Array) -> tuple[Index, Index]:
    """(begin, end) of a user's newest entries, (0, 0) for nobody known."""
    if user < 0 or user >= len(lengths):
        return np.int64(0), np.int64(0)
    end = starts[user] + lengths[user]
    return max(starts[user], end - length), end


@compiled_into
def _end_before(times: Int64Array, start: Index, end: Index, ts: int) -> Index:
    """end_before(), which is mostly the end of the list, or not far from it."""
    for _ in range(_LATER):
        if end <= start or times[end - 1] < ts:
            return end
        end -= 1
    return end_before(times, start, end, ts)


@compiled_into
def holds_request(requests: Int64Array, begin: Index, end: Index, request: Index) -> bool:
    """Whether an entry is of the request; all are looked at, several at a time."""
    found = 0
    for at in range(np.uint64(begin), np.uint64(end)):
        found += requests[at] == request
    return found > 0


@compiled
def bags(
    user: Int64Array,
    ts: Int64Array,
    request: Int64Array,
    length: int,
    decay_per_s: float,
    row: Int32Array,
    starts: Int64Array,
    lengths: Int64Array,
    items: Int32Array,
    times: Int64Array,
    requests: Int64Array,
    rows: Int64Array,
    offsets: Int64Array,
    weights: Float32Array,
) -> None:
    """Fill in what history_bags() would make of HistoryTable.read(), each item as its row[item]."""
    n: Index = np.int64(0)
    for i in range(-_AHEAD, len(user)):
        if i + 2 * _AHEAD < len(user):
            prefetch(starts, user[i + 2 * _AHEAD])
            prefetch(lengths, user[i + 2 * _AHEAD])
        if i + _AHEAD < len(user):
            begin, end = _newest(user[i + _AHEAD], length, starts, lengths)
            for at in range(begin, end, 8):
                prefetch(requests, at)
                if decay_per_s > 0.0:
                    prefetch(times, at)
            for at in range(begin, end, 16):
                prefetch(items, at)
            prefetch(times, end - 1)
        if 0 <= i + _ROWS_AHEAD < len(user):
            begin, end = _newest(user[i + _ROWS_AHEAD], length, starts, lengths)
            for at in range(np.uint64(begin), np.uint64(end)):
                prefetch(row, items[at])
        if i < 0:
            continue
        first, total = n, 0.0
        if 0 <= user[i] < len(lengths):
            start = starts[user[i]]
            end = _end_before(times, start, start + lengths[user[i]], ts[i])
            begin = max(start, end - length)
            among = holds_request(requests, begin, end, request[i])
            if among:  # further back, for those that do not count
                begin, missing = end, length
                while missing > 0 and begin > start:
                    begin -= 1
                    missing -= requests[begin] != request[i]
            if decay_per_s == 0.0 and not among:
                for at in range(np.uint64(end - begin)):
                    item = items[np.uint64(begin) + at]
                    rows[np.uint64(first) + at] = row[np.uint64(item)]
                n += end - begin
            else:
                for at in range(begin, end):
                    if among and requests[at] == request[i]:
                        continue
                    rows[n] = row[items[at]]
                    if decay_per_s > 0.0:
                        age_s = min((ts[i] - times[at]) // 1000, 2147483647)
                        weight = np.exp(-decay_per_s * max(age_s, 0))
                        weights[n] = weight
                        total += weight
                    n += 1
        if total > 1e-30:
            for place in range(first, n):
                weights[place] /= total
        else:
            weights[first:n] = 1.0 / float(max(n - first, 1))
        offsets[i + 1] = n
