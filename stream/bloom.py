"""Bloom filters (Bloom, CACM 1970) over item key texts: how large one is, and which of its bits an item sets.

The bits of a filter are numbered as Redis numbers those of a string: bit 0 is the highest of the first byte.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

_WORD = 8
_GOLDEN, _MIX_1, _MIX_2 = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


@dataclass(frozen=True)
class BloomShape:
    """bits: m of one filter; hashes: k of them that an item sets."""

    bits: int
    hashes: int

    @property
    def bytes(self) -> int:
        """Of one filter."""
        return -(-self.bits // 8)

    @classmethod
    def of(cls, items: int, false_positive_rate: float) -> BloomShape:
        """For n items at a rate p: m = -n ln p / (ln 2)^2 bits and k = m / n ln 2 hashes."""
        bits = math.ceil(-items * math.log(false_positive_rate) / math.log(2) ** 2)
        return cls(bits, max(1, round(bits / items * math.log(2))))

    def places(self, keys: pa.Array) -> np.ndarray:
        """The bits of items string[N], int64[N, k].

        The k hashes are made of two (Kirsch and Mitzenmacher, ESA 2006). They are those of every version of
        this code: filters in a store outlive it.
        """
        first = _hashed(keys)
        second = _mixed(first + _GOLDEN) | np.uint64(1)
        steps = np.arange(self.hashes, dtype=np.uint64)
        return ((first[:, None] + steps * second[:, None]) % np.uint64(self.bits)).astype(np.int64)


def held_by(filters: Sequence[bytes], places_NK: np.ndarray) -> np.ndarray:
    """Whether any filter has all the bits of an item, bool[N]; a filter may lack the zeros at its end."""
    held = np.zeros(len(places_NK), bool)
    for one in filters:
        padded = np.frombuffer(one + b"\0", np.uint8)
        byte = padded[np.minimum(places_NK >> 3, len(padded) - 1)]
        held |= (byte >> (7 - (places_NK & 7)) & 1).all(axis=1)
    return held


def _hashed(keys: pa.Array) -> np.ndarray:
    """A 64-bit hash of every text, uint64[N]; eight bytes at a time, all texts at once."""
    keys = keys.cast(pa.large_string())
    if not len(keys):
        return np.empty(0, np.uint64)
    _, offsets, content = keys.buffers()
    ends = np.frombuffer(offsets, np.int64)[keys.offset : keys.offset + len(keys) + 1]
    lengths = np.diff(ends)
    words = -(-max(int(lengths.max()), 1) // _WORD)
    padded = np.zeros((len(keys), words * _WORD), np.uint8)
    if content is not None:
        filled = np.arange(words * _WORD) < lengths[:, None]
        padded[filled] = np.frombuffer(content, np.uint8)[ends[0] : ends[-1]]
    hashed = _mixed(lengths.astype(np.uint64) + _GOLDEN)
    for place, word in enumerate(padded.view("<u8").T):
        hashed = np.where(lengths > place * _WORD, _mixed(hashed + _GOLDEN ^ word), hashed)
    return hashed


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64, of uint64[N]."""
    values = (values ^ (values >> np.uint64(30))) * _MIX_1
    values = (values ^ (values >> np.uint64(27))) * _MIX_2
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed
