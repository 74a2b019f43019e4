import ctypes
import os
import platform
import threading
from pathlib import Path

import pytest

from serving import swap
from serving.give_back import give_back

BLOCKS, BYTES = 20_000, 4096


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps so much")
def test_what_malloc_keeps_of_freed_blocks_goes_back():
    c = ctypes.CDLL(None)
    c.malloc.restype, c.malloc.argtypes, c.free.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_size_t],
        [ctypes.c_void_p],
    )
    blocks = [c.malloc(BYTES) for _ in range(BLOCKS)]
    for block in blocks:
        ctypes.memset(block, 1, BYTES)
    last = blocks.pop()  # so that the heap cannot shrink by itself
    for block in blocks:
        c.free(block)
    kept = resident_bytes()
    give_back()
    assert resident_bytes() < kept - BLOCKS * BYTES // 2
    c.free(last)


def test_it_is_done_after_every_swap(world, monkeypatch):
    stop, given = threading.Event(), []

    def back():
        given.append(world.snapshot.bundle)
        stop.set()

    monkeypatch.setattr(swap, "give_back", back)
    bundle = world.bundle()
    world.point(bundle)
    world.swapper.follow(stop)
    assert given == [bundle]
