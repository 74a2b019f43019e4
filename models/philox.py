"""The uniform numbers of numpy.random.Philox, compiled: making a generator costs more than drawing hundreds.

Philox4x64-10 (Salmon et al., SC 2011): a counter, in blocks of four numbers, and ten rounds under a key.
"""

from __future__ import annotations

import numpy as np

from models.arrays import Float64Array
from models.native import compiled, compiled_into

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_FACTOR_0, _FACTOR_1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
_BUMP_0, _BUMP_1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)


@compiled_into
def _high(a: np.uint64, b: np.uint64) -> np.uint64:
    """The upper 64 bits of a * b."""
    a0, a1, b0, b1 = a & _LOW, a >> _HALF, b & _LOW, b >> _HALF
    middle = a1 * b0 + (a0 * b0 >> _HALF)
    return a1 * b1 + (middle >> _HALF) + ((middle & _LOW) + a0 * b1 >> _HALF)


@compiled
def _fill(key_0: np.uint64, key_1: np.uint64, drawn: Float64Array) -> None:
    block = np.empty(4, np.uint64)
    zero = np.uint64(0)
    for begin in range(0, len(drawn), 4):
        c0, c1, c2, c3 = np.uint64(begin // 4 + 1), zero, zero, zero
        k0, k1 = key_0, key_1
        for _ in range(10):
            c0, c1, c2, c3 = (
                _high(_FACTOR_1, c2) ^ c1 ^ k0,
                _FACTOR_1 * c2,
                _high(_FACTOR_0, c0) ^ c3 ^ k1,
                _FACTOR_0 * c0,
            )
            k0 += _BUMP_0
            k1 += _BUMP_1
        block[0], block[1], block[2], block[3] = c0, c1, c2, c3
        for at in range(begin, min(begin + 4, len(drawn))):
            drawn[at] = (block[at - begin] >> np.uint64(11)) * (1.0 / 9007199254740992.0)


def uniform(n: int, key: tuple[int, int]) -> Float64Array:
    """float64[n] in [0, 1): NumPy's Generator(Philox(key=key)).random(n), to the bit; keys are below 2^64."""
    drawn = np.empty(n, np.float64)
    _fill(np.uint64(key[0]), np.uint64(key[1]), drawn)
    return drawn
