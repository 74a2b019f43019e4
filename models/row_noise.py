"""Where rows that were never trained begin: the cold row, and noise, a function of the row's number."""

import numpy as np

from models.arrays import Float32Array, Index
from models.native import compiled
from models.samplers import key_shift, uniform_of


@compiled
def _noise(key: Index, shift: np.uint64, spread: np.float32) -> np.float32:
    return (np.float32(2) * uniform_of(key, shift) - np.float32(1)) * spread


@compiled
def _fill(row: Index, shift: np.uint64, spread: np.float32, noise: Float32Array) -> None:
    for column in range(len(noise)):
        noise[column] = _noise(row * len(noise) + column, shift, spread)


@compiled
def _spread(weights: Float32Array, momentum: Float32Array, shift: np.uint64, spread: np.float32) -> None:
    width = weights.shape[1]
    for row in range(1, len(weights)):
        if momentum[row] == 0:
            for column in range(width):
                weights[row, column] = weights[0, column] + _noise(row * width + column, shift, spread)


def row_noise(row: int, width: int, salt: int, spread: float) -> Float32Array:
    """float32[width] in -spread .. spread, a pure function of its arguments."""
    noise = np.empty(width, np.float32)
    _fill(row, key_shift(salt), np.float32(spread), noise)
    return noise


def spread_untrained(weights: Float32Array, momentum: Float32Array, salt: int, spread: float) -> None:
    """Rows 1.. of weights float32[N, E] whose momentum float32[N] is 0 become row 0 plus their row_noise(),
    in place.
    """
    _spread(weights, momentum, key_shift(salt), np.float32(spread))
