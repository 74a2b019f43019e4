"""Compiled exact row-wise Adagrad over pooled reads: a row that is read many times in a step moves once, by
the sum of its gradients.

Reads of the same row are brought together by a hash table that fits into the cache, so nothing is sorted, no
gradient is written out per read, and every row of the table is fetched once.
"""

import numpy as np

from models.arrays import Float32Array, Index, Int32Array, Int64Array
from models.native import FLOATS_OF_A_LINE, compiled, compiled_sums, prefetch

_AHEAD = 8
"""Rows lie all over the memory: they are asked for so many rows ahead."""


@compiled
def _grouped(
    rows: Int64Array,
    offsets: Int64Array,
    factors: Float32Array,
    distinct: Int64Array,
    ends: Int32Array,
    bags: Int32Array,
    of_bags: Float32Array,
) -> Index:
    """The reads of every distinct row side by side, rows in the order of their first reads, reads in their
    own: bags and of_bags (its factor) of a read, ends: where the reads of each row end.

    Fills in the first places of distinct and ends, as many as there are rows: the answer.
    """
    size = 64
    while size < 2 * len(rows):
        size *= 2
    slots = np.full(size, -1, np.int32)  # number of a distinct row
    numbers = np.empty(len(rows), np.int32)
    count = 0
    for i in range(len(rows)):
        hashed = np.uint64(rows[i]) * np.uint64(0x9E3779B97F4A7C15)
        slot = np.int64(hashed >> np.uint64(32)) & (size - 1)
        while slots[slot] >= 0 and distinct[slots[slot]] != rows[i]:
            slot = (slot + 1) & (size - 1)
        known = slots[slot]
        if known < 0:
            known = slots[slot] = count
            distinct[count] = rows[i]
            ends[count] = 0
            count += 1
        numbers[i] = known
        ends[known] += 1
    begin = 0
    for number in range(count):  # ends holds where the next read of a row goes
        reads = ends[number]
        ends[number] = begin
        begin += reads
    for bag in range(len(offsets) - 1):
        for i in range(offsets[bag], offsets[bag + 1]):
            place = ends[numbers[i]]
            bags[place], of_bags[place] = bag, factors[i]
            ends[numbers[i]] = place + 1
    return count


@compiled_sums
def _moved(
    distinct: Int64Array,
    ends: Int32Array,
    bags: Int32Array,
    of_bags: Float32Array,
    gradient: Float32Array,
    weights: Float32Array,
    momentum: Float32Array,
    lr: np.float32,
    epsilon: np.float32,
) -> None:
    width = weights.shape[1]
    summed = np.empty(width, np.float32)
    begin = 0
    for number in range(len(distinct)):
        if number + _AHEAD < len(distinct):
            coming = distinct[number + _AHEAD]
            prefetch(momentum, coming)
            for column in range(0, width, FLOATS_OF_A_LINE):
                prefetch(weights, coming * width + column)
        row = distinct[number]
        summed[:] = np.float32(0)
        for read in range(begin, ends[number]):
            # Read once: the compiler cannot know that a sum is no factor.
            factor, bag = of_bags[read], bags[read]
            for column in range(width):
                summed[column] += factor * gradient[bag, column]
        begin = ends[number]
        squares = np.float32(0)
        for column in range(width):
            squares += summed[column] * summed[column]
        momentum[row] += squares / np.float32(width)
        rate = lr / (np.sqrt(momentum[row]) + epsilon)
        for column in range(width):
            weights[row, column] -= rate * summed[column]


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
    n = len(rows)
    distinct, ends, bags = np.empty(n, np.int64), np.empty(n, np.int32), np.empty(n, np.int32)
    of_bags = np.empty(n, np.float32)
    count = int(_grouped(rows, offsets, factors, distinct, ends, bags, of_bags))
    _moved(
        distinct[:count], ends[:count], bags, of_bags, gradient, weights, momentum,
        np.float32(lr), np.float32(epsilon),
    )  # fmt: skip
