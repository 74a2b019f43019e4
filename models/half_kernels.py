"""Products of matrices of bfloat16 in compiled code, for processors that have the instruction for them
(AVX512-BF16). Of matrices as small as those of a step they take half the time that oneDNN does.

N rows, I inputs of each, P pairs of these, O outputs, a multiple of LANES.
"""

from functools import cache
from typing import Any

import llvmlite.binding as _binding
import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils as _cgutils

from models.arrays import Float32Array, Index, Int16Array, Int32Array
from models.layer_kernels import LANES, Add, sums_of_products
from models.native import compiled, compiled_into, half_bits

_ROWS, _VECTORS = 6, 4
_WIDE = _VECTORS * LANES
binding: Any = _binding  # it has no types
cgutils: Any = _cgutils
config: Any = numba.config


@cache
def has_instruction() -> bool:
    """Whether compiled code may multiply in bfloat16."""
    told = config.CPU_NAME or config.CPU_FEATURES  # to compile for another processor
    return not told and bool(binding.get_host_cpu_features().get("avx512bf16"))


class _BFloat16(ir.Type):  # type: ignore[misc]  # llvmlite knows all floats but this one
    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat16)

    def __hash__(self) -> int:
        return hash(_BFloat16)


def _add_pairs(builder: Any) -> Add:
    """For elements that are pairs of bfloat16."""
    sums, pairs = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(_BFloat16(), 2 * LANES)
    kind = ir.FunctionType(sums, [sums, pairs, pairs])
    add = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512bf16.dpbf16ps.512")

    def added(held: Any, inputs: Any, weights: Any) -> Any:
        return builder.call(add, [held, builder.bitcast(inputs, pairs), builder.bitcast(weights, pairs)])

    return added


_block, _narrow_block, _row, _narrow_row = (
    sums_of_products(rows, vectors, ir.IntType(32), _add_pairs)
    for rows in (_ROWS, 1)
    for vectors in (_VECTORS, 1)
)


@compiled_into
def _sums(x_NP: Int32Array, begin: Index, end: Index, weight_PO: Int32Array, sums: Float32Array) -> Index:
    """Add to `sums` the products of rows from `begin` on; how many these are: one or _ROWS."""
    inputs, wide, first = x_NP[begin:], weight_PO.shape[1], 0
    count = _ROWS if begin + _ROWS <= end else 1
    while first + _WIDE <= wide:
        if count == _ROWS:
            _block(sums, 0, first, inputs, weight_PO)
        else:
            _row(sums, 0, first, inputs, weight_PO)
        first += _WIDE
    while first < wide:
        if count == _ROWS:
            _narrow_block(sums, 0, first, inputs, weight_PO)
        else:
            _narrow_row(sums, 0, first, inputs, weight_PO)
        first += LANES
    return count


@compiled
def multiply(
    x_NP: Int32Array,
    weight_PO: Int32Array,
    bias_O: Float32Array,
    positive_NO: Int16Array,
    relu: bool,
    out_NO: Int16Array,
) -> None:
    """Make out = x @ weight + bias, added up in float32 and rounded once; of the O outputs the first ones,
    as many as out has room for.

    weight_PO: as packed() gives it; bias_O: as wide, or empty for none; out_NO, positive_NO: bits of
    bfloat16. relu: what is below 0 becomes 0; positive_NO: what is not above 0 there becomes 0 in out;
    without rows nothing does.
    """
    rows, outputs = out_NO.shape
    sums = np.empty((_ROWS, weight_PO.shape[1]), np.float32)
    begin = 0
    while begin < rows:
        sums[:] = np.float32(0)
        for n in range(_ROWS):
            for at in range(len(bias_O)):
                sums[n, at] = bias_O[at]
        count = int(_sums(x_NP, begin, rows, weight_PO, sums))
        for n in range(count):
            row = begin + n
            if relu:
                for at in range(outputs):
                    out_NO[row, at] = half_bits(max(sums[n, at], np.float32(0)))
            elif len(positive_NO):
                for at in range(outputs):
                    made = sums[n, at] if positive_NO[row, at] > 0 else np.float32(0)
                    out_NO[row, at] = half_bits(made)
            else:
                for at in range(outputs):
                    out_NO[row, at] = half_bits(sums[n, at])
        begin += count


@compiled
def multiply_unrounded(x_NP: Int32Array, weight_PO: Int32Array, out_NO: Float32Array) -> None:
    """Make out = x @ weight, added up in float32 and left so; of the outputs as many as out has room for.
    x_NP may lie anyhow.
    """
    (rows, outputs), wide = out_NO.shape, weight_PO.shape[1]
    sums = np.empty((_ROWS, wide), np.float32)
    begin = 0
    while begin < rows:
        into = out_NO[begin : begin + _ROWS] if outputs == wide else sums
        into[:] = np.float32(0)
        count = int(_sums(x_NP, begin, rows, weight_PO, into))
        if outputs < wide:
            out_NO[begin : begin + count] = sums[:count, :outputs]
        begin += count


@compiled
def halves(x_ND: Float32Array) -> Int16Array:
    """The bits of x as bfloat16, int16[N, D]; with a column of zeros behind them where D is odd."""
    rows, width = x_ND.shape
    bits = np.empty((rows, width + width % 2), np.int16)
    for n in range(rows):
        for d in range(width):
            bits[n, d] = half_bits(x_ND[n, d])
        if width % 2:
            bits[n, width] = 0
    return bits


@compiled_into
def padded(outputs: Index) -> Index:
    """Outputs of a packed weight: whole vectors."""
    return -(-outputs // LANES) * LANES


@compiled
def packed(weight_IO: Int16Array) -> Int32Array:
    """Bits of bfloat16 as multiply() takes them: pairs of inputs, outputs side by side, zeros for what is
    missing of either.
    """
    inputs, outputs = weight_IO.shape
    pairs = np.zeros((-(-inputs // 2), padded(outputs)), np.int32)
    for pair in range(inputs // 2):
        for to in range(outputs):
            pairs[pair, to] = _pair(weight_IO[2 * pair, to], weight_IO[2 * pair + 1, to])
    if inputs % 2:
        for to in range(outputs):
            pairs[-1, to] = _pair(weight_IO[-1, to], np.int16(0))
    return pairs


@compiled_into
def _pair(even: np.int16, odd: np.int16) -> np.int32:
    """The even one of two inputs is the lower half."""
    return np.int32(even) & np.int32(0xFFFF) | np.int32(odd) << np.int32(16)


@compiled
def packed_turned(weight_OI: Int16Array) -> Int32Array:
    """packed() of the transposed matrix."""
    outputs, inputs = weight_OI.shape
    pairs = np.zeros((-(-inputs // 2), padded(outputs)), np.int32)
    for begin in range(0, outputs, LANES):  # whole cache lines of both sides
        for pair in range(inputs // 2):
            for to in range(begin, min(begin + LANES, outputs)):
                pairs[pair, to] = _pair(weight_OI[to, 2 * pair], weight_OI[to, 2 * pair + 1])
    if inputs % 2:
        for to in range(outputs):
            pairs[-1, to] = _pair(weight_OI[to, -1], np.int16(0))
    return pairs
