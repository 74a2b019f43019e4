"""Layers of a perceptron and a linear way around them in bfloat16, forward and back in one compiled call
each: of as few rows as a step has, a call into torch takes as long as a product.

N rows; widths int64[L + 1]: inputs of each of L layers, then outputs of the last one, made even. Matrices of
one row of these after the other lie in one array: what layers read, and the gradients of what they made.
"""

import numpy as np

from models.arrays import Float32Array, Index, Int16Array, Int32Array, Int64Array
from models.half_kernels import multiply, padded
from models.native import compiled, compiled_into, half_bits, half_float


@compiled_into
def _weight(weights: Int32Array, begin: Index, inputs: Index, outputs: Index) -> Int32Array:
    """The one that begins there, packed as half_kernels has it."""
    pairs, wide = (inputs + 1) // 2, padded(outputs)
    return weights[begin : begin + pairs * wide].reshape(pairs, wide)


@compiled_into
def _rows(flat: Int16Array, begin: Index, rows: Index, width: Index) -> Int16Array:
    return flat[begin : begin + rows * width].reshape(rows, width)


@compiled_into
def _add_rounded(a_ND: Int16Array, b_ND: Int16Array, sum_ND: Float32Array) -> None:
    for n in range(len(sum_ND)):
        for d in range(sum_ND.shape[1]):
            sum_ND[n, d] = half_float(a_ND[n, d]) + half_float(b_ND[n, d])


@compiled
def forward(
    known_NE: Float32Array,
    side_NS: Float32Array,
    weights: Int32Array,
    biases: Float32Array,
    widths: Int64Array,
    read: Int16Array,
    vectors_ND: Float32Array,
) -> None:
    """Make vectors = MLP([known, side]) + linear(known), each rounded once, and fill in `read`.

    weights: packed_turned() of every layer and of the linear way; biases: of every layer.
    """
    rows, layers, known = len(known_NE), len(widths) - 1, known_NE.shape[1]
    inputs_NW = _rows(read, 0, rows, widths[0])
    for n in range(rows):
        for at in range(known):
            inputs_NW[n, at] = half_bits(known_NE[n, at])
        for at in range(side_NS.shape[1]):
            inputs_NW[n, known + at] = half_bits(side_NS[n, at])
        for at in range(known + side_NS.shape[1], widths[0]):
            inputs_NW[n, at] = 0
    nothing_ND = np.empty((0, 0), np.int16)
    of_layers_ND, around_ND = np.empty(vectors_ND.shape, np.int16), np.empty(vectors_ND.shape, np.int16)
    at = begin = of_biases = 0
    for layer in range(layers):
        inputs_NI = _rows(read, at, rows, widths[layer]).view(np.int32)
        at += rows * widths[layer]
        weight = _weight(weights, begin, widths[layer], widths[layer + 1])
        bias = biases[of_biases : of_biases + weight.shape[1]]
        begin += weight.size
        of_biases += weight.shape[1]
        if layer < layers - 1:
            multiply(inputs_NI, weight, bias, nothing_ND, True, _rows(read, at, rows, widths[layer + 1]))
        else:
            multiply(inputs_NI, weight, bias, nothing_ND, False, of_layers_ND)
    # Where `known` ends within a pair, the other half of it meets a zero of the weight.
    weight = _weight(weights, begin, known, vectors_ND.shape[1])
    multiply(inputs_NW.view(np.int32), weight, biases[:0], nothing_ND, False, around_ND)
    _add_rounded(of_layers_ND, around_ND, vectors_ND)


@compiled
def backward(
    gradient_ND: Float32Array,
    weights: Int32Array,
    widths: Int64Array,
    read: Int16Array,
    made: Int16Array,
    of_known_NE: Float32Array,
) -> None:
    """Fill in `made`, the gradients of what every layer made, bias included and before its ReLU, the last
    layer's first; make of_known that of `known`, which is left out where it has no columns.

    weights: packed() of every layer, the last one first, of the first one for `known` alone, and of
    the linear way.
    """
    rows, layers, known = len(gradient_ND), len(widths) - 1, of_known_NE.shape[1]
    last_NO = _rows(made, 0, rows, widths[layers])
    for n in range(rows):
        for d in range(gradient_ND.shape[1]):
            last_NO[n, d] = half_bits(gradient_ND[n, d])
        for d in range(gradient_ND.shape[1], widths[layers]):
            last_NO[n, d] = 0
    nothing, nothing_NO = np.empty(0, np.float32), np.empty((0, 0), np.int16)
    begin, at, of_read, made_NO = 0, last_NO.size, len(read), last_NO
    for layer in range(layers - 1, 0, -1):
        weight = _weight(weights, begin, widths[layer + 1], widths[layer])
        begin += weight.size
        of_read -= rows * widths[layer]
        into_NI = _rows(made, at, rows, widths[layer])
        at += into_NI.size
        positive_NI = _rows(read, of_read, rows, widths[layer])
        multiply(made_NO.view(np.int32), weight, nothing, positive_NI, False, into_NI)
        made_NO = into_NI
    if known > 0:
        of_layers_NE, around_NE = np.empty((rows, known), np.int16), np.empty((rows, known), np.int16)
        weight = _weight(weights, begin, widths[1], known)
        multiply(made_NO.view(np.int32), weight, nothing, nothing_NO, False, of_layers_NE)
        weight = _weight(weights, begin + weight.size, widths[layers], known)
        multiply(last_NO.view(np.int32), weight, nothing, nothing_NO, False, around_NE)
        _add_rounded(of_layers_NE, around_NE, of_known_NE)
