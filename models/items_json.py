"""Ranked items as JSON, written from the arrays of a search without an object for every item."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import msgspec
import numpy as np

from models.arrays import Float32Array, Index, Int32Array, Int64Array, UInt8Array
from models.item_index import ItemIndex
from models.native import compiled, compiled_into, prefetch

_ENCODE = msgspec.json.Encoder().encode
_HASH, _QUOTE, _BACKSLASH, _COMMA, _SPACE, _OPEN, _CLOSE = (ord(one) for one in '#"\\, []')


@compiled_into
def _put(text: UInt8Array, start: Index, end: Index, out: UInt8Array, at: Index) -> Index:
    """Copy text[start:end] to out[at:]; where that ends."""
    for place in range(start, end):
        out[at] = text[place]
        at += 1
    return at


@compiled_into
def _put_id(key: UInt8Array, start: Index, end: Index, out: UInt8Array, at: Index) -> Index:
    """The ID behind the key text key[start:end] (stream/keys.py) as JSON; -1 for one that needs escapes."""
    if start < end and key[start] == _HASH:
        start += 1
        if start == end or key[start] != _HASH:
            return _put(key, start, end, out, at)
    out[at] = _QUOTE
    at += 1
    for place in range(start, end):
        byte = key[place]
        if byte < _SPACE or byte in (_QUOTE, _BACKSLASH):
            return -1
        out[at] = byte
        at += 1
    out[at] = _QUOTE
    return at + 1


@compiled
def _write(
    base: UInt8Array,
    base_offsets: Int32Array,
    late: UInt8Array,
    late_offsets: Int32Array,
    positions: Int64Array,
    scores: UInt8Array,
    around: UInt8Array,
    around_ends: Int64Array,
    ends: Int64Array,
) -> UInt8Array:
    """The bytes of N lists of k items, positions int64[N, k]; list n ends at ends[n + 1], and is empty where
    an ID needs escapes.

    scores: numbers with brackets and commas between them. around: what stands before an ID, before a score
    and after it, which end at around_ends int64[3].
    """
    lists, k = positions.shape
    size, room = len(base_offsets) - 1, len(scores)
    spans = np.empty((lists * k, 2), np.int64)
    for row in range(lists * k):  # reads that wait for memory together, not in turn
        position = positions[row // k, row % k]
        offsets, place = (base_offsets, position) if position < size else (late_offsets, position - size)
        spans[row, 0], spans[row, 1] = offsets[place], offsets[place + 1]
        room += spans[row, 1] - spans[row, 0] + len(around) + 2
    for row in range(lists * k):
        if positions[row // k, row % k] < size:
            prefetch(base, spans[row, 0])
    out = np.empty(room, np.uint8)
    at: Index = 0
    read: Index = 0
    for n in range(lists):
        for row in range(n * k, (n + 1) * k):
            key = base if positions[n, row - n * k] < size else late
            while scores[read] in (_OPEN, _COMMA, _CLOSE):
                read += 1
            begin = read
            while scores[read] not in (_COMMA, _CLOSE):
                read += 1
            if at < 0:
                continue
            at = _put(around, 0, around_ends[0], out, at)
            at = _put_id(key, spans[row, 0], spans[row, 1], out, at)
            if at >= 0:
                at = _put(around, around_ends[0], around_ends[1], out, at)
                at = _put(scores, begin, read, out, at)
                at = _put(around, around_ends[1], around_ends[2], out, at)
        at = max(at, ends[n])
        ends[n + 1] = at
    return out


@lru_cache(maxsize=64)
def _around(channel: str) -> tuple[UInt8Array, Int64Array]:
    parts = (b'{"id":', b',"score":', b',"channel":' + _ENCODE(channel) + b"},")
    return np.frombuffer(b"".join(parts), np.uint8), np.cumsum([len(part) for part in parts])


def items_json(
    items: ItemIndex, positions_NK: Int64Array, scores_NK: Float32Array, channel: str
) -> list[bytes]:
    """What msgspec makes of N lists of {id, score, channel}, without their brackets; b"" for one in which an
    ID needs escapes.

    positions: int64[N, k], none of them -1; scores: float32[N, k].
    """
    around, around_ends = _around(channel)
    numbers = np.frombuffer(_ENCODE(scores_NK.tolist()), np.uint8)
    ends = np.zeros(len(positions_NK) + 1, np.int64)
    places = np.ascontiguousarray(positions_NK)  # one type for compiled code
    out = _write(*items.key_texts, places, numbers, around, around_ends, ends).data
    return [bytes(out[begin : max(end - 1, begin)]) for begin, end in pairwise(ends.tolist())]
