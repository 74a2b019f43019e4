"""Further positives of a training row: the other targets of its request."""

import numpy as np

from models.arrays import Int64Array
from models.samples import Samples


def companions(samples: Samples, more: int) -> Int64Array:
    """int64[N, more] item entries of the next targets of each sample's request, going round; -1 = no more.

    Two samples belong together when user and request are the same.
    """
    n = len(samples)
    found = np.full((n, more), -1, np.int64)
    if more == 0 or n == 0:
        return found
    order = np.lexsort((np.arange(n), samples.request, samples.user))
    user, request = samples.user[order], samples.request[order]
    begins = np.ones(n, bool)
    begins[1:] = (user[1:] != user[:-1]) | (request[1:] != request[:-1])
    start = np.flatnonzero(begins)
    group = np.cumsum(begins) - 1
    size = np.diff(np.append(start, n))[group]
    place = np.arange(n) - start[group]
    for j in range(1, more + 1):
        following = order[start[group] + (place + j) % size]
        found[order, j - 1] = np.where(j < size, samples.item[following], -1)
    return found
