"""Compiled probing of IdTable.

A slot is two int64: the key's hash, and its entry in the low 32 bits under its length, 0 for one of more than
eight bytes; -1 = empty. Linear probing from the hash's low bits. Keys of one length up to eight bytes have
different hashes (hash_bytes), so a slot says all about them; the bytes of longer ones are compared.
"""

import numpy as np

from models.arrays import Index, Int32Array, Int64Array, UInt8Array
from models.key_bytes import hash_bytes, same_bytes
from models.native import compiled, compiled_into, prefetch

_BLOCK = 256
_WORD = 8


@compiled_into
def _slot_of(length: Index, entry: Index) -> Index:
    """What stands beside the hash."""
    return np.int64(length if length <= _WORD else 0) << 32 | np.int64(entry)


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
    slot = np.int64(hashed & np.uint64(mask))
    length = np.int64(end - start)
    while slots[slot, 1] >= 0:
        held = slots[slot, 1]
        entry = held & 0xFFFFFFFF
        if slots[slot, 0] == np.int64(hashed) and held == _slot_of(length, entry):
            if length <= _WORD:
                return entry, slot
            if same_bytes(data, start, length, arena, key_start[entry], key_length[entry]):
                return entry, slot
        slot = (slot + 1) & mask
    return -1, slot


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

    In blocks, what the next pass over a block reads being asked for in the one before: the reads of many keys
    wait together.
    """
    mask = np.int64(len(slots) - 1)
    hashes = np.empty(_BLOCK, np.uint64)
    longer = np.empty(_BLOCK, np.int64)
    for first in range(0, len(entries), _BLOCK):
        n = min(_BLOCK, len(entries) - first)
        for i in range(n):
            hashes[i] = hash_bytes(data, np.int64(offsets[first + i]), np.int64(offsets[first + i + 1]))
            prefetch(slots, 2 * (np.int64(hashes[i]) & mask))
        long_ones = 0
        for i in range(n):
            length = np.int64(offsets[first + i + 1]) - np.int64(offsets[first + i])
            hashed = np.int64(hashes[i])
            slot, found = hashed & mask, np.int64(-1)
            while slots[slot, 1] >= 0 and length > 0:
                entry = slots[slot, 1] & 0xFFFFFFFF
                if slots[slot, 0] == hashed and slots[slot, 1] == _slot_of(length, entry):
                    found = entry
                    break
                slot = (slot + 1) & mask
            entries[first + i] = found
            if found >= 0 and length > _WORD:
                prefetch(key_start, found)
                prefetch(key_length, found)
                longer[long_ones] = first + i
                long_ones += 1
        for at in range(long_ones):
            prefetch(arena, key_start[entries[longer[at]]])
        for at in range(long_ones):
            i = longer[at]
            start, end, entry = np.int64(offsets[i]), np.int64(offsets[i + 1]), entries[i]
            if not same_bytes(data, start, end - start, arena, key_start[entry], key_length[entry]):
                hashed_again = hashes[i - first]  # another key of this hash stands before it
                entries[i] = _find(data, start, end, hashed_again, slots, arena, key_start, key_length)[0]


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
    row: Int32Array,
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
                slots[slot, 0] = np.int64(hashed)
                slots[slot, 1] = _slot_of(end - start, entry)
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
        while slots[slot, 1] >= 0:
            slot = (slot + 1) & mask
        slots[slot, 0] = np.int64(hashed)
        slots[slot, 1] = _slot_of(key_length[entry], entry)


@compiled
def rows_of(entries: Int32Array | Int64Array, row: Int32Array, rows: Int64Array) -> None:
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
