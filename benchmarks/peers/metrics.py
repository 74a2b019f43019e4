"""Ranks with ties at their expected place, and the figures made of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.positives import Int32Array, Int64Array

FloatArray = NDArray[np.float64]


def expected_ranks(scores: NDArray[np.float32], target: Int32Array) -> FloatArray:
    """float64[n] from 0, of column target[n] in each row of scores float32[n, items]; a target that is not
    scored (-inf) has the rank inf.
    """
    own = scores[np.arange(len(target)), target][:, None]
    above, same = (scores > own).sum(1), (scores == own).sum(1) - 1
    return np.where(np.isfinite(own[:, 0]), above + same / 2, np.inf)


def best(scores: NDArray[np.float32], k: int) -> list[Int64Array]:
    """The at most k best scored columns of each row, best first, ties to the lower column."""
    found = []
    for row in scores:
        least = np.partition(row, max(0, len(row) - k))[max(0, len(row) - k)]  # of the k best
        places = np.flatnonzero((row >= least) & np.isfinite(row))
        found.append(places[np.argsort(-row[places], kind="stable")][:k])
    return found


def per_target(rank: FloatArray) -> dict[str, FloatArray]:
    """The figures of one target each, float64[n]."""
    figures = {f"recall@{k}": (rank < k).astype(np.float64) for k in (10, 50, 100)}
    return {**figures, "ndcg@100": np.where(rank < 100, 1 / np.log2(np.minimum(rank, 100) + 2), 0.0)}


def interval_by_user(
    values: FloatArray, user: Int32Array, seed: int, draws: int = 1000
) -> tuple[float, float]:
    """95% interval of the mean over targets, by drawing users with replacement."""
    _, code = np.unique(user, return_inverse=True)
    totals, counts = np.bincount(code, values), np.bincount(code)
    times = np.random.default_rng(seed).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), draws)
    low, high = np.quantile((times @ totals) / (times @ counts), [0.025, 0.975])
    return float(low), float(high)
