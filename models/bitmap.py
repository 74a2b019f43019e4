"""Bitmaps over positions, as faiss takes them: bit i of uint8[ceil(N / 8)], lowest bit first."""

from __future__ import annotations

import numpy as np

from models.arrays import BoolArray, Int64Array, UInt8Array


def bitmap_of(size: int) -> UInt8Array:
    """A bitmap of `size` ones."""
    bits = np.full((size + 7) // 8, 255, np.uint8)
    if size % 8:
        bits[-1] = (1 << (size % 8)) - 1
    return bits


def without(bitmap: UInt8Array, positions: Int64Array) -> UInt8Array:
    """A copy of `bitmap` with the bits of distinct `positions` cleared."""
    bits = bitmap.copy()
    np.bitwise_and.at(bits, positions >> 3, ~(np.uint8(1) << (positions & 7).astype(np.uint8)))
    return bits


def is_set(bitmap: UInt8Array, positions: Int64Array) -> BoolArray:
    """Whether the bits of `positions` are one."""
    set_: BoolArray = (bitmap[positions >> 3] >> (positions & 7).astype(np.uint8)) & 1 == 1
    return set_


def ones(bitmap: UInt8Array) -> int:
    """How many bits are one."""
    return int(np.bitwise_count(bitmap).sum())
