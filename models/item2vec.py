"""Item2vec: item vectors from skip-gram with negative sampling over what users took one after another.

Maximises log s(v_i . c_j) + sum over negatives log s(-v_i . c_n) for items i, j at most `window` apart in one
user's sequence; s is the logistic function, v the item vectors, c the context vectors, negatives ~ count^0.75
(Barkan and Koenigstein, 2016; Mikolov et al., NeurIPS 2013). The vectors start a model's item rows.
"""

from __future__ import annotations

import numpy as np

from models.arrays import Float32Array, Float64Array, Index, Int32Array, Int64Array
from models.native import compiled

_NOISE_POWER = 0.75


def item2vec(
    user: Int32Array,
    item: Int32Array,
    items: int,
    dim: int,
    passes: int,
    seed: int,
    window: int = 5,
    negatives: int = 5,
    rate: float = 0.025,
) -> Float32Array:
    """Vectors float32[items, dim] of item entries; items that never occur stay zero.

    user, item: int32[N] entries, each user's in the order of time (user -1 = nobody known, left out).
    rate: first step size, falling linearly to nearly nothing. Deterministic by seed.
    """
    offsets, sequence = sequences(user, item)
    counts = np.bincount(sequence, minlength=items)
    generator = np.random.Generator(np.random.Philox(key=[seed, 0]))
    vectors = ((generator.random((items, dim)) - 0.5) / dim).astype(np.float32)
    vectors[counts == 0] = 0.0
    if len(sequence) == 0:
        return vectors
    noise = np.cumsum(counts.astype(np.float64) ** _NOISE_POWER)
    contexts = np.zeros((items, dim), np.float32)
    _train(offsets, sequence, vectors, contexts, noise, window, negatives, rate, passes, seed)
    return vectors


def sequences(user: Int32Array, item: Int32Array) -> tuple[Int64Array, Int64Array]:
    """(offsets int64[users + 1], items int64[n]): every user's items, in the given order."""
    known = user >= 0
    order = np.argsort(user[known], kind="stable")
    ordered = user[known][order]
    starts = np.flatnonzero(np.diff(ordered, prepend=np.int32(-1)))
    return np.append(starts, len(ordered)).astype(np.int64), item[known][order].astype(np.int64)


@compiled
def _pair(
    v_D: Float32Array,
    contexts: Float32Array,
    chosen: Int64Array,
    rate: float,
    gradient_D: Float32Array,
) -> None:
    """One step for an item and its contexts; chosen: the true context first, then negatives (-1 = none)."""
    gradient_D[:] = 0.0
    for at in range(len(chosen)):
        if chosen[at] < 0:
            continue
        c_D = contexts[chosen[at]]
        dot = 0.0
        for d in range(len(v_D)):
            dot += v_D[d] * c_D[d]
        label = 1.0 if at == 0 else 0.0
        step = np.float32(rate * (label - 1.0 / (1.0 + np.exp(-dot))))
        for d in range(len(v_D)):
            gradient_D[d] += step * c_D[d]
            c_D[d] += step * v_D[d]
    for d in range(len(v_D)):
        v_D[d] += gradient_D[d]


@compiled
def _train(
    offsets: Int64Array,
    sequence: Int64Array,
    vectors: Float32Array,
    contexts: Float32Array,
    noise: Float64Array,
    window: Index,
    negatives: Index,
    rate: float,
    passes: Index,
    seed: Index,
) -> None:
    np.random.seed(seed % 4294967295)  # the compiled generator, not NumPy's global one
    chosen = np.empty(1 + negatives, np.int64)
    gradient_D = np.empty(vectors.shape[1], np.float32)
    done, total = 0, passes * len(sequence)
    for _ in range(passes):
        for row in range(len(offsets) - 1):
            for at in range(offsets[row], offsets[row + 1]):
                now = rate * max(1.0 - done / total, 1e-4)
                done += 1
                for near in range(max(offsets[row], at - window), min(offsets[row + 1], at + window + 1)):
                    if sequence[near] == sequence[at]:
                        continue  # the item itself, or the same one again: it says nothing about others
                    chosen[0] = sequence[near]
                    for k in range(negatives):
                        drawn = np.searchsorted(noise, np.random.random() * noise[-1], side="right")
                        drawn = min(drawn, len(noise) - 1)
                        chosen[1 + k] = -1 if drawn == chosen[0] else drawn
                    _pair(vectors[sequence[at]], contexts, chosen, now, gradient_D)
