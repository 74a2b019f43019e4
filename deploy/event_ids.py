"""Event IDs for tables that have none: a hash of the row's content and its occurrence number."""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

UInt64 = npt.NDArray[np.uint64]

_COLUMNS = ("ts_ms", "user_id", "item_id", "kind", "scene", "request_id", "value")
_LANES = (0x243F6A8885A308D3, 0x13198A2E03707344)  # two independent 64-bit hashes make the 128 bits of an ID


def derived_event_ids(table: pa.Table) -> pa.Array:
    """IDs of 32 hex digits for the rows of a standard event table [N], sorted by `ts_ms`.

    Equal rows are told apart by how many of them came before. As equal rows have equal times, any span of
    whole milliseconds of a table gives the same IDs as the whole table.
    """
    columns = [table[name].combine_chunks() for name in _COLUMNS]
    lanes = [content_hash(columns, lane) for lane in _LANES]
    occurrence = _occurrence(lanes[0], lanes[1])
    return _hex(*(_mixed(lane ^ _mixed(occurrence + np.uint64(1))) for lane in lanes))


def content_hash(columns: Sequence[pa.Array], seed: int) -> UInt64:
    """64-bit hash of each row of some columns [N] of numbers or text; another one for another seed."""
    state = np.full(len(columns[0]), seed, dtype=np.uint64)
    for column in columns:
        state = _mixed(state ^ _column_hash(column, seed))
    return state


def _column_hash(column: pa.Array, seed: int) -> UInt64:
    """64-bit hash per row: numbers by their bits, text by its bytes, each distinct text hashed once."""
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        width = pa.int64() if pa.types.is_integer(column.type) else pa.float64()
        valid = np.asarray(pc.is_valid(column))
        bits = np.asarray(pc.fill_null(column.cast(width), 0)).view(np.uint64)
        return np.where(valid, _mixed(bits ^ np.uint64(seed)), np.uint64(seed >> 1))
    encoded = column.dictionary_encode()
    key = seed.to_bytes(8, "little")
    digests = b"".join(
        hashlib.blake2b(text.encode(), digest_size=8, key=key).digest()
        for text in encoded.dictionary.to_pylist()
    )
    hashes = np.append(np.frombuffer(digests, dtype="<u8"), np.uint64(seed >> 1))
    codes: npt.NDArray[np.int32] = np.asarray(pc.fill_null(encoded.indices, len(encoded.dictionary)))
    return hashes[codes]


def _mixed(values: UInt64) -> UInt64:
    """splitmix64: every input bit reaches every output bit (Steele et al., OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _occurrence(high: UInt64, low: UInt64) -> UInt64:
    """How many equal rows stand before each row [N]."""
    order = np.lexsort((low, high))  # stable: equal rows stay in table order
    sorted_high, sorted_low = high[order], low[order]
    starts = np.ones(len(order), dtype=bool)
    starts[1:] = (sorted_high[1:] != sorted_high[:-1]) | (sorted_low[1:] != sorted_low[:-1])
    places = np.arange(len(order))
    first = np.maximum.accumulate(np.where(starts, places, 0))
    result = np.empty(len(order), dtype=np.uint64)
    result[order] = places - first
    return result


def _hex(high: UInt64, low: UInt64) -> pa.Array:
    digits = np.stack([high, low], axis=1).astype(">u8").tobytes().hex().encode()
    offsets = np.arange(len(high) + 1, dtype=np.int32) * 32
    return pa.StringArray.from_buffers(len(high), pa.py_buffer(offsets), pa.py_buffer(digits))
