"""What the compiled item-to-item similarities share: whose users to read, which neighbours to keep."""

from __future__ import annotations

import numpy as np

from models.arrays import Float32Array, Float64Array, Int32Array, Int64Array
from models.native import compiled


@compiled
def newest_first(ts: Int64Array, most: int) -> Int64Array:
    """Places of the newest `most` of ts int64[n] (0 = all); of equal times the later places are newer."""
    if most == 0 or len(ts) <= most:
        return np.arange(len(ts))
    return np.argsort(ts, kind="mergesort")[::-1][:most].copy()


@compiled
def keep_best(
    scores: Float64Array, touched: Int64Array, found: int, out_item: Int32Array, out_score: Float32Array
) -> None:
    """The best of the items touched[:found], best first, into out_item int32[n] and out_score float32[n];
    ties by entry. Those places of `scores` are 0 again afterwards, ready for the next trigger.
    """
    candidates = np.sort(touched[:found])
    values = np.empty(found, np.float64)
    for place in range(found):
        values[place] = -scores[candidates[place]]
        scores[candidates[place]] = 0.0
    order = np.argsort(values, kind="mergesort")
    for place in range(min(found, len(out_item))):
        out_item[place] = candidates[order[place]]
        out_score[place] = -values[order[place]]
