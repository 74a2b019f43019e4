"""Memory that is made to be there before it is needed, block by block at the thread's pace, and without the
interpreter lock.

Whoever touches a page first waits for it: it comes from a file, or a virtual machine may have to get it from
its host, 4 ms for 2 MB here. What is filled in no order would touch all of them at once.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

from models.arrays import UInt8Array
from models.native import compiled
from models.pacing import BLOCK_BYTES, rest


@compiled
def _read(data: UInt8Array, step: int) -> int:
    seen = 0
    for at in range(0, len(data), step):
        seen |= data[at]
    return seen


@compiled
def _clear(data: UInt8Array, step: int) -> None:
    for at in range(0, len(data), step):
        data[at] = 0


def touch(data: UInt8Array) -> None:
    """Read every page of it."""
    for begin in range(0, len(data), BLOCK_BYTES):
        _read(data[begin : begin + BLOCK_BYTES], mmap.PAGESIZE)
        rest()


def zeros(size: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """np.zeros(size, dtype), of which every page is there."""
    array = np.zeros(size, dtype)
    data = array.view(np.uint8)
    for begin in range(0, len(data), BLOCK_BYTES):
        _clear(data[begin : begin + BLOCK_BYTES], mmap.PAGESIZE)
        rest()
    return array


def converted(array: npt.NDArray[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """An array [N] in another type; itself where it has it."""
    if array.dtype == dtype:
        return array
    copy = np.empty(len(array), dtype)
    block = BLOCK_BYTES // array.itemsize
    for begin in range(0, len(array), block):
        copy[begin : begin + block] = array[begin : begin + block]
        rest()
    return copy
