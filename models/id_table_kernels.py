"""Compiled probing of IdTable.

A slot is int64: high 31 bits of the key's hash as a tag, low 32 bits the entry; -1 = empty. Linear probing
from the
hash's low bits; the tag saves most reads of foreign keys, the bytes are always compared (collisionless).
"""

import numpy as np

from models.arrays import Index, Int32Array, Int64Array, UInt8Array
from models.key_bytes import hash_bytes, key_word, same_bytes
from models.native import compiled, compiled_into

_BLOCK = 256


@compiled_into
def _find(
    data: UInt8Array,
    start: Index,
    end: Index,
    hashed: np.uint64,
    slots: Int64Array,
    arena: UInt8Array,
    key_start: Int64Array,
    key_length: Int32Array,
) -> tuple[Index, Index]:
    """(entry or -1, slot where the search ended)."""
    mask = len(slots) - 1
    tag = np.int64(hashed >> np.uint64(33))
    slot = np.int64(hashed & np.uint64(mask))
    while True:
        value = slots[slot]
        if value == -1:
            return -1, slot
        if value >> 32 == tag:
            entry = value & 0xFFFFFFFF
            if same_bytes(data, start, end - start, arena, key_start[entry], key_length[entry]):
                return entry, slot
        slot = (slot + 1) & mask


@compiled
def lookup(
    data: UInt8Array,
    offsets: Int32Array,
    slots: Int64Array,
    arena: UInt8Array,
    key_start: Int64Array,
    key_length: Int32Array,
    entries: Int64Array,
) -> None:
    """entries[i] = entry of key i or -1.

    In blocks, and one read of memory a pass over a block: the reads of many keys wait together.
    """
    mask = np.uint64(len(slots) - 1)
    hashes = np.empty(_BLOCK, np.uint64)
    values, starts, lengths, others = np.empty((4, _BLOCK), np.int64)
    for first in range(0, len(entries), _BLOCK):
        n = min(_BLOCK, len(entries) - first)
        for i in range(n):
            hashes[i] = hash_bytes(data, np.int64(offsets[first + i]), np.int64(offsets[first + i + 1]))
        for i in range(n):
            values[i] = slots[hashes[i] & mask]
        for i in range(n):
            tagged = values[i] >> 32 == np.int64(hashes[i] >> np.uint64(33))  # never so of an empty slot
            entry = np.uint64(values[i] & 0xFFFFFFFF if tagged else 0)
            starts[i] = key_start[entry]
            lengths[i] = key_length[entry] if tagged else -1
        left = 0
        for i in range(n):
            start, end = np.int64(offsets[first + i]), np.int64(offsets[first + i + 1])
            length = end - start
            if length == lengths[i] and length <= 8 and length > 0:
                same = key_word(data, start, end) == key_word(arena, starts[i], starts[i] + length)
            else:
                same = length > 0 and same_bytes(data, start, length, arena, starts[i], lengths[i])
            entries[first + i] = values[i] & 0xFFFFFFFF if same else -1
            others[left] = i
            left += not (same or values[i] == -1 or length == 0)
        for at in range(left):  # those that are not in the first slot of their chain
            i = others[at]
            start, end = np.int64(offsets[first + i]), np.int64(offsets[first + i + 1])
            found = _find(data, start, end, hashes[i], slots, arena, key_start, key_length)
            entries[first + i] = found[0]


@compiled
def observe(
    data: UInt8Array,
    offsets: Int32Array,
    ts_ms: Int64Array,
    slots: Int64Array,
    arena: UInt8Array,
    key_start: Int64Array,
    key_length: Int32Array,
    last_seen: Int64Array,
    count: Int64Array,
    window_start: Int64Array,
    window_count: Int32Array,
    row: Int64Array,
    free_entries: Int64Array,
    free_rows: Int64Array,
    used: Int64Array,
    admit_after: int,
    admit_window_ms: int,
    entries: Int64Array,
    new_rows: Int64Array,
) -> tuple[Index, Index, Index, Index, Index, Index]:
    """Insert and count in order. `used` = (entries, arena bytes, next row); entries[i] holds lookup()'s
    answer.

    Returns (entries used, arena used, next row, free entries left, free rows left, rows given).
    """
    entries_used, arena_used, next_row = used[0], used[1], used[2]
    entries_free, rows_free, given = len(free_entries), len(free_rows), 0
    for i in range(len(offsets) - 1):
        start, end = np.int64(offsets[i]), np.int64(offsets[i + 1])
        if start == end:
            continue
        entry = entries[i]
        if entry < 0:  # a second look: the same key may have been inserted earlier in this call
            hashed = hash_bytes(data, start, end)
            entry, slot = _find(data, start, end, hashed, slots, arena, key_start, key_length)
            if entry < 0:
                if entries_free > 0:
                    entries_free -= 1
                    entry = free_entries[entries_free]
                else:
                    entry = entries_used
                    entries_used += 1
                for index in range(end - start):
                    arena[arena_used + index] = data[start + index]
                key_start[entry] = arena_used
                key_length[entry] = end - start
                arena_used += end - start
                slots[slot] = (np.int64(hashed >> np.uint64(33)) << 32) | entry
                last_seen[entry] = ts_ms[i]
                window_start[entry] = ts_ms[i]
            entries[i] = entry
        last_seen[entry] = max(last_seen[entry], ts_ms[i])
        count[entry] += 1
        if row[entry] == 0:
            if ts_ms[i] - window_start[entry] > admit_window_ms:
                window_start[entry] = ts_ms[i]
                window_count[entry] = 0
            window_count[entry] += 1
            if window_count[entry] >= admit_after:
                if rows_free > 0:
                    rows_free -= 1
                    row[entry] = free_rows[rows_free]
                else:
                    row[entry] = next_row
                    next_row += 1
                new_rows[given] = row[entry]
                given += 1
    return entries_used, arena_used, next_row, entries_free, rows_free, given


@compiled
def fill_slots(
    slots: Int64Array, arena: UInt8Array, key_start: Int64Array, key_length: Int32Array, entries_used: int
) -> None:
    """Put entries 0..entries_used-1 that hold a key into empty `slots`."""
    mask = len(slots) - 1
    for entry in range(entries_used):
        if key_length[entry] < 0:
            continue
        hashed = hash_bytes(arena, key_start[entry], key_start[entry] + key_length[entry])
        slot = np.int64(hashed & np.uint64(mask))
        while slots[slot] != -1:
            slot = (slot + 1) & mask
        slots[slot] = (np.int64(hashed >> np.uint64(33)) << 32) | entry


@compiled
def rows_of(entries: Int32Array | Int64Array, row: Int64Array, rows: Int64Array) -> None:
    """rows[i] = row of entries[i], 0 for -1."""
    for i in range(len(entries)):
        rows[i] = row[entries[i]] if entries[i] >= 0 else 0


@compiled
def copy_keys(
    entries: Int64Array, arena: UInt8Array, key_start: Int64Array, offsets: Int32Array, data: UInt8Array
) -> None:
    """Bytes of every entry's key to data[offsets[i]:offsets[i+1]]."""
    for i in range(len(entries)):
        length = offsets[i + 1] - offsets[i]
        for index in range(length):
            data[offsets[i] + index] = arena[key_start[entries[i]] + index]
