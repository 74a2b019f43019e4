"""Compiled sums of rows that lie all over the memory: what a pooled read is, and a row's gradient.

The columns of a sum stay in registers over all of its rows. LLVM makes no such loop of a plain one, whose
sums might be rows of the array it reads, so it is written in its own language.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from llvmlite import ir
from numba.core import cgutils as _cgutils
from numba.core import types
from numba.extending import intrinsic

from models.arrays import Float32Array, Index, Int32Array, Int64Array
from models.native import compiled, compiled_into, in_lanes, multiply_add, prefetch_line

cgutils: Any = _cgutils  # it has no types
_AHEAD = 128
"""Rows are asked for so many reads ahead: of 64 floats they are 32 KB, which the first cache just holds."""
_Block = Callable[[Float32Array, Index, Index, Float32Array, Any, Float32Array, Index, Index], None]


def _block(vectors: int, lanes: int) -> _Block:
    """Compiled: sum_rows() for the columns first:first + vectors * lanes."""

    def typing(
        _: Any, out: Any, at: Any, first: Any, source: Any, index: Any, factors: Any, begin: Any, end: Any
    ) -> tuple[Any, Callable[..., Any]]:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            sums_NE, rows_NE, of_reads, factor_of = (
                context.make_array(signature.args[at])(context, builder, arguments[at]) for at in (0, 3, 4, 5)
            )
            vector, add = ir.VectorType(ir.FloatType(), lanes), multiply_add(builder, lanes)
            width = builder.extract_value(rows_NE.shape, 1)

            def number(value: int) -> Any:
                return ir.Constant(ir.IntType(64), value)

            def vectors_at(data: Any, row: Any) -> list[Any]:
                begins = builder.gep(data, [builder.add(builder.mul(row, width), arguments[2])])
                begins = builder.bitcast(begins, vector.as_pointer())
                return [builder.gep(begins, [number(at)]) for at in range(vectors)]

            def row_of(read: Any) -> Any:
                row = builder.load(builder.gep(of_reads.data, [read]))
                return context.cast(builder, row, signature.args[4].dtype, types.int64)

            last = builder.sub(builder.extract_value(of_reads.shape, 0), number(1))
            sums = [cgutils.alloca_once_value(builder, ir.Constant(vector, None)) for _ in range(vectors)]
            with cgutils.for_range_slice(builder, arguments[6], arguments[7], number(1)) as (read, _):
                coming = builder.add(read, number(_AHEAD))
                coming = builder.select(builder.icmp_signed("<", coming, last), coming, last)
                for place in vectors_at(rows_NE.data, row_of(coming)):
                    prefetch_line(builder, place)
                factor = in_lanes(builder, builder.load(builder.gep(factor_of.data, [read])), lanes)
                for held, place in zip(sums, vectors_at(rows_NE.data, row_of(read)), strict=True):
                    value = builder.load(place, align=4)
                    builder.store(builder.call(add, [factor, value, builder.load(held)]), held)
            for held, place in zip(sums, vectors_at(sums_NE.data, arguments[1]), strict=True):
                builder.store(builder.load(held), place, align=4)
            return context.get_dummy_value()

        whole = types.int64
        return types.void(out, whole, whole, source, index, factors, whole, whole), code

    return cast(_Block, intrinsic(typing))


_wide, _vector, _quarter = _block(4, 16), _block(1, 16), _block(1, 4)


@compiled_into
def sum_rows(
    out: Float32Array,
    at: Index,
    source: Float32Array,
    index: Int32Array | Int64Array,
    factors: Float32Array,
    begin: Index,
    end: Index,
) -> None:
    """Set out[at] to the sum of factors[i] * source[index[i]] over begin <= i < end, added up in this order,
    of contiguous out float32[N, E], source float32[M, E], index int[n], factors float32[n].
    """
    width, first = source.shape[1], 0
    while first + 64 <= width:
        _wide(out, at, first, source, index, factors, begin, end)
        first += 64
    while first + 16 <= width:
        _vector(out, at, first, source, index, factors, begin, end)
        first += 16
    while first + 4 <= width:
        _quarter(out, at, first, source, index, factors, begin, end)
        first += 4
    for column in range(first, width):
        total = np.float32(0)
        for i in range(begin, end):
            total += factors[i] * source[index[i], column]
        out[at, column] = total


@compiled
def pooled_rows(
    rows: Float32Array, index: Int64Array, offsets: Int64Array, factors: Float32Array, out: Float32Array
) -> None:
    """Fill out float32[bags, E]: the sum of factors[i] * rows[index[i]] over the reads i of each bag.

    rows: float32[N, E], index: int64[n], offsets: int64[bags+1], factors: float32[n], all contiguous.
    IndexError for an index that is no row.
    """
    highest = np.uint64(0)
    for i in range(len(index)):
        highest = max(highest, np.uint64(index[i]))
    if len(index) and highest >= np.uint64(len(rows)):
        raise IndexError("pooled_rows: expected indices of rows, got one below 0 or past the last row")
    for bag in range(len(offsets) - 1):
        sum_rows(out, bag, rows, index, factors, offsets[bag], offsets[bag + 1])
