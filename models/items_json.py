"""Ranked items as JSON, written from the arrays of a search without an object for every item."""

from __future__ import annotations

from functools import lru_cache

import msgspec
import numpy as np

from models.arrays import Float32Array, Index, Int32Array, Int64Array, UInt8Array
from models.item_index import ItemIndex
from models.native import compiled, compiled_into

_ENCODE = msgspec.json.Encoder().encode
_ID_BYTES = 256
_HASH, _QUOTE, _BACKSLASH, _COMMA, _SPACE = (ord(one) for one in '#"\\, ')


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
    ends: Int64Array,
    out: UInt8Array,
) -> Index:
    """Bytes written to out, -1 where an ID needs escapes or out may be too short.

    scores: numbers with commas between them. around: what stands before an ID, before a score and after it,
    which end at ends int64[3].
    """
    at: Index = 0
    size, read = len(base_offsets) - 1, 0
    for row in range(min(len(positions), len(out))):  # reads that wait for memory together, not in turn
        if positions[row] < size and base_offsets[positions[row]] < len(base):
            out[row] = base[base_offsets[positions[row]]]  # overwritten below
    for position in positions:
        if position < size:
            key, start, end = base, base_offsets[position], base_offsets[position + 1]
        else:
            key, start, end = late, late_offsets[position - size], late_offsets[position - size + 1]
        if at + len(around) + end - start + len(scores) - read + 2 > len(out):
            return -1
        at = _put(around, 0, ends[0], out, at)
        at = _put_id(key, np.int64(start), np.int64(end), out, at)
        if at < 0:
            return -1
        at = _put(around, ends[0], ends[1], out, at)
        while read < len(scores) and scores[read] != _COMMA:
            out[at] = scores[read]
            at += 1
            read += 1
        read += 1
        at = _put(around, ends[1], ends[2], out, at)
    return at


@lru_cache(maxsize=64)
def _around(channel: str) -> tuple[UInt8Array, Int64Array]:
    parts = (b'{"id":', b',"score":', b',"channel":' + _ENCODE(channel) + b"},")
    return np.frombuffer(b"".join(parts), np.uint8), np.cumsum([len(part) for part in parts])


def items_json(items: ItemIndex, positions: Int64Array, scores: Float32Array, channel: str) -> bytes:
    """What msgspec makes of a list of {id, score, channel}, without its brackets; b"" where an ID needs
    escapes.

    positions: int64[k], none of them -1; scores: float32[k].
    """
    around, ends = _around(channel)
    numbers = _ENCODE(scores.tolist())
    room = len(positions) * (len(around) + _ID_BYTES) + len(numbers)
    out = np.empty(room, np.uint8)
    used = _write(*items.key_texts, positions, np.frombuffer(numbers[1:-1], np.uint8), around, ends, out)
    return out[: used - 1].tobytes() if used > 0 else b""
