"""Array types by element, for signatures; shapes are in the docstrings."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Float16Array: TypeAlias = npt.NDArray[np.float16]
Float32Array: TypeAlias = npt.NDArray[np.float32]
Float64Array: TypeAlias = npt.NDArray[np.float64]
Int16Array: TypeAlias = npt.NDArray[np.int16]
Int32Array: TypeAlias = npt.NDArray[np.int32]
Int64Array: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
UInt8Array: TypeAlias = npt.NDArray[np.uint8]
UInt16Array: TypeAlias = npt.NDArray[np.uint16]
UInt32Array: TypeAlias = npt.NDArray[np.uint32]
UInt64Array: TypeAlias = npt.NDArray[np.uint64]
Index: TypeAlias = int | np.signedinteger[Any]
"""A whole number in compiled code."""
Tensors: TypeAlias = dict[str, npt.NDArray[Any]]
"""Contents of one file of a bundle: tensor name -> array."""
