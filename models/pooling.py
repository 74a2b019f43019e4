"""Histories as weighted bags: padded matrices in, flat indices, offsets and weights out."""

import numpy as np

from models.arrays import Float32Array, Int32Array, Int64Array
from models.native import compiled


@compiled
def _bags(
    history: Int32Array,
    age_s: Int32Array,
    decay_per_s: float,
    indices: Int64Array,
    offsets: Int64Array,
    weights: Float32Array,
) -> None:
    n = 0
    for row in range(history.shape[0]):
        start = n
        total = 0.0
        for at in range(history.shape[1]):
            entry = history[row, at]
            if entry >= 0:
                weight = np.exp(-decay_per_s * max(age_s[row, at], 0)) if decay_per_s > 0.0 else 1.0
                indices[n] = entry
                weights[n] = weight
                total += weight
                n += 1
        for at in range(start, n):
            weights[at] = weights[at] / total if total > 1e-30 else 1.0 / (n - start)
        offsets[row + 1] = n


def decay_per_s(half_life_days: float) -> float:
    """Exponent by which a weight falls in a second of age; 0 for half_life_days 0, equal weights."""
    return float(np.log(2.0) / (half_life_days * 86_400.0)) if half_life_days > 0 else 0.0


def history_bags(
    history: Int32Array, age_s: Int32Array, half_life_days: float
) -> tuple[Int64Array, Int64Array, Float32Array]:
    """Bags of int32[B, L] histories (-1 = none): indices int64[n], offsets int64[B+1], weights float32[n].

    The weights of a bag sum to one: equal (half_life_days 0), or halved by every half-life of age.
    """
    size = history.size
    indices, weights = np.empty(size, np.int64), np.empty(size, np.float32)
    offsets = np.zeros(len(history) + 1, np.int64)
    _bags(history, age_s, decay_per_s(half_life_days), indices, offsets, weights)
    n = int(offsets[-1])
    return indices[:n], offsets, weights[:n]


@compiled
def _fill_sizes(offsets: Int64Array, sizes: Float32Array) -> None:
    for bag in range(len(sizes)):
        sizes[bag] = offsets[bag + 1] - offsets[bag]


def bag_sizes(offsets: Int64Array) -> Float32Array:
    """float32[N] elements of every bag of offsets int64[N+1]."""
    sizes = np.empty(len(offsets) - 1, np.float32)
    _fill_sizes(offsets, sizes)
    return sizes


@compiled
def _newest(offsets: Int64Array, positions: Int32Array) -> None:
    length = positions.shape[1]
    for row in range(positions.shape[0]):
        have = min(length, offsets[row + 1] - offsets[row])
        for at in range(have):
            positions[row, length - have + at] = offsets[row + 1] - have + at


def newest_positions(offsets: Int64Array, length: int) -> Int32Array:
    """int32[N, length]: places of the newest `length` elements of every list in a flat column, newest last,
    -1 = none.
    """
    positions = np.full((len(offsets) - 1, length), -1, np.int32)
    _newest(offsets, positions)
    return positions


def ages_s(ts_ms: Int64Array, history_ts_ms: Int64Array) -> Int32Array:
    """int32[N, L] seconds from history_ts_ms[N, L] to ts_ms[N], within 0 .. 2^31-1."""
    ages = (ts_ms[:, None] - history_ts_ms) // 1000
    within: Int32Array = np.minimum(np.maximum(ages, 0), 2**31 - 1).astype(np.int32)
    return within
