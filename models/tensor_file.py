"""Named arrays in one safetensors file, streamed: no second copy in memory.

Layout (https://github.com/huggingface/safetensors#format): 8 bytes header length (little endian), JSON
header {name: {dtype, shape, data_offsets}}, then the arrays back to back. The header is padded with spaces
so that the data begins on a multiple of 64 bytes, and wide types come first, so that each array is usable
in place. The same arrays always give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_ALIGN = 64
_NAMES: dict[np.dtype[Any], str] = {
    np.dtype(np.float64): "F64",
    np.dtype(np.float32): "F32",
    np.dtype(np.float16): "F16",
    np.dtype(np.int64): "I64",
    np.dtype(np.int32): "I32",
    np.dtype(np.int16): "I16",
    np.dtype(np.int8): "I8",
    np.dtype(np.uint64): "U64",
    np.dtype(np.uint32): "U32",
    np.dtype(np.uint16): "U16",
    np.dtype(np.uint8): "U8",
    np.dtype(np.bool_): "BOOL",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


class TensorFileError(ValueError):
    """The bytes are not a safetensors file this project can use."""


class Writable(Protocol):
    """What all of a part can be written to."""

    def write(self, part: memoryview, /) -> object:
        """Write all of it."""
        ...


def write_tensors(file: Writable, tensors: Mapping[str, Array]) -> None:
    """Write `tensors` to an open binary file. Raises TensorFileError for a dtype that it cannot hold."""
    arrays = {name: np.ascontiguousarray(value).reshape(value.shape) for name, value in tensors.items()}
    for name, array in arrays.items():
        if array.dtype not in _NAMES:
            raise TensorFileError(
                f"tensor {name!r}: dtype {array.dtype} has no safetensors type; expected one of "
                f"{', '.join(str(d) for d in _NAMES)}"
            )
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header: dict[str, Any] = {}
    offset = 0
    for name in order:
        array = arrays[name]
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGN)
    file.write(memoryview(len(text).to_bytes(8, "little") + text))
    for name in order:
        if arrays[name].nbytes:
            file.write(arrays[name].reshape(-1).view(np.uint8).data)


def read_tensors(path: Path) -> dict[str, Array]:
    """Every array of a file, as read-only views of one buffer. Raises TensorFileError with file and
    reason.
    """
    size = path.stat().st_size
    buffer = np.empty(size, np.uint8)
    with path.open("rb", buffering=0) as file:
        view, read = buffer.data, 0
        while read < size:
            got = file.readinto(view[read:])
            if not got:
                raise TensorFileError(f"{path}: expected {size} bytes, got {read}")
            read += got
    buffer.flags.writeable = False
    if size < 8:
        raise TensorFileError(f"{path}: expected at least 8 bytes, got {size}")
    length = int(buffer[:8].view(np.uint64)[0])
    if 8 + length > size:
        raise TensorFileError(f"{path}: expected a header of {length} bytes, got {size - 8}")
    try:
        header = json.loads(bytes(buffer[8 : 8 + length]))
        return {
            name: _view(path, name, entry, buffer[8 + length :])
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise TensorFileError(f"{path}: expected a safetensors header, got {error!r}") from error


def _view(path: Path, name: str, entry: dict[str, Any], data: Array) -> Array:
    begin, end = entry["data_offsets"]
    dtype: np.dtype[Any] = _DTYPES[entry["dtype"]]
    expected = int(np.prod(entry["shape"], dtype=np.int64)) * dtype.itemsize
    if not 0 <= begin <= end <= data.nbytes or end - begin != expected:
        raise TensorFileError(
            f"{path}: tensor {name!r}: expected {expected} bytes inside {data.nbytes}, got [{begin}, {end})"
        )
    array: Array = data[begin:end].view(dtype)
    return array.reshape(entry["shape"])
