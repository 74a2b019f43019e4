"""Compiled probing of FrozenIds.

A slot is uint32: entry + 1 in the low `bits`, above them as many bits of the key's hash as are left; 0 =
empty.
Linear probing from the hash's high half, scaled to the number of slots; the bytes are always compared.
"""

import numpy as np

from models.arrays import (
    Float32Array,
    Index,
    Int32Array,
    Int64Array,
    UInt8Array,
    UInt16Array,
    UInt32Array,
)
from models.key_bytes import hash_bytes, same_bytes
from models.native import LINE_BYTES, compiled, compiled_into, prefetch

_BLOCK = 256
_TO_SINGLE = np.float32(2.0**112)
"""Exponents of half precision count from -15, those of single from -127."""


@compiled_into
def _first_slot(hashed: np.uint64, slots: UInt32Array) -> np.int64:
    return np.int64(((hashed >> np.uint64(32)) * np.uint64(len(slots))) >> np.uint64(32))


@compiled_into
def _tag(hashed: np.uint64, bits: np.uint64) -> np.uint64:
    return (hashed << bits) & np.uint64(0xFFFFFFFF)


@compiled_into
def _find(
    data: UInt8Array,
    start: Index,
    end: Index,
    hashed: np.uint64,
    bits: np.uint64,
    slots: UInt32Array,
    arena: UInt8Array,
    key_offsets: Int32Array,
) -> tuple[Index, Index]:
    """(entry or -1, slot where the search ended)."""
    tag, mask = _tag(hashed, bits), (np.uint64(1) << bits) - np.uint64(1)
    slot = _first_slot(hashed, slots)
    while True:
        value = np.uint64(slots[slot])
        if value == 0:
            return -1, slot
        if value & ~mask == tag:
            entry = np.int64(value & mask) - 1
            first = np.int64(key_offsets[entry])
            if same_bytes(data, start, end - start, arena, first, key_offsets[entry + 1] - first):
                return entry, slot
        slot = slot + 1 if slot + 1 < len(slots) else np.int64(0)


@compiled
def fill(
    slots: UInt32Array,
    bits: np.uint64,
    arena: UInt8Array,
    key_offsets: Int32Array,
    gaps: bool,
    begin: int,
    end: int,
) -> int:
    """Put the entries from `begin` to `end` beside those before them into `slots`; -1, or the first entry
    whose key is a repetition, or empty where that is no gap.
    """
    for entry in range(begin, min(end, len(key_offsets) - 1)):
        start, stop = np.int64(key_offsets[entry]), np.int64(key_offsets[entry + 1])
        if start == stop:
            if gaps:
                continue
            return entry
        hashed = hash_bytes(arena, start, stop)
        found, slot = _find(arena, start, stop, hashed, bits, slots, arena, key_offsets)
        if found >= 0:
            return entry
        slots[slot] = _tag(hashed, bits) | np.uint64(entry + 1)
    return -1


@compiled
def lookup(
    data: UInt8Array,
    offsets: Int32Array,
    bits: np.uint64,
    slots: UInt32Array,
    arena: UInt8Array,
    key_offsets: Int32Array,
    entries: Int64Array,
) -> None:
    """entries[i] = entry of key i or -1.

    In blocks, and one read of memory a pass over a block: the reads of many keys wait together.
    """
    mask = (np.uint64(1) << bits) - np.uint64(1)
    hashes, values = np.empty((2, _BLOCK), np.uint64)
    starts, lengths, others = np.empty((3, _BLOCK), np.int64)
    for first in range(0, len(entries), _BLOCK):
        n = min(_BLOCK, len(entries) - first)
        for i in range(n):
            hashes[i] = hash_bytes(data, np.int64(offsets[first + i]), np.int64(offsets[first + i + 1]))
        for i in range(n):
            values[i] = slots[_first_slot(hashes[i], slots)]
        for i in range(n):
            held = values[i] & mask
            tagged = held > 0 and values[i] & ~mask == _tag(hashes[i], bits)
            entry = np.int64(held) - 1 if tagged else 0
            starts[i] = key_offsets[entry]
            lengths[i] = key_offsets[entry + 1] - starts[i] if tagged else -1
        left = 0
        for i in range(n):
            start, end = np.int64(offsets[first + i]), np.int64(offsets[first + i + 1])
            same = end > start and same_bytes(data, start, end - start, arena, starts[i], lengths[i])
            entries[first + i] = np.int64(values[i] & mask) - 1 if same else -1
            others[left] = i
            left += not (same or values[i] == 0 or end == start)
        for at in range(left):  # those that are not in the first slot of their chain
            i = others[at]
            start, end = np.int64(offsets[first + i]), np.int64(offsets[first + i + 1])
            entries[first + i] = _find(data, start, end, hashes[i], bits, slots, arena, key_offsets)[0]


@compiled_into
def _places(
    data: UInt8Array,
    offsets: Int32Array,
    bits: np.uint64,
    slots: UInt32Array,
    arena: UInt8Array,
    key_offsets: Int32Array,
    rows: Int32Array,
    weights: Float32Array | UInt16Array,
) -> Int64Array:
    """Row of every key, int64[N], -1 = none; each is asked for here, so that all of them wait together."""
    places = np.empty(len(offsets) - 1, np.int64)
    lookup(data, offsets, bits, slots, arena, key_offsets, places)
    for i in range(len(places)):
        if places[i] >= 0 and len(rows):
            places[i] = rows[places[i]] if rows[places[i]] > 0 else -1
        if places[i] >= 0:
            for column in range(0, weights.shape[1], LINE_BYTES // weights.itemsize):
                prefetch(weights, places[i] * weights.shape[1] + column)
    return places


@compiled
def read_rows(
    data: UInt8Array,
    offsets: Int32Array,
    bits: np.uint64,
    slots: UInt32Array,
    arena: UInt8Array,
    key_offsets: Int32Array,
    rows: Int32Array,
    weights: Float32Array,
    values: Float32Array,
) -> None:
    """values[i] = weights[row of key i]; keys without a row leave theirs as it is. No rows: the entry is
    it.
    """
    places = _places(data, offsets, bits, slots, arena, key_offsets, rows, weights)
    for i in range(len(places)):
        if places[i] >= 0:
            values[i] = weights[places[i]]


@compiled
def read_half_rows(
    data: UInt8Array,
    offsets: Int32Array,
    bits: np.uint64,
    slots: UInt32Array,
    arena: UInt8Array,
    key_offsets: Int32Array,
    rows: Int32Array,
    weights: UInt16Array,
    values: Float32Array,
) -> None:
    """The same from weights of half precision, of which uint16[rows, E] are the bits, finite ones; exactly.

    Sign and the other bits go where those of single precision stand: 2^112 too small, for normal and
    subnormal numbers alike. Quicker than a table of all 65,536 or NumPy's conversion of what was gathered.
    """
    places = _places(data, offsets, bits, slots, arena, key_offsets, rows, weights)
    of_values = values.view(np.uint32)
    for i in range(len(places)):
        if places[i] >= 0:
            for column in range(weights.shape[1]):
                half = np.uint32(weights[places[i], column])
                sign = (half & np.uint32(0x8000)) << np.uint32(16)
                of_values[i, column] = sign | ((half & np.uint32(0x7FFF)) << np.uint32(13))
            for column in range(weights.shape[1]):
                values[i, column] *= _TO_SINGLE
