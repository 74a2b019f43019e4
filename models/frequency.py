"""Streaming item frequency (Yi et al., RecSys 2019, algorithm 2): how often an item is a target, from its
mean gap.

For item y at example number t, in each of m hash arrays: B[h(y)] <- (1-a) B[h(y)] + a (t - A[h(y)]); A[h(y)]
<- t. p(y) = 1 / max over the arrays of B[h(y)], at most 1. A cell's first gap is the configured prior.

Until a cell has been seen 1/a times, the step is 1/n for its n-th gap, which makes B the plain mean of its
gaps: with a fixed step the prior would still be half of B after fourteen sightings, and on a few thousand
items with a few sightings each every item would look about as rare as the prior says.
"""

from __future__ import annotations

import numpy as np

from models.arrays import Float64Array, Index, Int32Array, Int64Array, Tensors
from models.native import compiled, prefetch

_AHEAD = 16


@compiled
def _cell(item: Index, array: Index, mask: Index) -> Index:
    mixed = (np.uint64(item) + np.uint64(array + 1) * np.uint64(0x9E3779B97F4A7C15)) * np.uint64(
        0xBF58476D1CE4E5B9
    )
    mixed ^= mixed >> np.uint64(31)
    mixed *= np.uint64(0x94D049BB133111EB)
    return np.int64((mixed ^ (mixed >> np.uint64(29))) & np.uint64(mask))


@compiled
def _observe(
    items: Int64Array,
    last: Int64Array,
    gap: Float64Array,
    gaps: Int32Array,
    step: Index,
    alpha: float,
    prior: float,
) -> None:
    """Cells lie all over the memory: those of a few items ahead are asked for."""
    cells = last.shape[1]
    mask = cells - 1
    for i in range(len(items)):
        t = step + i + 1
        for array in range(last.shape[0]):
            if i + _AHEAD < len(items):
                ahead = array * cells + _cell(items[i + _AHEAD], array, mask)
                prefetch(last, ahead)
                prefetch(gap, ahead)
                prefetch(gaps, ahead)
            cell = _cell(items[i], array, mask)
            if last[array, cell] == 0:
                gap[array, cell] = prior
            else:
                gaps[array, cell] += 1
                a = max(alpha, 1.0 / gaps[array, cell])
                gap[array, cell] = (1.0 - a) * gap[array, cell] + a * (t - last[array, cell])
            last[array, cell] = t


@compiled
def _probability(
    items: Int64Array, last: Int64Array, gap: Float64Array, prior: float, p: Float64Array
) -> None:
    mask = last.shape[1] - 1
    for i in range(len(items)):
        largest = 1.0
        for array in range(last.shape[0]):
            cell = _cell(items[i], array, mask)
            largest = max(largest, prior if last[array, cell] == 0 else gap[array, cell])
        p[i] = 1.0 / largest


class FrequencyEstimator:
    """p(item) as a running estimate; items are entry numbers.

    cells: width of each hash array, a power of two; arrays: m; alpha: step size; prior_gap: first gap in
    examples.
    """

    def __init__(
        self, cells: int = 1 << 18, arrays: int = 2, alpha: float = 0.05, prior_gap: float = 50_000.0
    ) -> None:
        if cells & (cells - 1) or cells < 1:
            raise ValueError(f"frequency estimator: cells must be a power of two, got {cells}")
        self.alpha = alpha
        self.prior_gap = prior_gap
        self.examples = 0
        self._last = np.zeros((arrays, cells), np.int64)
        self._gap = np.zeros((arrays, cells), np.float64)
        self._gaps = np.zeros((arrays, cells), np.int32)

    def observe(self, items: Int64Array) -> None:
        """Count the targets int64[N], one example each, in order."""
        _observe(items, self._last, self._gap, self._gaps, self.examples, self.alpha, self.prior_gap)
        self.examples += len(items)

    def probability(self, items: Int64Array) -> Float64Array:
        """Estimated share of examples whose target is the item, float64[N] in (0, 1]; reads only."""
        p = np.empty(len(items), np.float64)
        _probability(items, self._last, self._gap, self.prior_gap, p)
        return p

    def state(self) -> Tensors:
        """Everything from_state() needs."""
        scalars = np.array([self.alpha, self.prior_gap], np.float64)
        examples = np.array([self.examples], np.int64)
        return {
            "last": self._last.copy(),
            "gap": self._gap.copy(),
            "gaps": self._gaps.copy(),
            "scalars": scalars,
            "examples": examples,
        }

    @classmethod
    def from_state(cls, state: Tensors) -> FrequencyEstimator:
        """The estimator that state() described."""
        arrays, cells = state["last"].shape
        estimator = cls(cells, arrays, float(state["scalars"][0]), float(state["scalars"][1]))
        estimator._last = np.array(state["last"], np.int64)
        estimator._gap = np.array(state["gap"], np.float64)
        estimator._gaps = np.array(state["gaps"], np.int32)
        estimator.examples = int(state["examples"][0])
        return estimator
