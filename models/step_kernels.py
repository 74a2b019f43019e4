"""Compiled parts of a step without autograd: scores and gradients of what each row has alone, the softmax,
vectors of length one.

B rows, n items of a row alone (the first one its positive), K shared negatives, U items, D width.
"""

import numpy as np

from models.arrays import BoolArray, Float32Array, Int16Array, Int64Array
from models.native import compiled, compiled_into, compiled_sums, float_bits, float_of, half_bits

_LOG2_E = np.float32(np.log2(np.e))
_LEAST = np.float32(-126)
"""The exponent of the smallest float that has all its digits."""
_C0, _C1, _C2, _C3, _C4, _C5, _C6 = (
    np.float32(np.log(2.0) ** power / factorial)
    for power, factorial in ((6, 720), (5, 120), (4, 24), (3, 6), (2, 2), (1, 1), (0, 1))
)
_INFINITE = np.float32(-np.inf)
_SIGN = np.int32(0x7FFFFFFF)


@compiled_into
def _exponential(x: np.float32) -> np.float32:
    """exp(x) of x <= 0, never below 1e-38; a call of libm would be no loop of vectors."""
    power = max(x * _LOG2_E, _LEAST)
    whole = np.floor(power + np.float32(0.5))
    part = power - whole
    value = _C0 * part + _C1
    value = value * part + _C2
    value = value * part + _C3
    value = value * part + _C4
    value = value * part + _C5
    value = value * part + _C6
    return float_of(float_bits(value) + (np.int32(whole) << np.int32(23)))


@compiled_into
def _ordered(x: np.float32) -> np.int32:
    """Ordered as the floats are, and its own inverse on their bits: the largest of integers is a loop of
    vectors.
    """
    bits = float_bits(x)
    return bits ^ ((bits >> np.int32(31)) & _SIGN)


@compiled_sums
def softmax_gradients(
    alone_Bn: Float32Array,
    shared_BK: Float32Array,
    log_expected_Bn: Float32Array,
    log_expected_K: Float32Array,
    hit_Bn: BoolArray,
    hit_BK: BoolArray,
    weight_B: Float32Array,
    half_BK: Int16Array,
) -> float:
    """models.losses.corrected_softmax() of scores and the log of how often each item is expected; hits are
    left out.

    The gradients of the scores: alone_Bn becomes its own, that of shared_BK is written to half_BK, the bits
    of bfloat16. shared_BK is lost.
    """
    total = np.float32(0)
    for row in range(len(weight_B)):
        total += weight_B[row]
    total = max(total, np.float32(1e-12))
    mean = 0.0
    for row in range(len(weight_B)):
        alone, shared, hit = alone_Bn[row], shared_BK[row], hit_BK[row]
        highest = _ordered(_INFINITE)
        for at in range(len(alone)):
            alone[at] = _INFINITE if hit_Bn[row, at] else alone[at] - log_expected_Bn[row, at]
            highest = max(highest, _ordered(alone[at]))
        for at in range(len(shared)):
            shared[at] = _INFINITE if hit[at] else shared[at] - log_expected_K[at]
            highest = max(highest, _ordered(shared[at]))
        most, positive = float_of(highest ^ ((highest >> np.int32(31)) & _SIGN)), alone[0]
        summed = np.float32(0)
        for at in range(len(alone)):
            alone[at] = np.float32(0) if hit_Bn[row, at] else _exponential(alone[at] - most)
            summed += alone[at]
        for at in range(len(shared)):
            shared[at] = np.float32(0) if hit[at] else _exponential(shared[at] - most)
            summed += shared[at]
        weight = weight_B[row] / total
        mean += weight * (np.log(summed) + most - positive)
        factor, half = weight / summed, half_BK[row]
        for at in range(len(alone)):
            alone[at] *= factor
        alone[0] -= weight
        for at in range(len(shared)):
            half[at] = half_bits(shared[at] * factor)
    return mean


@compiled_sums
def alone_scores(
    u_BD: Float32Array, v_UD: Float32Array, places_Bn: Int64Array, scores_Bn: Float32Array
) -> None:
    """scores_Bn = u_BD . v_UD[places_Bn]."""
    for row in range(len(places_Bn)):
        for at in range(places_Bn.shape[1]):
            place, score = places_Bn[row, at], np.float32(0)
            for d in range(u_BD.shape[1]):
                score += u_BD[row, d] * v_UD[place, d]
            scores_Bn[row, at] = score


@compiled
def add_gradients_of_u(
    gradient_Bn: Float32Array, v_UD: Float32Array, places_Bn: Int64Array, of_u_BD: Float32Array
) -> None:
    """of_u_BD += what u_BD has of alone_scores() with these gradients."""
    for row in range(len(places_Bn)):
        for at in range(places_Bn.shape[1]):
            gradient, place = gradient_Bn[row, at], places_Bn[row, at]
            for d in range(v_UD.shape[1]):
                of_u_BD[row, d] += gradient * v_UD[place, d]


@compiled
def add_gradients_of_v(
    gradient_Bn: Float32Array, u_BD: Float32Array, places_Bn: Int64Array, of_v_UD: Float32Array
) -> None:
    """of_v_UD += what v_UD has of alone_scores() with these gradients."""
    for row in range(len(places_Bn)):
        for at in range(places_Bn.shape[1]):
            gradient, place = gradient_Bn[row, at], places_Bn[row, at]
            for d in range(u_BD.shape[1]):
                of_v_UD[place, d] += gradient * u_BD[row, d]


@compiled
def add_at(places_K: Int64Array, given_KD: Float32Array, sums_UD: Float32Array) -> None:
    """sums_UD[places_K] += given_KD, place by place."""
    for k in range(len(places_K)):
        for d in range(given_KD.shape[1]):
            sums_UD[places_K[k], d] += given_KD[k, d]


@compiled_sums
def to_length_one(vectors_ND: Float32Array, shortest: np.float32, lengths_N: Float32Array) -> None:
    """Divide vectors by their length, or by `shortest` where that is more; lengths_N: what each was divided
    by, negative where it was `shortest`.
    """
    for n in range(len(vectors_ND)):
        squares = np.float32(0)
        for d in range(vectors_ND.shape[1]):
            squares += vectors_ND[n, d] * vectors_ND[n, d]
        length = max(np.sqrt(squares), shortest)
        for d in range(vectors_ND.shape[1]):
            vectors_ND[n, d] /= length
        lengths_N[n] = length if length > shortest else -length


@compiled_sums
def through_length_one(vectors_ND: Float32Array, lengths_N: Float32Array, gradient_ND: Float32Array) -> None:
    """gradient_ND of what to_length_one() made becomes that of what it was given."""
    for n in range(len(vectors_ND)):
        along = np.float32(0)
        if lengths_N[n] > 0:
            for d in range(vectors_ND.shape[1]):
                along += vectors_ND[n, d] * gradient_ND[n, d]
        length = abs(lengths_N[n])
        for d in range(vectors_ND.shape[1]):
            gradient_ND[n, d] = (gradient_ND[n, d] - along * vectors_ND[n, d]) / length
