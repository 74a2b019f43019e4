"""Compiled parts of UserWindows: user u has items[start[u] : start[u] + length[u]] and room[u] places."""

from __future__ import annotations

from models.arrays import BoolArray, Float64Array, Int32Array, Int64Array
from models.native import compiled

FIRST_ROOM = 4


@compiled
def observe(
    user: Int64Array, item: Int64Array, ts: Int64Array, begin: int, capacity: int, used: int,
    start: Int64Array, length: Int32Array, room: Int32Array, items: Int32Array, times: Int64Array,
    moved_user: BoolArray, moved_item: BoolArray,
) -> tuple[int, int]:  # fmt: skip
    """Take in events from `begin` on until the arena is full: (place of the next event, arena used)."""
    for i in range(begin, len(user)):
        u = user[i]
        if length[u] == room[u] and room[u] < capacity:
            wanted = min(capacity, max(FIRST_ROOM, 2 * room[u]))
            if used + wanted > len(items):
                return i, used
            for at in range(length[u]):
                items[used + at] = items[start[u] + at]
                times[used + at] = times[start[u] + at]
            start[u], room[u] = used, wanted
            used += wanted
        first, end = start[u], start[u] + length[u]
        hole = end  # the place that becomes free; `end` = one is still free behind the window
        for at in range(first, end):
            if items[at] == item[i]:
                hole = at
                break
        if hole < end:
            if ts[i] <= times[hole]:
                continue
        elif length[u] == capacity:
            if ts[i] < times[first]:
                continue  # older than everything kept
            hole = first
            moved_item[items[first]] = True
        else:
            length[u] += 1
        while hole + 1 < end and times[hole + 1] <= ts[i]:
            items[hole], times[hole] = items[hole + 1], times[hole + 1]
            hole += 1
        while hole > first and times[hole - 1] > ts[i]:
            items[hole], times[hole] = items[hole - 1], times[hole - 1]
            hole -= 1
        items[hole], times[hole] = item[i], ts[i]
        moved_user[u] = True
    return len(user), used


@compiled
def drop_older(
    before: int, start: Int64Array, length: Int32Array, items: Int32Array, times: Int64Array,
    moved_user: BoolArray, moved_item: BoolArray,
) -> int:  # fmt: skip
    """Drop the entries before a time, which are the first ones of their windows; how many were dropped."""
    dropped = 0
    for u in range(len(length)):
        first, end = start[u], start[u] + length[u]
        kept = first
        while kept < end and times[kept] < before:
            moved_item[items[kept]] = True
            kept += 1
        if kept > first:
            for at in range(kept, end):
                items[first + at - kept], times[first + at - kept] = items[at], times[at]
            length[u] = end - kept
            moved_user[u] = True
            dropped += kept - first
    return dropped


@compiled
def mark_items(
    moved_user: BoolArray, start: Int64Array, length: Int32Array, items: Int32Array, marked: BoolArray
) -> None:
    """marked[i] = True of every item in the window of a moved user."""
    for u in range(len(length)):
        if moved_user[u]:
            for at in range(start[u], start[u] + length[u]):
                marked[items[at]] = True


@compiled
def count(
    half_life_ms: float, as_of: int, start: Int64Array, length: Int32Array, items: Int32Array,
    times: Int64Array, holders: Int64Array, weights: Float64Array,
) -> None:  # fmt: skip
    """Add up, per item, its holders and their decayed weights."""
    for u in range(len(length)):
        for at in range(start[u], start[u] + length[u]):
            holders[items[at]] += 1
            weights[items[at]] += 2.0 ** ((times[at] - as_of) / half_life_ms) if half_life_ms > 0.0 else 1.0


@compiled
def fill_holders(
    wanted: BoolArray, start: Int64Array, length: Int32Array, items: Int32Array, times: Int64Array,
    place: Int64Array, user: Int32Array, ts: Int64Array,
) -> None:  # fmt: skip
    """Write every wanted item's holders from place[item] on; place moves with them."""
    for u in range(len(length)):
        for at in range(start[u], start[u] + length[u]):
            i = items[at]
            if wanted[i]:
                user[place[i]], ts[place[i]] = u, times[at]
                place[i] += 1
