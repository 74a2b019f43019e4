"""Compiled exact row-wise Adagrad over pooled reads: a row that is read many times in a step moves once, by
the sum of its gradients.

Places of the same row are chained in a hash table that fits into the cache, so nothing is sorted, no gradient
is written out per read, and every row of the table is fetched once.
"""

import numpy as np

from models.arrays import Float32Array, Index, Int32Array, Int64Array
from models.native import FLOATS_OF_A_LINE, compiled, compiled_sums, prefetch

_AHEAD = 8
"""Rows lie all over the memory: they are asked for so many rows ahead."""


@compiled
def _chained(rows: Int64Array, first: Int32Array, following: Int32Array) -> Index:
    """first[:count] = place of every distinct row's first read; following[i] = next read of i's row or -1."""
    size = 64
    while size < 2 * len(rows):
        size *= 2
    slots = np.full(size, -1, np.int32)  # number of a distinct row
    last = np.empty(len(rows), np.int32)
    count = 0
    for i in range(len(rows)):
        hashed = np.uint64(rows[i]) * np.uint64(0x9E3779B97F4A7C15)
        slot = np.int64(hashed >> np.uint64(32)) & (size - 1)
        while slots[slot] >= 0 and rows[first[slots[slot]]] != rows[i]:
            slot = (slot + 1) & (size - 1)
        known = slots[slot]
        if known < 0:
            known = slots[slot] = count
            first[count] = i
            count += 1
        else:
            following[last[known]] = i
        last[known] = i
        following[i] = -1
    return count


@compiled_sums
def _moved(
    rows: Int64Array,
    bags: Int32Array,
    factors: Float32Array,
    gradient: Float32Array,
    first: Int32Array,
    following: Int32Array,
    weights: Float32Array,
    momentum: Float32Array,
    lr: np.float32,
    epsilon: np.float32,
) -> None:
    width = weights.shape[1]
    summed = np.empty(width, np.float32)
    for number in range(len(first)):
        if number + _AHEAD < len(first):
            coming = rows[first[number + _AHEAD]]
            prefetch(momentum, coming)
            for column in range(0, width, FLOATS_OF_A_LINE):
                prefetch(weights, coming * width + column)
        at = first[number]
        row = rows[at]
        summed[:] = np.float32(0)
        while at >= 0:
            factor, bag = factors[at], bags[at]  # read once: the compiler cannot know that a sum is no factor
            for column in range(width):
                summed[column] += factor * gradient[bag, column]
            at = following[at]
        squares = np.float32(0)
        for column in range(width):
            squares += summed[column] * summed[column]
        momentum[row] += squares / np.float32(width)
        rate = lr / (np.sqrt(momentum[row]) + epsilon)
        for column in range(width):
            weights[row, column] -= rate * summed[column]


@compiled
def _bag_of(offsets: Int64Array, bags: Int32Array) -> None:
    for bag in range(len(offsets) - 1):
        for at in range(offsets[bag], offsets[bag + 1]):
            bags[at] = bag


def update_rows(
    rows: Int64Array,
    offsets: Int64Array,
    factors: Float32Array,
    gradient: Float32Array,
    weights: Float32Array,
    momentum: Float32Array,
    lr: float,
    epsilon: float,
) -> None:
    """Move weights float32[N, E] and momentum float32[N] in place.

    rows: int64[n] that were read, pooled with factors float32[n] into bags by offsets int64[bags+1];
    gradient: float32[bags, E]. With g the summed gradient of a row: momentum += mean(g^2), weight -= lr * g /
    (sqrt(momentum) + epsilon).
    """
    first, following, bags = np.empty((3, len(rows)), np.int32)
    count = _chained(rows, first, following)
    _bag_of(offsets, bags)
    _moved(
        rows, bags, factors, gradient, first[: int(count)], following, weights, momentum,
        np.float32(lr), np.float32(epsilon),
    )  # fmt: skip
