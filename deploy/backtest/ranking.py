"""Exact ranks and best lists from dense scores."""

from __future__ import annotations

import numpy as np

from models.arrays import Float32Array, Float64Array, Int32Array, Int64Array
from models.native import compiled


@compiled
def ranked(
    scores: Float32Array, target: Int32Array, barred_offsets: Int64Array, barred: Int32Array,
    rank: Float64Array, best: Int32Array,
) -> None:  # fmt: skip
    """Rank of each row's target and the row's best places, by brute force.

    scores: float32[N, K]; target: int32[N] place of the target, -1 = not among the K; barred: int32 places
    (-1 = none of the K) that are left out of row n, barred_offsets int64[N+1].
    rank: float64[N], filled with the number of better places; ties count at their expected rank; inf for a
    target that is not there (or not scored). best: int32[N, k], filled best first, ties by place, -1 beyond.
    """
    rows, places = scores.shape
    k = best.shape[1]
    stamp = np.full(places, -1, np.int64)
    heap_score = np.empty(k, np.float32)
    heap_place = np.empty(k, np.int32)
    for n in range(rows):
        for at in range(barred_offsets[n], barred_offsets[n + 1]):
            if barred[at] >= 0:
                stamp[barred[at]] = n
        held = 0
        own = scores[n, target[n]] if target[n] >= 0 else -np.inf
        above, equal = 0, 0
        for place in range(places):
            score = scores[n, place]
            if stamp[place] == n or not score > -np.inf:
                continue
            if score > own:
                above += 1
            elif score == own:
                equal += 1
            if held < k:
                at = held
                held += 1
                while at > 0:  # sift up; the worst one is on top, of equal scores the later place
                    parent = (at - 1) // 2
                    if heap_score[parent] > score or (
                        heap_score[parent] == score and heap_place[parent] < place
                    ):
                        heap_score[at], heap_place[at] = heap_score[parent], heap_place[parent]
                        at = parent
                    else:
                        break
                heap_score[at], heap_place[at] = score, place
            elif score > heap_score[0]:
                _replace_top(heap_score, heap_place, held, score, place)
        rank[n] = above + (equal - 1) / 2 if own > -np.inf else np.inf
        for at in range(held, k):
            best[n, at] = -1
        while held > 0:
            held -= 1
            best[n, held] = heap_place[0]
            _replace_top(heap_score, heap_place, held, heap_score[held], heap_place[held])


@compiled
def _replace_top(
    heap_score: Float32Array, heap_place: Int32Array, size: int, score: float, place: int
) -> None:
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        right = child + 1
        if right < size and (
            heap_score[right] < heap_score[child]
            or (heap_score[right] == heap_score[child] and heap_place[right] > heap_place[child])
        ):
            child = right
        if heap_score[child] < score or (heap_score[child] == score and heap_place[child] > place):
            heap_score[at], heap_place[at] = heap_score[child], heap_place[child]
            at = child
        else:
            break
    if size > 0:
        heap_score[at], heap_place[at] = score, place
