"""The package's door to numba: compiled functions that release the GIL and keep their Python signature."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from models.arrays import Index, UInt8Array

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """Compile `function` with numba (nopython, on-disk cache, GIL released) under its own type."""
    return cast(F, numba.njit(cache=True, nogil=True)(function))


def compiled_into(function: F) -> F:
    """The same for what the callers' loops consist of: no call is left, and none of what a call does to count
    references to arrays.
    """
    return cast(F, numba.njit(cache=True, nogil=True, forceinline=True)(function))


def compiled_sums(function: F) -> F:
    """The same for sums of floats, whose terms it may add in another order, several at a time: the same on
    every run of a machine.
    """
    return cast(F, numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})(function))


def _load_word(typing: Any, data: Any, at: Any) -> tuple[Any, Callable[..., Any]]:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        first = builder.gep(array.data, [arguments[1]])
        return builder.load(builder.bitcast(first, ir.IntType(64).as_pointer()), align=1)

    return types.uint64(data, types.int64), code


load_word = cast(Callable[[UInt8Array, Index], np.uint64], intrinsic(_load_word))
"""data[at:at + 8] of uint8[n] in one read, the lowest byte first; unchecked, for compiled code only."""


def in_lanes(builder: Any, value: Any, lanes: int) -> Any:
    """LLVM's vector that has a value in each of its lanes."""
    none = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first, everywhere = ir.IntType(32)(0), ir.Constant(ir.VectorType(ir.IntType(32), lanes), None)
    return builder.shuffle_vector(builder.insert_element(none, value, first), none, everywhere)


def multiply_add(builder: Any, lanes: int) -> Any:
    """LLVM's function a * b + c of vectors of float32, in one instruction where the processor has one."""
    vector = ir.VectorType(ir.FloatType(), lanes)
    return builder.module.declare_intrinsic(
        f"llvm.fmuladd.v{lanes}f32", (), ir.FunctionType(vector, [vector] * 3)
    )


def prefetch_line(builder: Any, place: Any) -> None:
    """Have LLVM's builder begin to fetch the cache line that a pointer leads into."""
    byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    wanted = builder.module.declare_intrinsic(
        "llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, number, number, number])
    )
    # To read, for all caches, of data.
    builder.call(wanted, [builder.bitcast(place, byte), number(0), number(3), number(1)])


def _prefetch(typing: Any, data: Any, at: Any) -> tuple[Any, Callable[..., Any]]:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        prefetch_line(builder, builder.gep(array.data, [arguments[1]]))
        return context.get_dummy_value()

    return types.void(data, types.int64), code


prefetch = cast(Callable[[Any, Index], None], intrinsic(_prefetch))
"""Begin to fetch the cache line of a contiguous array's element `at` (flat); any `at` is harmless."""


def _same_bits(taken: Any, given: Any) -> Callable[..., Any]:
    def typing(_: Any, value: Any) -> tuple[Any, Callable[..., Any]]:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], context.get_value_type(given))

        return given(taken), code

    return typing


float_bits = cast(Callable[[np.float32], np.int32], intrinsic(_same_bits(types.float32, types.int32)))
"""The four bytes of a float as an integer, for compiled code only."""
float_of = cast(Callable[[np.int32], np.float32], intrinsic(_same_bits(types.int32, types.float32)))
"""The inverse."""


@compiled_into
def half_bits(x: np.float32) -> np.int16:
    """The bits of x as bfloat16, rounded to even, for compiled code only."""
    bits = float_bits(x)
    return np.int16((bits + np.int32(0x7FFF) + ((bits >> np.int32(16)) & np.int32(1))) >> np.int32(16))


@compiled_into
def half_float(half: np.int16) -> np.float32:
    """The inverse: what these bits of bfloat16 are."""
    return float_of(np.int32(half) << np.int32(16))


LINE_BYTES = 64
"""Of a cache line."""
FLOATS_OF_A_LINE = LINE_BYTES // 4
"""float32 of one."""
