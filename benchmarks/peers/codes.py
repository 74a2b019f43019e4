"""Rows of a peer's embedding tables: 1.. for what it has seen before the refit, 0 for anything else."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.positives import Int64Array

Codes = NDArray[np.int32] | NDArray[np.int64]


class Rows:
    """Table rows of the given codes, in their order."""

    def __init__(self, codes: Int64Array, of: int) -> None:
        self.codes = codes
        self._row = np.zeros(of + 1, np.int64)  # the last entry answers for code -1, none
        self._row[codes] = np.arange(1, len(codes) + 1)

    def __len__(self) -> int:
        return len(self.codes) + 1

    def of(self, codes: Codes) -> Int64Array:
        """int64, of the same shape."""
        return self._row[codes]

    def histories(self, codes: Codes) -> Int64Array:
        """int64[n, L] of histories int32[n, L] newest last: unknown items dropped, zeros in front."""
        rows = self.of(codes)
        return np.take_along_axis(rows, np.argsort(rows != 0, axis=1, kind="stable"), 1)
