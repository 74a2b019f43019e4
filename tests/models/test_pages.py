import ctypes
import mmap

import numpy as np
import pytest

from models.pacing import BLOCK_BYTES, paced
from models.pages import converted, touch, zeros


def there(array):
    """Share of the pages that lie within an array which are in memory."""
    begin = -(-array.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    size = max(0, array.ctypes.data + array.nbytes - begin)
    found = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
    mincore = ctypes.CDLL(None, use_errno=True).mincore
    assert mincore(*map(ctypes.c_void_p, (begin, size, found.ctypes.data))) == 0
    return found.mean()


def rests_in(work):
    """What it gives, and how often it could have rested: a clock goes on by a second whenever it is read."""
    worked = iter(range(1_000_000))
    slept = []
    with paced(0.5, lambda: next(worked), lambda: 0.0, slept.append):
        given = work()
    return given, len(slept)


def test_what_numpy_gives_is_not_there_yet():
    assert there(np.zeros(64 << 20, np.uint8)) < 0.1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint32, np.float64])
@pytest.mark.parametrize("size", [0, 1, 50_000, 9_000_001])
def test_zeros_are_there_before_they_are_used(size, dtype):
    found, rests = rests_in(lambda: zeros(size, dtype))
    assert size < mmap.PAGESIZE or there(found) == 1
    assert (found.dtype, found.shape) == (np.dtype(dtype), (size,))
    assert not found.any()
    assert found.flags.writeable
    assert rests == -(-found.nbytes // BLOCK_BYTES)


@pytest.mark.parametrize("size", [0, 1, 131_072, 300_001])
def test_converted_block_by_block(size):
    wide = np.random.default_rng(0).integers(-(2**31), 2**31, size)
    narrow, rests = rests_in(lambda: converted(wide, np.int32))
    np.testing.assert_array_equal(narrow, wide)
    assert narrow.dtype == np.int32
    assert rests == -(-wide.nbytes // BLOCK_BYTES)
    assert converted(narrow, np.int32) is narrow


def test_touching_rests_after_every_block_and_changes_nothing():
    data = np.random.default_rng(0).integers(0, 256, 3 * BLOCK_BYTES + 5).astype(np.uint8)
    data.flags.writeable = False
    before = data.copy()
    assert rests_in(lambda: touch(data)) == (None, 4)
    np.testing.assert_array_equal(data, before)
