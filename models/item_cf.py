"""ItemCF: items that the same users acted on, close in time (A6; Linden et al., IEEE Internet Computing 2003,
with the user damping of Breese et al., UAI 1998).
"""

from __future__ import annotations

import numpy as np

from models.arrays import Float32Array, Float64Array, Int32Array, Int64Array
from models.native import compiled
from models.neighbour_kernels import keep_best, newest_first


@compiled
def item_cf(
    triggers: Int64Array, offsets: Int64Array, holder: Int32Array, holder_ts: Int64Array,
    start: Int64Array, length: Int32Array, items: Int32Array, times: Int64Array,
    counts: Float64Array, as_of: int, users_per_item: int,
    half_life_ms: float, gap_half_life_ms: float, backward: float, shrinkage: float,
    out_item: Int32Array, out_score: Float32Array,
) -> None:  # fmt: skip
    """Best neighbours of every trigger, into out_item int32[T, n] (-1 = none) and out_score float32[T, n].

    sim(i, j) = sum over the users u who hold both of
        1 / log(1 + |I_u|) * 2^-(age of the later event / half_life_ms) * 2^-(time between / gap_half_life_ms)
        * (1 where j came after i or with it, else `backward`)
    over sqrt(c_i c_j) + shrinkage; c = decayed number of holders (`counts`). |I_u| is at least 2 there, so
    the damping is finite. A half-life of 0 does not decay. Of a trigger with more holders than
    `users_per_item` (0 = all) the newest are read, and their sum is scaled up by the share that was left out.
    """
    scores = np.zeros(len(counts), np.float64)
    touched = np.empty(len(counts), np.int64)
    for row in range(len(triggers)):
        i = triggers[row]
        chosen = newest_first(holder_ts[offsets[i] : offsets[i + 1]], users_per_item)
        found = 0
        for place in chosen:
            u, ts = holder[offsets[i] + place], holder_ts[offsets[i] + place]
            damping = 1.0 / np.log(1.0 + length[u])
            for at in range(start[u], start[u] + length[u]):
                j = items[at]
                if j == i:
                    continue
                weight = damping
                if times[at] < ts:
                    weight *= backward
                if half_life_ms > 0.0:
                    weight *= 2.0 ** ((max(ts, times[at]) - as_of) / half_life_ms)
                if gap_half_life_ms > 0.0:
                    weight *= 2.0 ** (-abs(ts - times[at]) / gap_half_life_ms)
                if weight == 0.0:
                    continue  # no evidence; a touched item is one with a score above 0
                if scores[j] == 0.0:
                    touched[found] = j
                    found += 1
                scores[j] += weight
        scale = (offsets[i + 1] - offsets[i]) / max(1, len(chosen))
        for place in range(found):
            j = touched[place]
            scores[j] *= scale / (np.sqrt(counts[i] * counts[j]) + shrinkage)
        keep_best(scores, touched, found, out_item[row], out_score[row])
