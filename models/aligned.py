"""Arrays that begin where a cache line does: vectors of theirs never lie in two lines, which makes each two
reads, and rows of whole lines are fetched without a neighbour's.
"""

import math

import numpy as np

from models.arrays import Float32Array
from models.native import FLOATS_OF_A_LINE, LINE_BYTES


def aligned_zeros(*shape: int) -> Float32Array:
    """Zeros float32[shape]; NumPy's own, for it asks for huge pages, which torch does not, and scattered
    reads of small ones wait for their addresses.
    """
    size = math.prod(shape)
    room = np.zeros(size + FLOATS_OF_A_LINE, np.float32)
    begin = -room.ctypes.data % LINE_BYTES // room.itemsize
    return room[begin : begin + size].reshape(shape)
