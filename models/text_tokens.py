"""Texts as bags of lower-cased words and pairs of neighbouring words (unigrams and bigrams)."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.arrays import Index, Int32Array, Int64Array, UInt8Array
from models.key_bags import KeyBags, copy_ranges
from models.key_bytes import key_array, key_buffers, keys_from_buffers
from models.native import compiled

_BETWEEN, _LETTER, _WORD = 0, 1, 2


@compiled
def _code_point(data: UInt8Array, at: Index) -> tuple[Index, Index]:
    """(code point, bytes) of valid UTF-8."""
    first = np.int64(data[at])
    if first < 0x80:
        return first, 1
    if first < 0xE0:
        return (first & 0x1F) << 6 | (np.int64(data[at + 1]) & 0x3F), 2
    if first < 0xF0:
        tail = (np.int64(data[at + 1]) & 0x3F) << 6 | (np.int64(data[at + 2]) & 0x3F)
        return (first & 0x0F) << 12 | tail, 3
    tail = (np.int64(data[at + 1]) & 0x3F) << 12 | (np.int64(data[at + 2]) & 0x3F) << 6
    return (first & 0x07) << 18 | tail | (np.int64(data[at + 3]) & 0x3F), 4


@compiled
def _class_of(point: Index) -> int:
    """Between words, a letter of one, or a word by itself (scripts that put no spaces between words)."""
    if point < 0x80:
        digit = 0x30 <= point <= 0x39
        return _LETTER if digit or 0x61 <= point <= 0x7A or 0x41 <= point <= 0x5A else _BETWEEN
    if point < 0xC0:
        return _LETTER if point == 0xAA or point == 0xB5 or point == 0xBA else _BETWEEN
    if point == 0xD7 or point == 0xF7:
        return _BETWEEN
    if 0x2000 <= point <= 0x206F or 0x3000 <= point <= 0x3004 or 0x3008 <= point <= 0x303F:
        return _BETWEEN  # punctuation, general and of East Asia
    if 0xFE30 <= point <= 0xFE4F or 0xFF00 <= point <= 0xFF0F or 0xFF1A <= point <= 0xFF20:
        return _BETWEEN
    if 0xFF3B <= point <= 0xFF40 or 0xFF5B <= point <= 0xFF65:
        return _BETWEEN
    if 0x3005 <= point <= 0x30FF or 0x3400 <= point <= 0x4DBF or 0x4E00 <= point <= 0x9FFF:
        return _WORD  # kana and Han
    if 0xF900 <= point <= 0xFAFF or 0x20000 <= point <= 0x3FFFF:
        return _WORD
    return _LETTER


@compiled
def _words(data: UInt8Array, start: Index, end: Index, words: Int64Array) -> int:
    """Stretches of the words of data[start:end] into words int64[.., 2]; how many there are."""
    count = 0
    inside = False
    at = start
    while at < end:
        point, size = _code_point(data, at)
        kind = _class_of(point)
        if inside and kind != _LETTER:
            words[count - 1, 1] = at
            inside = False
        if kind == _WORD or (kind == _LETTER and not inside):
            words[count, 0], words[count, 1] = at, at + size
            count += 1
            inside = kind == _LETTER
        at += size
    if inside:
        words[count - 1, 1] = end
    return count


@compiled
def _tokens(data: UInt8Array, offsets: Int32Array, length: int) -> tuple[UInt8Array, Int32Array, Int64Array]:
    rows = len(offsets) - 1
    longest, most = 0, 0
    for row in range(rows):
        size = offsets[row + 1] - offsets[row]
        longest = max(longest, size)
        most += max(1, min(length, 2 * size))
    words = np.empty((longest, 2), np.int64)
    ranges = np.full((most, 4), -1, np.int64)
    bags = np.zeros(rows + 1, np.int64)
    n = 0
    for row in range(rows):
        count = _words(data, offsets[row], offsets[row + 1], words)
        single = min(count, length)
        for word in range(single):
            ranges[n, 0], ranges[n, 1] = words[word, 0], words[word, 1]
            n += 1
        for word in range(min(max(count - 1, 0), length - single)):
            ranges[n, 0], ranges[n, 1] = words[word, 0], words[word, 1]
            ranges[n, 2], ranges[n, 3] = words[word + 1, 0], words[word + 1, 1]
            n += 1
        if count == 0:
            ranges[n, 0], ranges[n, 1] = 0, 0
            n += 1
        bags[row + 1] = n
    keys, key_offsets = copy_ranges(data, ranges[:n])
    return keys, key_offsets, bags


def text_tokens(texts: pa.Array, length: int) -> KeyBags:
    """Per text the first `length` of: its words in order, then the pairs "one two" of its neighbours.

    Words are runs of letters and digits, lower-cased; a Han character or a kana is a word by itself.
    """
    data, offsets = key_buffers(pc.utf8_lower(key_array(texts)))
    keys, key_offsets, bags = _tokens(data, offsets, length)
    return KeyBags(keys_from_buffers(keys, key_offsets), bags)


def joined_words(keys: pa.StringArray, offsets: Int64Array) -> pa.StringArray:
    """string[N]: texts whose text_tokens() are again the bags of keys string[n], offsets int64[N+1]."""
    words = np.array(pc.invert(pc.match_substring(keys, " ")).to_numpy(zero_copy_only=False), np.bool_)
    lists = np.zeros(len(offsets), np.int32)
    np.cumsum(np.add.reduceat(words.astype(np.int32), offsets[:-1]), out=lists[1:])
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(lists), keys.filter(pa.array(words))), " ")
