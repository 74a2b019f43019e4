"""Negatives drawn from the corpus, with the log of how often each is expected."""

from __future__ import annotations

import numpy as np

from models.arrays import Float32Array, Int64Array


class UnigramSampler:
    """Draws item entries with probability ~ count^power, with replacement, from a counter-based generator.

    entries: int64[N] candidates below `capacity`; counts: int64[N] how often each was seen;
    power 1 = by frequency, 0 =
    uniform.
    """

    def __init__(
        self, entries: Int64Array, counts: Int64Array, capacity: int, power: float, seed: int
    ) -> None:
        if len(entries) == 0:
            raise ValueError("sampler: no items to draw negatives from; train on at least one target first")
        shares = np.maximum(counts, 1).astype(np.float64) ** power
        self._entries = entries
        self._cumulative = np.cumsum(shares)
        self._seed = seed
        # An entry that is never drawn (no row yet) can be a target all the same: as rare as the rarest.
        self._log_share = np.full(capacity, np.log(shares.min() / self._cumulative[-1]))
        self._log_share[entries] = np.log(shares / self._cumulative[-1])

    def draw(self, n: int, step: int) -> Int64Array:
        """int64[n] entries; the same for the same seed and step."""
        generator = np.random.Generator(np.random.Philox(key=[self._seed, step]))
        places = np.searchsorted(self._cumulative, generator.random(n) * self._cumulative[-1], side="right")
        drawn: Int64Array = self._entries[np.minimum(places, len(self._entries) - 1)]
        return drawn

    def log_expected(self, entries: Int64Array, n: int) -> Float32Array:
        """log(n * share) of every entry, float32[N]: its expected count among n draws."""
        expected: Float32Array = (self._log_share[entries] + np.log(n)).astype(np.float32)
        return expected


def uniform_by_key(keys: Int64Array, salt: int) -> Float32Array:
    """One uniform number in [0, 1) per key, float32[N]; a pure function of (key, salt) (splitmix64)."""
    x = keys.astype(np.uint64) + np.uint64((salt + 1) * 0x9E3779B97F4A7C15 % (1 << 64))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)
