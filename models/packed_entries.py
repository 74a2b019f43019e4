"""A history as a store packed it, read in place: msgpack [member, time, member, time, …], oldest first.

A member is the entry's place in the stream, of a fixed width, and then JSON ["item", "kind", "request"]; a
time is decimal digits. Read so, an entry is six numbers, and no Python object.
"""

import numpy as np

from models.arrays import Index, Int32Array, Int64Array, UInt8Array, UInt64Array
from models.key_bytes import hash_bytes, same_bytes
from models.native import compiled, compiled_into

ITEM, KIND, REQUEST = 0, 2, 4
"""Columns of an entry's spans: where the text begins; the next column is where it ends."""
_QUOTE, _BACKSLASH, _ZERO, _NINE = (ord(one) for one in '"\\09')


@compiled_into
def _big_endian(packed: UInt8Array, at: Index, width: Index) -> Index:
    number: Index = 0
    for place in range(at, at + width):
        number = number << 8 | np.int64(packed[place])
    return number


@compiled_into
def _text(packed: UInt8Array, at: Index) -> tuple[Index, Index]:
    """(begin, end) of the msgpack text at `at`; (-1, -1) where there is none."""
    if at >= len(packed) or (packed[at] >> 5 != 5 and at + 5 > len(packed)):  # 5: the longest head
        return -1, -1
    first = packed[at]
    width = 0 if first >> 5 == 5 else 1 << (first - 0xD9) if 0xD9 <= first <= 0xDB else -1
    if width < 0:
        return -1, -1
    size = np.int64(first & 0x1F) if width == 0 else _big_endian(packed, at + 1, width)
    begin = at + 1 + width
    return (begin, begin + size) if begin + size <= len(packed) else (-1, -1)


@compiled_into
def _quoted(packed: UInt8Array, at: Index, end: Index) -> Index:
    """Where the JSON text that begins at `at` ends; -1 for none, or one with escapes."""
    while at < end and packed[at] != _QUOTE:
        if packed[at] == _BACKSLASH:
            return -1
        at += 1
    return at if at < end else -1


@compiled
def read_entries(packed: UInt8Array, place_bytes: int, spans: Int32Array, ts_ms: Int64Array) -> Index:
    """How many entries there are; spans int32[most, 6] and ts_ms int64[most] of them are written.

    -1 where they are more than `most` or not of this form, such as those with escapes in their JSON.
    """
    if not len(packed):
        return -1
    at: Index = 1
    first = packed[0]
    if first >> 4 == 9:
        size: Index = np.int64(first & 0x0F)
    elif first in (0xDC, 0xDD) and len(packed) >= 5:
        width = 2 if first == 0xDC else 4
        size = np.int64(_big_endian(packed, 1, width))
        at += width
    else:
        return -1
    if size % 2 or size // 2 > len(spans):
        return -1
    for entry in range(size // 2):
        begin, end = _text(packed, at)
        if begin < 0:
            return -1
        inside = begin + place_bytes + 1  # behind the bracket
        for column in (ITEM, KIND, REQUEST):
            if inside >= end or packed[inside] != _QUOTE:
                return -1
            closed = _quoted(packed, inside + 1, end)
            if closed < 0:
                return -1
            spans[entry, column] = inside + 1
            spans[entry, column + 1] = closed
            inside = closed + 2  # behind the comma
        if inside != end:
            return -1
        at, end = _text(packed, end)
        if at < 0 or at == end:
            return -1
        number: Index = 0
        for place in range(at, end):
            if packed[place] < _ZERO or packed[place] > _NINE:
                return -1
            number = number * 10 + np.int64(packed[place] - _ZERO)
        ts_ms[entry] = number
        at = end
    return size // 2


@compiled_into
def _same(one: UInt8Array, begin: Index, end: Index, other: UInt8Array, start: Index, stop: Index) -> bool:
    return same_bytes(
        one, np.int64(begin), np.int64(end - begin), other, np.int64(start), np.int64(stop - start)
    )


@compiled_into
def _is_of(packed: UInt8Array, spans: Int32Array, entry: Index, kinds: UInt8Array, ends: Int64Array) -> bool:
    begin = 0
    for end in ends:
        if _same(packed, spans[entry, KIND], spans[entry, KIND + 1], kinds, begin, end):
            return True
        begin = end
    return False


@compiled_into
def _newest(
    packed: UInt8Array,
    spans: Int32Array,
    ts_ms: Int64Array,
    kinds: UInt8Array,
    ends: Int64Array,
    until_ms: Index,
    chosen: Int64Array,
    marks: UInt64Array,
) -> Index:
    """How many entries of some kinds up to a moment there are; which ones they are is written to chosen."""
    count: Index = 0
    for entry in range(len(ts_ms)):
        item, item_end = spans[entry, ITEM], spans[entry, ITEM + 1]
        if ts_ms[entry] > until_ms or item == item_end or not _is_of(packed, spans, entry, kinds, ends):
            continue
        begin, end = spans[entry, REQUEST], spans[entry, REQUEST + 1]
        mark = np.uint64(0)
        if begin < end:
            mark = hash_bytes(packed, np.int64(begin), np.int64(end)) ^ (
                hash_bytes(packed, np.int64(item), np.int64(item_end)) * np.uint64(31)
            )
            met = False
            for at in range(count):
                other = chosen[at]
                if (
                    marks[at] == mark
                    and _same(packed, item, item_end, packed, spans[other, ITEM], spans[other, ITEM + 1])
                    and _same(packed, begin, end, packed, spans[other, REQUEST], spans[other, REQUEST + 1])
                ):
                    met = True
                    break
            if met:
                continue
        chosen[count] = entry
        marks[count] = mark
        count += 1
    return count


@compiled
def newest_entries(
    packed: UInt8Array,
    spans: Int32Array,
    ts_ms: Int64Array,
    sizes: Int64Array,
    kinds: UInt8Array,
    kind_ends: Int64Array,
    until_ms: Int64Array,
    length: int,
    data: UInt8Array,
    offsets: Int32Array,
    times: Int64Array,
    ends: Int64Array,
) -> None:
    """Of N histories one behind another, the newest entries of some kinds up to a moment of each, at most
    `length`: their items' texts in data, with offsets int32[…], and times int64[…], oldest first; those of
    history n end at ends[n + 1] of ends int64[N + 1].

    An item counts once per request, at its first such kind. sizes: int64[N, 2] bytes and entries of each,
    whose spans count from its own first byte. kinds: texts one after another, which end at `kind_ends`.
    data is as long as packed.
    """
    chosen, marks = np.empty(len(ts_ms), np.int64), np.empty(len(ts_ms), np.uint64)
    byte, entry, kept, used = 0, 0, 0, 0
    offsets[0] = 0
    for row in range(len(sizes)):
        own = packed[byte : byte + sizes[row, 0]]
        own_spans, own_ms = spans[entry : entry + sizes[row, 1]], ts_ms[entry : entry + sizes[row, 1]]
        count = _newest(own, own_spans, own_ms, kinds, kind_ends, until_ms[row], chosen, marks)
        for at in range(max(count - length, 0), count):
            for place in range(own_spans[chosen[at], ITEM], own_spans[chosen[at], ITEM + 1]):
                data[used] = own[place]
                used += 1
            times[kept] = own_ms[chosen[at]]
            kept += 1
            offsets[kept] = used
        ends[row + 1] = kept
        byte += sizes[row, 0]
        entry += sizes[row, 1]
