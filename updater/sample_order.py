"""The order in which a full training takes its samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from models.arrays import Int64Array


class SampleOrder(Protocol):
    """The order in which a full training takes its samples."""

    def __call__(self, samples: int, epoch: int) -> Int64Array:
        """int64[samples]: a permutation of 0 .. samples - 1."""
        ...


@dataclass(frozen=True)
class Shuffled:
    """Over the whole run's data, each sample once; keyed by seed and run, so that a rerun repeats it."""

    seed: int
    run: int

    def __call__(self, samples: int, epoch: int) -> Int64Array:
        """A permutation drawn for (seed, run, epoch)."""
        rng = np.random.default_rng([self.seed, self.run, epoch])
        return rng.permutation(samples).astype(np.int64)


def in_time_order(samples: int, epoch: int) -> Int64Array:
    """No shuffle: only to measure what the shuffle is worth (`daily_ordered`)."""
    return np.arange(samples, dtype=np.int64)
