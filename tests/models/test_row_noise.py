"""Starting rows against the definition of their noise."""

import numpy as np

from models.row_noise import row_noise, spread_untrained
from models.samplers import uniform_by_key

SALT, SPREAD, WIDTH = 2001, 0.05, 12


def test_rows_without_momentum_become_the_cold_row_and_noise_of_their_own():
    generator = np.random.default_rng(0)
    weights = generator.random((50, WIDTH), np.float32)
    momentum = (generator.random(50) < 0.5).astype(np.float32)
    momentum[0] = 0
    keys = np.arange(50)[:, None] * WIDTH + np.arange(WIDTH)
    noise = (2 * uniform_by_key(keys, SALT) - 1) * np.float32(SPREAD)
    expected = np.where((momentum > 0)[:, None], weights, weights[0] + noise)
    expected[0] = weights[0]
    spread_untrained(weights, momentum, SALT, SPREAD)
    assert weights.tobytes() == expected.tobytes()
    assert row_noise(7, WIDTH, SALT, SPREAD).tobytes() == noise[7].tobytes()
    assert np.abs(noise).max() <= SPREAD
