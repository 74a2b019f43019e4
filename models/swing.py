"""Swing: two users who share an item vouch for whatever else they share, the more the less they have in
common (A6; Yang et al., "Large Scale Product Graph Construction for Recommendation in E-commerce", 2020).
"""

from __future__ import annotations

import numpy as np

from models.arrays import Float32Array, Float64Array, Int32Array, Int64Array
from models.native import compiled
from models.neighbour_kernels import keep_best, newest_first


@compiled
def swing(
    triggers: Int64Array, offsets: Int64Array, holder: Int32Array, holder_ts: Int64Array,
    start: Int64Array, length: Int32Array, items: Int32Array, item_entries: int,
    users_per_item: int, alpha: float, out_item: Int32Array, out_score: Float32Array,
) -> None:  # fmt: skip
    """Best neighbours of every trigger, into out_item int32[T, n] (-1 = none) and out_score float32[T, n].

    sim(i, j) = sum over the pairs {u, v} of users who hold both of w_u w_v / (alpha + |I_u & I_v|),
    w_u = 1 / sqrt(|I_u|). A pair is counted once. Pairs grow with the square of the holders, therefore only
    the newest `users_per_item` holders of the trigger are read (0 = all); sim(i, j) and sim(j, i) may differ
    then.
    """
    scores: Float64Array = np.zeros(item_entries, np.float64)
    seen_by = np.full(item_entries, -1, np.int64)  # number of the pass whose first user holds the item
    touched = np.empty(item_entries, np.int64)
    shared = np.empty(item_entries, np.int64)
    passes = 0
    for row in range(len(triggers)):
        i = triggers[row]
        chosen = newest_first(holder_ts[offsets[i] : offsets[i + 1]], users_per_item)
        found = 0
        for one in range(len(chosen)):
            u = holder[offsets[i] + chosen[one]]
            for at in range(start[u], start[u] + length[u]):
                seen_by[items[at]] = passes
            for other in range(one + 1, len(chosen)):
                v = holder[offsets[i] + chosen[other]]
                common = 0
                for at in range(start[v], start[v] + length[v]):
                    if seen_by[items[at]] == passes:
                        shared[common] = items[at]
                        common += 1
                weight = 1.0 / (np.sqrt(float(length[u]) * length[v]) * (alpha + common))
                for at in range(common):
                    j = shared[at]
                    if j != i:
                        if scores[j] == 0.0:
                            touched[found] = j
                            found += 1
                        scores[j] += weight
            passes += 1
        keep_best(scores, touched, found, out_item[row], out_score[row])
