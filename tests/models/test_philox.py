"""Compiled Philox numbers are NumPy's, to the bit."""

import numpy as np
import pytest

from models.philox import uniform


@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 512, 1027])
@pytest.mark.parametrize("key", [(0, 0), (0, 1), (7, 123), (2**32 + 5, 2**40 - 1), (2**64 - 1, 2**63)])
def test_numbers_are_those_of_numpy(n, key):
    expected = np.random.Generator(np.random.Philox(key=np.array(key, np.uint64))).random(n)
    assert uniform(n, key).tobytes() == expected.tobytes()
