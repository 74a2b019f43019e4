"""Layers of a perceptron over a few rows, in compiled code. What comes of a row depends on no other one, to
the bit: products are added up in the order of the inputs, however many rows are taken together.

Sums stay in registers: of four rows and 64 outputs at a time, for which a weight is read once. LLVM makes no
such loop of a plain one, so it is written in its own language.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from llvmlite import ir
from numba.core import cgutils as _cgutils
from numba.core import types
from numba.extending import intrinsic

from models.aligned import aligned_zeros
from models.arrays import Float32Array, Index, Int64Array
from models.native import FLOATS_OF_A_LINE, compiled, compiled_into, in_lanes, multiply_add

cgutils: Any = _cgutils  # it has no types
LANES = 16
"""Elements of a vector; where the processor has shorter ones, LLVM takes several."""
_ROWS, _OUTPUTS = 4, 64
Add = Callable[[Any, Any, Any], Any]


def sums_of_products(
    rows: int, vectors: int, element: Any, adds: Callable[[Any], Add]
) -> Callable[[Float32Array, Index, Index, Any, Any], None]:
    """Compiled: out[n:n + rows, first:first + 16 * vectors] += x[n:n + rows, :I] @ weight there, of
    contiguous out float32[N, O] and weight [I, O], and x [N, I or more] that may lie anyhow.

    element: LLVM's type of x and weight; adds: of a builder, what makes new sums of (16 sums, one element of
    x 16 times, 16 of weight).
    """

    def typing(_: Any, out: Any, n: Any, first: Any, x: Any, weight: Any) -> tuple[Any, Callable[..., Any]]:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            out_NO, x_NI, weight_IO = (
                context.make_array(signature.args[at])(context, builder, arguments[at]) for at in (0, 3, 4)
            )
            inputs, outputs = (builder.extract_value(weight_IO.shape, at) for at in (0, 1))
            vector, given = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(element, LANES)
            add = adds(builder)

            def number(value: int) -> Any:
                return ir.Constant(ir.IntType(64), value)

            def x_at(row: Any, at: Any) -> Any:
                if signature.args[3].layout == "C":
                    wide = builder.extract_value(x_NI.shape, 1)
                    return builder.gep(x_NI.data, [builder.add(builder.mul(row, wide), at)])
                strides = (builder.extract_value(x_NI.strides, side) for side in (0, 1))
                skipped = builder.add(*map(builder.mul, (row, at), strides))
                return cgutils.pointer_add(builder, x_NI.data, skipped)

            def vectors_at(data: Any, row: Any, kind: Any) -> list[Any]:
                begin = builder.gep(data, [builder.add(builder.mul(row, outputs), arguments[2])])
                begin = builder.bitcast(begin, kind.as_pointer())
                return [builder.gep(begin, [number(at)]) for at in range(vectors)]

            of_rows = [builder.add(arguments[1], number(row)) for row in range(rows)]
            places = [place for row in of_rows for place in vectors_at(out_NO.data, row, vector)]
            sums = [cgutils.alloca_once(builder, vector) for _ in places]
            for place, held in zip(places, sums, strict=True):
                builder.store(builder.load(place, align=4), held)
            with cgutils.for_range(builder, inputs) as loop:
                weights = [builder.load(at, align=4) for at in vectors_at(weight_IO.data, loop.index, given)]
                for row, of_row in enumerate(of_rows):
                    value = in_lanes(builder, builder.load(x_at(of_row, loop.index)), LANES)
                    for held, of in zip(sums[row * vectors : (row + 1) * vectors], weights, strict=True):
                        builder.store(add(builder.load(held), value, of), held)
            for place, held in zip(places, sums, strict=True):
                builder.store(builder.load(held), place, align=4)
            return context.get_dummy_value()

        return types.void(out, types.int64, types.int64, x, weight), code

    return cast(Callable[[Float32Array, Index, Index, Any, Any], None], intrinsic(typing))


def _add_floats(builder: Any) -> Add:
    add = multiply_add(builder, LANES)
    return lambda held, inputs, weights: builder.call(add, [inputs, weights, held])


_four_rows, _two_rows, _row = (
    sums_of_products(rows, _OUTPUTS // LANES, ir.FloatType(), _add_floats) for rows in (_ROWS, 2, 1)
)
_row_by_one = sums_of_products(1, 1, ir.FloatType(), _add_floats)


@compiled_into
def _add_products(out_NO: Float32Array, x_NI: Float32Array, weight_IO: Float32Array) -> None:
    """Out += x[:, :I] @ weight."""
    rows, outputs, first = len(out_NO), out_NO.shape[1], 0
    while first + _OUTPUTS <= outputs:
        n = 0
        while n + _ROWS <= rows:
            _four_rows(out_NO, n, first, x_NI, weight_IO)
            n += _ROWS
        if n + 2 <= rows:
            _two_rows(out_NO, n, first, x_NI, weight_IO)
            n += 2
        if n < rows:
            _row(out_NO, n, first, x_NI, weight_IO)
        first += _OUTPUTS
    while first + LANES <= outputs:
        for n in range(rows):
            _row_by_one(out_NO, n, first, x_NI, weight_IO)
        first += LANES
    for n in range(rows):
        for at in range(len(weight_IO)):
            for to in range(first, outputs):
                out_NO[n, to] += x_NI[n, at] * weight_IO[at, to]


@compiled
def perceptron(x_NI: Float32Array, weights: Float32Array, layers: Int64Array) -> Float32Array:
    """MLP(x) + linear(first inputs of x), float32[N, D], ReLU between layers.

    layers: int64[L, 3] (where it begins in weights, inputs, outputs), the last one of linear; weights: of
    each layer float32[inputs, outputs], then its bias float32[outputs], which linear has none of.
    """
    rows, into = len(x_NI), x_NI
    for layer in range(len(layers)):
        begin, inputs, outputs = layers[layer]
        end = begin + inputs * outputs
        weight_IO = weights[begin:end].reshape(inputs, outputs)
        if layer == len(layers) - 1:
            _add_products(into, x_NI, weight_IO)
            break
        out_NO = np.empty((rows, outputs), np.float32)
        out_NO[:] = weights[end : end + outputs]
        _add_products(out_NO, into, weight_IO)
        if layer < len(layers) - 2:
            for n in range(rows):
                for to in range(outputs):
                    out_NO[n, to] = max(out_NO[n, to], np.float32(0.0))
        into = out_NO
    return into


def packed(layers: Sequence[tuple[Float32Array, Float32Array | None]]) -> tuple[Float32Array, Int64Array]:
    """(weights, layers) as perceptron() takes them, of (weight float32[outputs, inputs], bias) each; a layer
    begins where a cache line does.
    """
    places, begin = np.empty((len(layers), 3), np.int64), 0
    for place, (weight_OI, _) in zip(places, layers, strict=True):
        place[:] = begin, weight_OI.shape[1], len(weight_OI)
        begin += -(-(weight_OI.size + len(weight_OI)) // FLOATS_OF_A_LINE) * FLOATS_OF_A_LINE
    weights = aligned_zeros(begin)
    for (first, inputs, outputs), (weight_OI, bias) in zip(places.tolist(), layers, strict=True):
        end = first + inputs * outputs
        weights[first:end] = weight_OI.T.ravel()
        weights[end : end + outputs] = 0 if bias is None else bias
    return weights, places
