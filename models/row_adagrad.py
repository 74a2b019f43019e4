"""Compiled exact row-wise Adagrad over pooled reads: a row that is read many times in a step moves once, by
the sum of its gradients.

Reads of the same row are brought together by a hash table that fits into the cache, so nothing is sorted, no
gradient is written out per read, and every row of the table is fetched once.
"""

import numpy as np

from models.arrays import Float32Array, Index, Int32Array, Int64Array
from models.native import FLOATS_OF_A_LINE, compiled, compiled_sums, prefetch
from models.row_sums import sum_rows

_AHEAD = 32
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

    Fills in the first places of distinct and of ends, which is zero, as many as there are rows: the answer.
    """
    n, size, bits = len(rows), 64, 6
    while size < 2 * n:
        size, bits = 2 * size, bits + 1
    # A slot holds a row and, in its lowest bits, the row's number; -1 if none. Whether a read is its row's
    # first one nobody can predict: a branch for it would cost more than all the rest, so the answer is used
    # as a mask. Unsigned places spare the question whether they count from the end.
    shift = np.int64(bits)
    numbers_mask = (np.int64(1) << shift) - np.int64(1)
    slots = np.full(size, -1, np.int64)
    numbers = np.empty(n, np.int32)
    count = np.int64(0)
    for i in range(n):
        row = rows[i]
        slot = (np.uint64(row) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - bits)
        held = slots[slot]
        while (held >> shift) ^ row > 0:  # neither the row's nor free, which is negative
            slot = (slot + np.uint64(1)) & np.uint64(size - 1)
            held = slots[slot]
        free = held >> np.int64(63)  # all bits, or none
        number = (count & free) | (held & numbers_mask & ~free)
        slots[slot] = (row << shift) | number
        distinct[np.uint64(count)] = row  # stays where the count goes on
        ends[np.uint64(number)] += 1
        numbers[i] = number
        count -= free
    begin = np.int32(0)
    for known in range(count):  # ends holds where the next read of a row goes
        reads = ends[known]
        ends[known] = begin
        begin += reads
    for bag in range(len(offsets) - 1):
        for i in range(np.uint64(offsets[bag]), np.uint64(offsets[bag + 1])):
            of_row = np.uint64(numbers[i])
            place = np.uint64(ends[of_row])
            bags[place], of_bags[place] = bag, factors[i]
            ends[of_row] = place + np.uint64(1)
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
    summed_1E = np.empty((1, width), np.float32)
    summed = summed_1E[0]
    begin = 0
    for number in range(len(distinct)):
        if number + _AHEAD < len(distinct):
            coming = distinct[number + _AHEAD]
            prefetch(momentum, coming)
            for column in range(0, width, FLOATS_OF_A_LINE):
                prefetch(weights, coming * width + column)
        row = distinct[number]
        sum_rows(summed_1E, 0, gradient, bags, of_bags, begin, ends[number])
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
) -> Int64Array:
    """Move weights float32[N, E] and momentum float32[N] in place.

    rows: int64[n] that were read, pooled with factors float32[n] into bags by offsets int64[bags+1];
    gradient: float32[bags, E]. With g the summed gradient of a row: momentum += mean(g^2), weight -= lr * g /
    (sqrt(momentum) + epsilon). Returns the rows that moved, each once: int64[d].
    """
    n = len(rows)
    distinct, ends, bags = np.empty(n, np.int64), np.zeros(n, np.int32), np.empty(n, np.int32)
    of_bags = np.empty(n, np.float32)
    count = int(_grouped(rows, offsets, factors, distinct, ends, bags, of_bags))
    distinct = distinct[:count]
    _moved(
        distinct, ends, bags, of_bags, gradient, weights, momentum,
        np.float32(lr), np.float32(epsilon),
    )  # fmt: skip
    return distinct
