"""Key columns as flat bytes: the form in which compiled code hashes and compares them."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import pyarrow as pa

from models.arrays import Index, Int32Array, Int64Array, UInt8Array
from models.native import compiled, compiled_into, load_word


def key_array(keys: pa.Array | pa.ChunkedArray) -> pa.StringArray:
    """`keys` as one string array without nulls (null = "" = no ID). TypeError for other types: keys are
    texts.
    """
    if isinstance(keys, pa.StringArray) and not keys.null_count:
        return keys
    if isinstance(keys, pa.ChunkedArray):
        keys = keys.combine_chunks()
    if pa.types.is_dictionary(keys.type):
        keys = keys.dictionary_decode()
    if pa.types.is_large_string(keys.type) or pa.types.is_null(keys.type):
        keys = keys.cast(pa.string())
    if not pa.types.is_string(keys.type):
        raise TypeError(f"keys: expected string key texts, got {keys.type}; encode integers as '#<n>' first")
    return keys.fill_null("") if keys.null_count else keys


def key_buffers(keys: pa.Array | pa.ChunkedArray) -> tuple[UInt8Array, Int32Array]:
    """(bytes uint8[...], offsets int32[N+1]) of a key column; no copy for a plain string array."""
    array = key_array(keys)
    _, offsets_buffer, data_buffer = array.buffers()
    if len(array) == 0 or offsets_buffer is None:
        return np.empty(0, np.uint8), np.zeros(len(array) + 1, np.int32)
    offsets = np.frombuffer(offsets_buffer, np.int32)[array.offset : array.offset + len(array) + 1]
    data = np.empty(0, np.uint8) if data_buffer is None else np.frombuffer(data_buffer, np.uint8)
    return data, offsets


def keys_from_buffers(data: UInt8Array, offsets: Int32Array) -> pa.StringArray:
    """The string array over bytes uint8[...] and offsets int32[N+1]."""
    return pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))


@compiled_into
def key_word(data: UInt8Array, start: Index, end: Index) -> np.uint64:
    """The first eight bytes of data[start:end], which has one or more, as a number, the lowest first; zeros
    where there are fewer.
    """
    if start + 8 <= len(data):
        word = load_word(data, start)
        return word & (np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 - 8 * min(end - start, 8)))
    word = np.uint64(0)
    for index in range(start, end):  # the last bytes of a column
        word |= np.uint64(data[index]) << np.uint64(8 * (index - start))
    return word


@compiled_into
def same_bytes(
    data: UInt8Array, start: Index, length: Index, arena: UInt8Array, entry_start: Index, entry_length: Index
) -> bool:
    """Whether data[start:start + length] is what lies in arena from entry_start on."""
    if length != entry_length:
        return False
    for at in range(0, length, 8):
        if key_word(data, start + at, start + length) != key_word(
            arena, entry_start + at, entry_start + length
        ):
            return False
    return True


def string_array(texts: Sequence[str]) -> pa.StringArray:
    """A string array of a few texts: what pa.array() gives, in a third of its time."""
    joined = "".join(texts)
    data = joined.encode()
    plain = len(data) == len(joined)
    sizes = map(len, texts) if plain else (len(text.encode()) for text in texts)
    return keys_from_buffers(
        np.frombuffer(bytearray(data), np.uint8),  # writable as Arrow's own: compiled code is made for that
        np.fromiter(accumulate(sizes, initial=0), np.int32, len(texts) + 1),
    )


@compiled_into
def hash_bytes(data: UInt8Array, start: Index, end: Index) -> np.uint64:
    """64-bit hash of data[start:end]: eight bytes a round, multiply and xor-shift (wyhash's pattern), stable.

    Every step can be undone, so keys of the same length, up to eight bytes, never share a hash.
    """
    mixed = np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(end - start)
    for position in range(start, end, 8):
        mixed = (mixed ^ key_word(data, position, end)) * np.uint64(0xFF51AFD7ED558CCD)
        mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0xC4CEB9FE1A85EC53)
    mixed ^= mixed >> np.uint64(29)
    return mixed


@compiled
def _hash_all(data: UInt8Array, offsets: Int32Array, hashes: Int64Array) -> None:
    for row in range(len(offsets) - 1):
        hashes[row] = np.int64(hash_bytes(data, offsets[row], offsets[row + 1]))


def hash_keys(keys: pa.Array | pa.ChunkedArray) -> Int64Array:
    """Stable hash of every key; int64[N] (the 64 bits reinterpreted)."""
    data, offsets = key_buffers(keys)
    hashes = np.empty(len(offsets) - 1, np.int64)
    _hash_all(data, offsets, hashes)
    return hashes


@compiled
def _joined(data: UInt8Array, offsets: Int32Array, places: Int64Array, joined: UInt8Array) -> int:
    # One read of memory a pass, which depends on nothing before it: those of many keys wait together.
    starts, ends = np.empty((2, len(places)), np.int64)
    needed, used = len(places), 0
    for row in range(len(places)):
        starts[row] = offsets[places[row]]
        ends[row] = offsets[places[row] + 1]
        needed += ends[row] - starts[row]
    if needed > len(joined):
        return -1
    for row in range(len(places)):
        if starts[row] < ends[row]:
            joined[row] = data[starts[row]]  # overwritten below
    for row in range(len(places)):
        for at in range(starts[row], ends[row]):
            joined[used] = data[at]
            used += 1
        joined[used] = 0
        used += 1
    return used


def texts_at(data: UInt8Array, offsets: Int32Array, places: Int64Array) -> list[str]:
    """The keys at some places of a column, given as key_buffers() gives it, as Python's strings.

    All are decoded at once and cut apart: a quarter of what Arrow takes for a hundred of them.
    """
    joined = np.empty(32 * len(places), np.uint8)
    used = _joined(data, offsets, places, joined)
    texts = joined[: used - 1].tobytes().decode().split("\0") if used > 0 else []
    if len(texts) != len(places):  # long keys, or one with a NUL in it
        texts = [data[offsets[place] : offsets[place + 1]].tobytes().decode() for place in places]
    return texts
