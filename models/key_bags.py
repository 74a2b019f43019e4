"""Bags of keys, one bag per row: what a category feature of any kind gives, and its form in samples.

A bag is never empty: a row without a value has the one key "", whose row is the cold row, so that the mean
over a bag needs no special case. In samples a bag is a stretch of int32 slots, -1 where there is no key.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa

from models.arrays import Float32Array, Int32Array, Int64Array, UInt8Array
from models.native import compiled

_SPACE = np.uint8(32)


@dataclass(frozen=True)
class KeyBags:
    """The keys of one feature in N rows.

    keys: string[n], "" = no value; offsets: int64[N+1] of the bags, or None where every row has one key
    (n = N).
    """

    keys: pa.StringArray
    offsets: Int64Array | None = None

    def times(self, ts_ms: Int64Array) -> Int64Array:
        """int64[n]: for every key the time of its row, from ts_ms int64[N]."""
        return ts_ms if self.offsets is None else np.repeat(ts_ms, np.diff(self.offsets))

    def lists(self) -> list[list[str]]:
        """The keys of every row; [] where there is no value."""
        keys = self.keys.to_pylist()
        offsets = range(len(keys) + 1) if self.offsets is None else self.offsets.tolist()
        return [[key for key in keys[start:end] if key] for start, end in pairwise(offsets)]


@compiled
def copy_ranges(data: UInt8Array, ranges: Int64Array) -> tuple[UInt8Array, Int32Array]:
    """Stretches of data uint8[...] as (bytes, offsets int32[n+1]) of n keys.

    ranges: int64[n, 4] start, end, and start, end of a second part that follows after a space (-1, -1 =
    none).
    """
    offsets = np.zeros(len(ranges) + 1, np.int32)
    for key in range(len(ranges)):
        length = ranges[key, 1] - ranges[key, 0]
        if ranges[key, 2] >= 0:
            length += 1 + ranges[key, 3] - ranges[key, 2]
        offsets[key + 1] = offsets[key] + length
    copied = np.empty(offsets[-1], np.uint8)
    for key in range(len(ranges)):
        at = offsets[key]
        for place in range(ranges[key, 0], ranges[key, 1]):
            copied[at] = data[place]
            at += 1
        if ranges[key, 2] >= 0:
            copied[at] = _SPACE
            at += 1
            for place in range(ranges[key, 2], ranges[key, 3]):
                copied[at] = data[place]
                at += 1
    return copied, offsets


@compiled
def _fill_slots(entries: Int64Array, offsets: Int64Array, slots: Int32Array) -> None:
    for row in range(len(offsets) - 1):
        for at in range(offsets[row], offsets[row + 1]):
            slots[row, at - offsets[row]] = entries[at]


def bag_slots(entries: Int64Array, offsets: Int64Array, length: int) -> Int32Array:
    """int32[N, length] slots of the bags of entries int64[n], -1 behind the last; ValueError for a bag that
    is longer than that.
    """
    longest = int(np.diff(offsets).max(initial=0))
    if longest > length:
        raise ValueError(f"bag_slots: a bag of {longest} keys does not fit {length} slots")
    slots = np.full((len(offsets) - 1, length), -1, np.int32)
    _fill_slots(entries, offsets, slots)
    return slots


@compiled
def _slot_bags(slots: Int32Array, entries: Int64Array, offsets: Int64Array, weights: Float32Array) -> None:
    n = 0
    for row in range(slots.shape[0]):
        start = n
        for place in range(slots.shape[1]):
            if slots[row, place] >= 0:
                entries[n] = slots[row, place]
                n += 1
        if n == start:
            entries[n] = -1
            n += 1
        for at in range(start, n):
            weights[at] = 1.0 / (n - start)
        offsets[row + 1] = n


def slot_bags(slots: Int32Array) -> tuple[Int64Array, Int64Array, Float32Array]:
    """The bags of int32[N, length] slots: entries int64[n], offsets int64[N+1], weights float32[n] that
    make each bag's mean. A row without a value is the one entry -1 (the cold row).
    """
    size = max(slots.size, len(slots))
    entries, weights = np.empty(size, np.int64), np.empty(size, np.float32)
    offsets = np.zeros(len(slots) + 1, np.int64)
    _slot_bags(np.ascontiguousarray(slots), entries, offsets, weights)
    n = int(offsets[-1])
    return entries[:n], offsets, weights[:n]
