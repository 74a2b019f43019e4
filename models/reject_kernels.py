"""Compiled passes over the pool of rejects, which is sorted by (group, time); a group is 2 * user + stage."""

import numpy as np

from models.arrays import Index, Int32Array, Int64Array
from models.native import compiled

_EVER = -(2**63)


@compiled
def merge(
    group: Int64Array, ts_ms: Int64Array, new_group: Int64Array, new_ts_ms: Int64Array, order: Int64Array
) -> None:
    """order: places of both sorted runs, the second counted on from the first, in (group, time) order."""
    n, old, new = len(group), 0, 0
    for at in range(len(order)):
        if new == len(new_group):
            take_old = True
        elif old == n:
            take_old = False
        elif group[old] != new_group[new]:
            take_old = group[old] < new_group[new]
        else:
            take_old = ts_ms[old] <= new_ts_ms[new]
        if take_old:
            order[at] = old
            old += 1
        else:
            order[at] = n + new
            new += 1


@compiled
def _place(group: Int64Array, ts_ms: Int64Array, wanted: Index, ts: Index) -> Index:
    """First place at or after (wanted, ts)."""
    low, high = 0, len(group)
    while low < high:
        middle = (low + high) // 2
        if group[middle] < wanted or (group[middle] == wanted and ts_ms[middle] < ts):
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def _uniform(key: Index, salt: Index, draw: Index) -> float:
    """In [0, 1), a pure function of its arguments (splitmix64)."""
    x = np.uint64(key) + np.uint64(salt + 1) * np.uint64(0x9E3779B97F4A7C15)
    x += np.uint64(draw + 1) * np.uint64(0xD1B54A32D192ED03)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return float((x ^ (x >> np.uint64(31))) >> np.uint64(11)) / 9007199254740992.0


@compiled
def draw(
    group: Int64Array,
    ts_ms: Int64Array,
    items: Int32Array,
    user: Int64Array,
    before_ms: Int64Array,
    keys: Int64Array,
    salt: Index,
    harder_share: float,
    drawn: Int64Array,
) -> None:
    """drawn[row]: rejects of the row's user before its moment, as HardNegatives.draw() says."""
    n = drawn.shape[1]
    picked = np.empty(n, np.int64)
    for row in range(len(user)):
        if user[row] < 0:
            continue
        start = np.empty(2, np.int64)
        size = np.empty(2, np.int64)
        for stage in range(2):
            start[stage] = _place(group, ts_ms, 2 * user[row] + stage, _EVER)
            size[stage] = _place(group, ts_ms, 2 * user[row] + stage, before_ms[row]) - start[stage]
        harder = min(int(n * harder_share + _uniform(keys[row], salt, 0)), n, size[1])
        hard = min(n - harder, size[0])
        harder = min(n - hard, size[1])
        at = 0
        for stage in range(2):
            wanted = hard if stage == 0 else harder
            first = at
            # Floyd's draw of `wanted` out of size[stage] places without replacement.
            for last in range(size[stage] - wanted, size[stage]):
                place = int(_uniform(keys[row], salt, 1 + at) * (last + 1))
                for other in range(first, at):
                    if picked[other] == place:
                        place = last
                        break
                picked[at] = place
                drawn[row, at] = items[start[stage] + place]
                at += 1
