"""Named arrays in one safetensors file, streamed and mapped: no second copy in memory.

Layout (https://github.com/huggingface/safetensors#format): 8 bytes header length (little endian), JSON
header {name: {dtype, shape, data_offsets}}, then the arrays back to back. The header is padded with spaces
so that the data begins on a multiple of 64 bytes, and wide types come first, so that each array is usable
in place. The same arrays always give the same bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from models.mapped_file import map_file, read_scattered
from models.pages import touch

Array = npt.NDArray[Any]

_ALIGN = 64
_MAPPED_FROM = 1 << 20
"""Bytes from which on mapping an array costs less than reading it."""
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


def read_tensors(path: Path, only: Container[str] | None = None) -> dict[str, Array]:
    """Every array of a file, or those named in `only`, read-only; a large one is mapped, with all its pages
    (models/mapped_file.py). Each is freed by itself. Raises TensorFileError with file and reason.
    """
    arrays = {}
    with path.open("rb", buffering=0) as file:
        for name, place in _places(path, file).items():
            if only is None or name in only:
                mapped = _mapped(path, place) if place.nbytes >= _MAPPED_FROM else None
                if mapped is not None:
                    touch(mapped.reshape(-1).view(np.uint8))
                    read_scattered(mapped.reshape(-1).view(np.uint8))
                arrays[name] = _read(path, file, place) if mapped is None else mapped
    return arrays


def map_tensor(path: Path, name: str) -> Array:
    """One array of a file, read-only, of which only that is read which is asked for. Raises TensorFileError
    with file and reason.
    """
    with path.open("rb", buffering=0) as file:
        places = _places(path, file)
        if name not in places:
            raise TensorFileError(f"{path}: expected a tensor {name!r}, got {', '.join(places)}")
        mapped = _mapped(path, places[name])
        if mapped is None:
            return _read(path, file, places[name])
        read_scattered(mapped.reshape(-1).view(np.uint8))
        return mapped


def _mapped(path: Path, place: _Place) -> Array | None:
    """None where it does not lie as its type has to in memory: write_tensors() sees to it, others may not."""
    if place.begin % place.dtype.itemsize:
        return None
    data = map_file(path)[place.begin : place.begin + place.nbytes]
    array: Array = data.view(place.dtype).reshape(place.shape)
    return array


def _read(path: Path, file: FileIO, place: _Place) -> Array:
    array = np.empty(place.shape, place.dtype)
    file.seek(place.begin)
    filled(path, file, array.reshape(-1).view(np.uint8))
    array.flags.writeable = False
    return array


@dataclass(frozen=True)
class _Place:
    """Where an array lies: its first byte in the file."""

    dtype: np.dtype[Any]
    shape: Sequence[int]
    begin: int

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def _places(path: Path, file: FileIO) -> dict[str, _Place]:
    size = os.fstat(file.fileno()).st_size
    if size < 8:
        raise TensorFileError(f"{path}: expected at least 8 bytes, got {size}")
    length = int.from_bytes(file.read(8), "little")
    if 8 + length > size:
        raise TensorFileError(f"{path}: expected a header of {length} bytes, got {size - 8}")
    header = filled(path, file, np.empty(length, np.uint8))
    try:
        return {
            name: _place(path, name, entry, 8 + length, size)
            for name, entry in json.loads(header.tobytes()).items()
            if name != "__metadata__"
        }
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise TensorFileError(f"{path}: expected a safetensors header, got {error!r}") from error


def _place(path: Path, name: str, entry: dict[str, Any], first: int, size: int) -> _Place:
    begin, end = entry["data_offsets"]
    dtype: np.dtype[Any] = _DTYPES[entry["dtype"]]
    expected = prod(entry["shape"]) * dtype.itemsize
    if not 0 <= begin <= end <= size - first or end - begin != expected:
        raise TensorFileError(
            f"{path}: tensor {name!r}: expected {expected} bytes inside {size - first}, got [{begin}, {end})"
        )
    return _Place(dtype, entry["shape"], first + begin)


def filled(path: Path, file: FileIO, into: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """`into`, with the next bytes of an unbuffered file. Raises TensorFileError where it ends before."""
    view, read = into.data, 0
    while read < len(into):
        got = file.readinto(view[read:])
        if not got:
            raise TensorFileError(f"{path}: expected {len(into) - read} bytes more, got none")
        read += got
    return into
