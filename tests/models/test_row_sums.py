"""Pooled reads against sums taken one by one; whole numbers, so that every order of adding gives the same."""

from itertools import pairwise

import numpy as np
import pytest

from models.aligned import aligned_zeros
from models.row_sums import pooled_rows


@pytest.mark.parametrize("width", [1, 3, 4, 7, 8, 16, 20, 63, 64, 67, 80, 148])
def test_pooled_rows_are_sums_of_rows(width):
    rng = np.random.default_rng(width)
    rows = rng.integers(-8, 9, (50, width)).astype(np.float32)
    ends = [0, 0, 1, 4, 204, 204, 330]  # none, one, some; more than are asked for ahead; none at the end
    offsets = np.array([*ends, ends[-1]], np.int64)
    index = rng.integers(0, 50, ends[-1])
    factors = rng.integers(-3, 4, len(index)).astype(np.float32)
    found = np.full((len(offsets) - 1, width), np.nan, np.float32)
    pooled_rows(rows, index, offsets, factors, found)
    expected = [(rows[index[a:b]] * factors[a:b, None]).sum(0) for a, b in pairwise(offsets)]
    np.testing.assert_array_equal(found, np.stack(expected))


def test_no_reads_give_zeros():
    found = np.full((2, 8), np.nan, np.float32)
    none = np.empty(0, np.float32)
    pooled_rows(np.ones((3, 8), np.float32), np.empty(0, np.int64), np.zeros(3, np.int64), none, found)
    assert not found.any()


@pytest.mark.parametrize("wrong", [-1, 3, 1 << 40])
def test_what_is_no_row_is_refused(wrong):
    index, offsets = np.array([0, wrong, 2]), np.array([0, 3])
    out = np.empty((1, 8), np.float32)
    with pytest.raises(IndexError, match="expected indices of rows"):
        pooled_rows(np.ones((3, 8), np.float32), index, offsets, np.ones(3, np.float32), out)


@pytest.mark.parametrize("shape", [(5,), (3, 64), (1000, 8)])
def test_aligned_zeros_begin_where_a_cache_line_does(shape):
    found = [aligned_zeros(*shape) for _ in range(3)]
    for array in found:
        assert array.shape == shape
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        assert array.ctypes.data % 64 == 0
        assert not array.any()
        array[:] = 1  # nothing of the others
