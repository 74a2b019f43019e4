"""Compiled: events found in the bytes of messages, and their texts written as columns.

What is found here is what msgspec finds by the types of stream/event.py. Whatever is unusual — an unknown
field or one given twice, a type or a size that no producer of ours writes, anything wrong — makes a whole
message unusual, and stream/codec.py looks at it instead; so nothing is refused here.

Places are bytes of `data`, all messages of a sweep one behind the other; a place 0 means: not found.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from stream.event import KINDS, Event
from stream.native import compiled, compiled_into

Bytes: TypeAlias = npt.NDArray[np.uint8]
Int32s: TypeAlias = npt.NDArray[np.int32]
Int64s: TypeAlias = npt.NDArray[np.int64]
Index: TypeAlias = int | np.signedinteger[Any]

FIELDS = Event.__struct_fields__
EVENT_ID, TS_MS, USER_ID, ITEM_ID, KIND, SCENE, REQUEST_ID, VALUE, CONTEXT = range(len(FIELDS))
LEAST_BYTES = 38
"""Of an event: its required fields, none longer than it must be."""
FLOAT, INTEGER = 1, 2
_REQUIRED = 1 << EVENT_ID | 1 << TS_MS | 1 << USER_ID | 1 << KIND
_TEXT_BYTES, _CONTEXT_ENTRIES, _CONTEXT_BYTES = 256, 64, 1024
_SHARP = ord("#")


def _table(texts: Sequence[str]) -> tuple[Bytes, Int64s]:
    """(their bytes, where each ends)."""
    encoded = [text.encode() for text in texts]
    return np.frombuffer(b"".join(encoded), np.uint8), np.cumsum([len(one) for one in encoded])


_NAMES, _NAME_ENDS = _table(FIELDS)
_KINDS, _KIND_ENDS = _table(KINDS)
_VERSION = np.frombuffer(b"\xa1v\x01", np.uint8)
_EVENTS = np.frombuffer(b"\xa6events", np.uint8)


@compiled_into
def _same(data: Bytes, at: Index, texts: Bytes, first: Index, length: Index) -> bool:
    """Whether `length` bytes are the same; the caller knows that both have them."""
    index = 0
    while index < length and data[at + index] == texts[first + index]:
        index += 1
    return index == length


@compiled
def valid_text(data: Bytes, at: Index, end: Index) -> bool:
    """Whether data[at:end] is UTF-8 (RFC 3629: no surrogates, nothing longer than it must be)."""
    while at < end:
        head = data[at]
        if head < 0x80:
            at += 1
            continue
        if head < 0xC2 or head > 0xF4:
            return False
        more = 1 if head < 0xE0 else 2 if head < 0xF0 else 3
        if at + more >= end:
            return False
        low = 0xA0 if head == 0xE0 else 0x90 if head == 0xF0 else 0x80
        high = 0x9F if head == 0xED else 0x8F if head == 0xF4 else 0xBF
        if data[at + 1] < low or data[at + 1] > high:
            return False
        for index in range(at + 2, at + more + 1):
            if data[index] & 0xC0 != 0x80:
                return False
        at += more + 1
    return True


@compiled_into
def _text(data: Bytes, at: Index, end: Index) -> tuple[Index, Index]:
    """(where the string at `at` begins, where it ends), valid UTF-8 before `end`; else (0, 0)."""
    if at >= end:
        return 0, 0
    head = data[at]
    if 0xA0 <= head <= 0xBF:
        start, length = at + 1, np.int64(head & 31)
    elif head == 0xD9 and at + 1 < end:
        start, length = at + 2, np.int64(data[at + 1])
    elif head == 0xDA and at + 2 < end:
        start, length = at + 3, np.int64(data[at + 1]) << 8 | np.int64(data[at + 2])
    else:
        return 0, 0
    if start + length > end:
        return 0, 0
    seen = np.uint8(0)
    for index in range(start, start + length):
        seen |= data[index]
    if seen >= 0x80 and not valid_text(data, start, start + length):
        return 0, 0
    return start, start + length


@compiled_into
def _big_endian(data: Bytes, at: Index, size: Index) -> np.int64:
    """`size` bytes as a number; of eight, the highest bit is the sign."""
    number = np.int64(0)
    for index in range(at, at + size):
        number = number << 8 | np.int64(data[index])
    return number


@compiled_into
def _integer(data: Bytes, at: Index, end: Index) -> tuple[np.int64, Index]:
    """(the int64 at `at`, the place behind it, at most `end`); (0, 0) where there is none."""
    if at >= end:
        return np.int64(0), 0
    head = data[at]
    if head < 0x80:
        return np.int64(head), at + 1
    if head >= 0xE0:
        return np.int64(head) - 256, at + 1
    size = 1 << (head & 3)
    if head < 0xCC or head > 0xD3 or at + 1 + size > end:
        return np.int64(0), 0
    number = _big_endian(data, at + 1, size)
    if head >= 0xD0:
        unused = 64 - 8 * size
        return number << unused >> unused, at + 1 + size
    return (number, at + 1 + size) if number >= 0 else (np.int64(0), 0)


@compiled_into
def _magnitude(number: np.int64) -> np.uint64:
    return np.uint64(number) if number >= 0 else np.uint64(-(number + 1)) + np.uint64(1)


@compiled_into
def _key_size(number: np.int64) -> int:
    """Bytes of the key text of an integer."""
    size, left = (2 if number >= 0 else 3), _magnitude(number) // np.uint64(10)
    while left:
        left //= np.uint64(10)
        size += 1
    return size


@compiled_into
def _of(data: Bytes, start: Index, end: Index, texts: Bytes, ends: Int64s, guess: Index) -> Index:
    """Which of the texts data[start:end] is, tried from `guess` on; -1 for none."""
    number = guess
    for _ in range(len(ends)):
        first = ends[number - 1] if number else 0
        if ends[number] - first == end - start and _same(data, start, texts, first, end - start):
            return number
        number = number + 1 if number + 1 < len(ends) else 0
    return -1


@compiled_into
def _context(data: Bytes, at: Index, end: Index) -> tuple[Index, Index, Index]:
    """(entries, where the first key stands, the place behind the last value) of the map at `at`; the last is
    0 where it is unusual.
    """
    if at >= end:
        return 0, 0, 0
    head = data[at]
    if 0x80 <= head <= 0x8F:
        entries, first = np.int64(head & 15), at + 1
    elif head == 0xDE and at + 2 < end:
        entries, first = _big_endian(data, at + 1, 2), at + 3
    else:
        return 0, 0, 0
    if entries > _CONTEXT_ENTRIES:
        return 0, 0, 0
    place = first
    for entry in range(entries):
        start, behind = _text(data, place, end)
        if not start or behind - start > _TEXT_BYTES:
            return 0, 0, 0
        before = first
        for _ in range(entry):  # a key given twice counts once
            other, other_end = _text(data, before, end)
            if other_end - other == behind - start and _same(data, start, data, other, behind - start):
                return 0, 0, 0
            _, before = _text(data, other_end, end)
        start, place = _text(data, behind, end)
        if not start or place - start > _CONTEXT_BYTES:
            return 0, 0, 0
    return entries, first, place


@compiled_into
def _event(
    data: Bytes, at: Index, end: Index, fields: Index, row: Index, starts: Int32s, sizes: Int32s,
    numbers: Int64s,
) -> Index:  # fmt: skip
    """Read an event of `fields` fields into `row` of the arrays; the place behind it, 0 where unusual."""
    starts[row] = 0
    sizes[row] = 0
    seen: Index = 0
    field: Index = -1
    for _ in range(fields):
        behind = at + 1 + (np.int64(data[at]) - 0xA0 if at < end else 0)  # names are of under 32 bytes
        if behind <= at or behind >= end:
            return 0
        field = _of(data, at + 1, behind, _NAMES, _NAME_ENDS, field + 1 if field < CONTEXT else 0)
        if field < 0 or seen >> field & 1:
            return 0
        seen |= 1 << field
        if field == TS_MS:
            numbers[row, field], at = _integer(data, behind, end)
            if not at or numbers[row, field] < 1:
                return 0
        elif field == VALUE:
            if data[behind] == 0xCB and behind + 9 <= end:
                numbers[row, field], at = _big_endian(data, behind + 1, 8), behind + 9
                sizes[row, field] = FLOAT
                if numbers[row, field] >> 52 & 0x7FF == 0x7FF:  # infinite, or no number
                    return 0
            elif data[behind] == 0xC0:
                at = behind + 1
            else:
                numbers[row, field], at = _integer(data, behind, end)
                sizes[row, field] = INTEGER
                if not at:
                    return 0
        elif field == CONTEXT:
            sizes[row, field], starts[row, field], at = _context(data, behind, end)
            if not at:
                return 0
        else:
            start, at = _text(data, behind, end)
            if start:
                sizes[row, field] = at - start
                if at - start > _TEXT_BYTES or (field <= KIND and at == start):
                    return 0
                if field == KIND and _of(data, start, at, _KINDS, _KIND_ENDS, 0) < 0:
                    return 0
                if field in (USER_ID, ITEM_ID) and data[start] == _SHARP:
                    sizes[row, field] += 1
                starts[row, field] = start
            elif field == ITEM_ID and data[behind] == 0xC0:
                at = behind + 1
            elif field in (USER_ID, ITEM_ID):
                numbers[row, field], at = _integer(data, behind, end)
                if not at:
                    return 0
                starts[row, field], sizes[row, field] = -1, _key_size(numbers[row, field])
            else:
                return 0
    return at if seen & _REQUIRED == _REQUIRED else 0


@compiled_into
def _head(data: Bytes, at: Index, end: Index) -> tuple[Index, Index, Index]:
    """(events, fields of the first or -1 where every event says its own, the place of what follows) of the
    message at `at`; the place is 0 where it is unusual.
    """
    if at + 4 >= end or data[at] < 0x81 or data[at] > 0x8F or not _same(data, at + 1, _VERSION, 0, 3):
        return 0, 0, 0
    if at + 11 >= end or not _same(data, at + 4, _EVENTS, 0, 7):
        return 1, np.int64(data[at] & 15) - 1, at + 4
    head = data[at + 11]
    if data[at] == 0x82 and 0x90 <= head <= 0x9F:
        return np.int64(head & 15), -1, at + 12
    if data[at] == 0x82 and head == 0xDC and at + 13 < end:
        return _big_endian(data, at + 12, 2), -1, at + 14
    return 0, 0, 0


@compiled
def find_events(
    data: Bytes, ends: Int64s, counts: Int64s, starts: Int32s, sizes: Int32s, numbers: Int64s
) -> int:
    """Read the messages that end at ends (int64[M]); how many events they hold together.

    counts: int64[M], written: events of each message, -1 where it is unusual, of which no event is kept.
    Written per event, fields in the order of FIELDS: starts and sizes, int32[rows, 9], of each text, the
    start -1 where an ID is an integer, the size that of the key text; of the context, the place of its first
    key and how many entries it has; as size of the value FLOAT, INTEGER or 0 for none. numbers:
    int64[rows, 9], time and integers, of a FLOAT its bits. rows: at least len(data) // LEAST_BYTES + 1.
    """
    row: int = 0
    at: Index = 0
    for message in range(len(ends)):
        end, first = ends[message], row
        events, single, at = _head(data, at, end)
        for _ in range(events):
            fields = single
            if single < 0:
                fields = np.int64(data[at]) - 0x80 if at < end and 0x80 <= data[at] <= 0x8F else -1
                at += 1
            if fields < 0 or row >= len(starts):
                at = 0
                break
            at = _event(data, at, end, fields, row, starts, sizes, numbers)
            if not at:
                break
            row += 1
        if not at or at != end:
            counts[message], row = -1, first
        else:
            counts[message] = row - first
        at = end
    return row


@compiled
def text_column(
    data: Bytes, starts: Int32s, sizes: Int32s, numbers: Int64s, field: int, keys: bool
) -> tuple[Bytes, Int32s]:
    """(bytes, offsets int32[n + 1]) of the texts of one field, given by start and size, int32[n, fields], or
    as a number, int64[n, fields], where the start is -1. keys: whether they are IDs, to become key texts.
    """
    offsets = np.zeros(len(starts) + 1, np.int32)
    for row in range(len(starts)):
        offsets[row + 1] = offsets[row] + sizes[row, field]
    written = np.empty(offsets[-1], np.uint8)
    for row in range(len(starts)):
        at, end, start = offsets[row], offsets[row + 1], starts[row, field]
        if start < 0:
            number = numbers[row, field]
            left = _magnitude(number)
            for place in range(end - 1, at + (number < 0), -1):
                written[place] = np.uint8(left % np.uint64(10)) + np.uint8(48)
                left //= np.uint64(10)
            if number < 0:
                written[at + 1] = ord("-")
            written[at] = _SHARP
        else:
            if keys and at < end and data[start] == _SHARP:
                written[at] = _SHARP
                at += 1
            for index in range(end - at):
                written[at + index] = data[start + index]
    return written, offsets


@compiled
def context_entries(data: Bytes, starts: Int32s, sizes: Int32s) -> tuple[Int32s, Int32s]:
    """(starts, sizes), int32[entries, 2] each, of keys and values of contexts that find_events() found."""
    places = np.empty((sizes[:, CONTEXT].sum(), 2), np.int32)
    lengths = np.empty_like(places)
    number = 0
    for row in range(len(starts)):
        at: Index = np.int64(starts[row, CONTEXT])
        for _ in range(sizes[row, CONTEXT]):
            for part in range(2):
                start, at = _text(data, at, len(data))
                places[number, part] = start
                lengths[number, part] = at - start
            number += 1
    return places, lengths
