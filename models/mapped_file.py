"""Files as memory: what lies in the page cache already is neither copied nor given memory of its own.

Whoever publishes a bundle has just written its files, so that they are there, once for all versions and
processes. A copy of them would need new memory, which a virtual machine may first have to get from its host:
that took seconds for a gigabyte here, during which nothing else ran.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from pathlib import Path

import numpy as np

from models.arrays import UInt8Array

# The C library's own call: unlike that of mmap, and the end of one, it does not hold the interpreter lock.
_advise = ctypes.CDLL(None).madvise
_advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class _Mapping(mmap.mmap):
    """Lets go of its pages before it ends: where they are small ones, that takes a tenth of a second for 200
    MB, for which no other thread has to wait.
    """

    address = 0

    def __del__(self) -> None:
        _advise(self.address, len(self), mmap.MADV_DONTNEED)


def map_file(path: Path) -> UInt8Array:
    """The bytes of a file, uint8[size], read-only; each is read when it is first touched. Raises OSError.

    The file may be removed meanwhile, but not changed.
    """
    with path.open("rb", buffering=0) as file:
        if not path.stat().st_size:
            return np.empty(0, np.uint8)
        mapping = _Mapping(file.fileno(), 0, access=mmap.ACCESS_READ)
    with contextlib.suppress(OSError):  # a kernel without huge pages of files
        mapping.madvise(mmap.MADV_HUGEPAGE)
    data = np.frombuffer(mapping, np.uint8)
    mapping.address = data.ctypes.data
    return data


def read_scattered(data: UInt8Array) -> None:
    """Mapped bytes are read a row here and one there: where a page was pushed out of memory, it comes back
    alone.

    As it was mapped, to be read as a whole, 2 MiB or more come with it: right for an index, of which a search
    reads much; for a row too long to wait, and as much is pushed out elsewhere. Huge pages that are there
    stay.
    """
    if len(data):
        address = data.ctypes.data
        begin = address - address % mmap.PAGESIZE
        for advice in (mmap.MADV_NOHUGEPAGE, mmap.MADV_RANDOM):
            _advise(begin, address + len(data) - begin, advice)
