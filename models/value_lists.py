"""Columns with several values a row (lists, or texts with a separator) as bags of keys."""

from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.arrays import Index, Int32Array, Int64Array, UInt8Array
from models.key_bags import KeyBags, copy_ranges
from models.key_bytes import key_array, key_buffers, keys_from_buffers
from models.native import compiled


@compiled
def _trimmed(data: UInt8Array, start: Index, end: Index) -> tuple[Index, Index]:
    while start < end and data[start] <= 32:
        start += 1
    while start < end and data[end - 1] <= 32:
        end -= 1
    return start, end


@compiled
def _separated_at(data: UInt8Array, at: Index, end: Index, separator: UInt8Array) -> bool:
    if at + len(separator) > end:
        return False
    for place in range(len(separator)):  # noqa: SIM110 - compiled: a loop, not a generator
        if data[at + place] != separator[place]:
            return False
    return True


@compiled
def _split(
    data: UInt8Array, offsets: Int32Array, separator: UInt8Array, length: int
) -> tuple[UInt8Array, Int32Array, Int64Array]:
    rows = len(offsets) - 1
    most = 0
    for row in range(rows):
        most += max(1, min(length, offsets[row + 1] - offsets[row]))
    ranges = np.full((most, 4), -1, np.int64)
    bags = np.zeros(rows + 1, np.int64)
    n = 0
    for row in range(rows):
        first = n
        begin = at = np.int64(offsets[row])
        end = np.int64(offsets[row + 1])
        while at <= end and n - first < length:
            if at == end or _separated_at(data, at, end, separator):
                start, stop = _trimmed(data, begin, at)
                if start < stop:
                    ranges[n, 0], ranges[n, 1] = start, stop
                    n += 1
                at += max(1, len(separator))
                begin = at
            else:
                at += 1
        if n == first:
            ranges[n, 0], ranges[n, 1] = 0, 0
            n += 1
        bags[row + 1] = n
    keys, key_offsets = copy_ranges(data, ranges[:n])
    return keys, key_offsets, bags


@compiled
def _listed(
    data: UInt8Array, offsets: Int32Array, lists: Int64Array, length: int
) -> tuple[UInt8Array, Int32Array, Int64Array]:
    rows = len(lists) - 1
    ranges = np.full((rows + len(offsets) - 1, 4), -1, np.int64)
    bags = np.zeros(rows + 1, np.int64)
    n = 0
    for row in range(rows):
        first = n
        for value in range(lists[row], lists[row + 1]):
            start, stop = _trimmed(data, np.int64(offsets[value]), np.int64(offsets[value + 1]))
            if start < stop and n - first < length:
                ranges[n, 0], ranges[n, 1] = start, stop
                n += 1
        if n == first:
            ranges[n, 0], ranges[n, 1] = 0, 0
            n += 1
        bags[row + 1] = n
    keys, key_offsets = copy_ranges(data, ranges[:n])
    return keys, key_offsets, bags


@cache
def _bytes_of(separator: str) -> UInt8Array:
    return np.frombuffer(separator.encode(), np.uint8)


def value_lists(column: pa.Array, separator: str, length: int) -> KeyBags:
    """Per row its first `length` values, without the white space around them and without empty ones.

    `column`: lists of anything that has a text, or texts that are split at `separator`.
    """
    if isinstance(column, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        values = pc.list_flatten(column)
        sizes = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
        lists = np.zeros(len(column) + 1, np.int64)
        np.cumsum(sizes, out=lists[1:])
        data, offsets = key_buffers(values.cast(pa.string()))
        keys, key_offsets, bags = _listed(data, offsets, lists, length)
    else:
        data, offsets = key_buffers(key_array(column))
        keys, key_offsets, bags = _split(data, offsets, _bytes_of(separator), length)
    return KeyBags(keys_from_buffers(keys, key_offsets), bags)
