"""The candidates of a blend from dense scores: the best of each channel, and what all say about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from models.arrays import BoolArray, Float32Array, Int32Array, Int64Array

DEPTH = 200
"""Candidates of each channel."""


@dataclass(frozen=True)
class Said:
    """What one channel says of n moments.

    codes: int64[K] its items, ascending numbers that all channels share; scores: float32[n, K], higher is
    better; known: bool[n, K] or None (all), whether it brings an item up by itself.
    """

    codes: Int64Array
    scores: Float32Array
    known: BoolArray | None = None

    @cached_property
    def _places(self) -> Int32Array:
        places = np.full(int(self.codes[-1]) + 1 if len(self.codes) else 1, -1, np.int32)
        places[self.codes] = np.arange(len(self.codes))
        return places

    def places_of(self, codes: Int64Array) -> Int32Array:
        """Places of item codes among the K, int32, -1 = not there."""
        inside = codes < len(self._places)
        found: Int32Array = np.where(inside, self._places[np.where(inside, codes, 0)], -1).astype(np.int32)
        return found

    def best(self, row: int, barred: Int64Array) -> Int64Array:
        """Codes of the DEPTH best items that it brings up at a moment, without the barred ones.

        Equal scores are in order of codes.
        """
        scores = self.scores[row]
        if self.known is not None:
            scores = np.where(self.known[row], scores, np.float32(-np.inf))
        if len(barred):
            places = self.places_of(barred)
            scores = scores.copy()
            scores[places[places >= 0]] = -np.inf
        if not len(scores):
            return self.codes
        depth = min(DEPTH, len(scores))
        # All that tie with the last first: which of them come in must not depend on the algorithm.
        last = np.partition(scores, len(scores) - depth)[len(scores) - depth]
        top = np.flatnonzero((scores >= last) & (scores > -np.inf))
        best: Int64Array = self.codes[top[np.argsort(-scores[top], kind="stable")[:DEPTH]]]
        return best


def candidates(
    said: Sequence[Said], row: int, barred: Int64Array | None = None
) -> tuple[Int64Array, Float32Array]:
    """Of moment `row`: item codes int64[N] ascending, and float32[C, N] what every channel says of them, -inf
    where one has no such item.
    """
    barred = np.empty(0, np.int64) if barred is None else barred
    codes = np.unique(np.concatenate([np.empty(0, np.int64), *(one.best(row, barred) for one in said)]))
    scores_CN = np.full((len(said), len(codes)), -np.inf, np.float32)
    for at, one in enumerate(said):
        places = one.places_of(codes)
        scores_CN[at, places >= 0] = one.scores[row, places[places >= 0]]
    return codes, scores_CN
