"""The file of prebatched rows: Arrow IPC (lz4), one record batch per training batch.

Format version 1. Schema metadata: `freshrecall.prebatch` = version; `freshrecall.origin` = the bundle whose
ID tables the entries refer to; `freshrecall.widths` = JSON {column: [shape of a row]}.

    sequence int64, ts_ms int64, user int32, item int32, weight float32, request int64      as in Samples
    categories list<int32>[C], numbers list<float32>[M]                                     as in Samples
    history list<int32>[L], history_age_s list<int32>[L]       newest last, -1 = none
    negatives list<int32>[n]                                   item entries
    item_categories list<int32>[(1 + n) * C'], item_numbers list<float32>[(1 + n) * M']     the positive first
    log_expected list<float32>[1 + n]

Lists have a fixed size; a column of width 0 is left out. Rows lie in the order of the training. A file
appears under its name only when it is whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.prebatch import PrebatchedRows
from models.samples import Samples

FORMAT_VERSION = 1

_VERSION, _ORIGIN, _WIDTHS = b"freshrecall.prebatch", b"freshrecall.origin", b"freshrecall.widths"
_TYPES: dict[str, np.dtype[Any]] = {
    "sequence": np.dtype(np.int64),
    "ts_ms": np.dtype(np.int64),
    "user": np.dtype(np.int32),
    "item": np.dtype(np.int32),
    "weight": np.dtype(np.float32),
    "request": np.dtype(np.int64),
    "categories": np.dtype(np.int32),
    "numbers": np.dtype(np.float32),
    "history": np.dtype(np.int32),
    "history_age_s": np.dtype(np.int32),
    "negatives": np.dtype(np.int32),
    "item_categories": np.dtype(np.int32),
    "item_numbers": np.dtype(np.float32),
    "log_expected": np.dtype(np.float32),
}


class PrebatchFileError(ValueError):
    """The file is not one of prebatched rows that this project can train on."""


def write_prebatch(path: Path, batches: Iterable[PrebatchedRows], origin: str) -> int:
    """Write batches as one file, fsynced and renamed into place; returns the rows written.

    PrebatchFileError for no batches, or for batches of different widths.
    """
    aside = path.with_name(f".{path.name}.partial")
    written = 0
    try:
        with aside.open("wb") as file:
            writer: pa.ipc.RecordBatchFileWriter | None = None
            for rows in batches:
                schema = _schema(rows, origin)
                if writer is None:
                    options = pa.ipc.IpcWriteOptions(compression="lz4")
                    first, writer = schema, pa.ipc.new_file(file, schema, options=options)
                elif not schema.equals(first, check_metadata=True):
                    raise PrebatchFileError(
                        f"{path}: batch {written} rows in: expected widths {_widths(first)}, "
                        f"got {_widths(schema)}; one file holds rows of one model"
                    )
                writer.write_batch(_record_batch(rows, schema))
                written += len(rows)
            if writer is None:
                raise PrebatchFileError(f"{path}: expected at least one batch of rows, got none")
            writer.close()
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return written


def read_prebatch(path: Path, origin: str) -> Iterator[PrebatchedRows]:
    """The file's batches in order, one at a time in memory; arrays are the caller's own.

    PrebatchFileError for a file that is cut, a newer version, or entries of other ID tables than `origin`'s.
    """
    try:
        source = pa.memory_map(str(path))
        reader = pa.ipc.open_file(source)
    except pa.ArrowInvalid as error:
        raise PrebatchFileError(f"{path}: no whole Arrow file ({error}); write it again") from error
    with source:
        widths = _checked(path, reader.schema, origin)
        for number in range(reader.num_record_batches):
            try:
                batch = reader.get_batch(number)
            except (pa.ArrowInvalid, OSError) as error:
                raise PrebatchFileError(
                    f"{path}: batch {number} cannot be read ({error}); write the file again"
                ) from error
            yield _rows(batch, widths)


def _columns(rows: PrebatchedRows) -> dict[str, npt.NDArray[Any]]:
    samples = {field.name: getattr(rows.samples, field.name) for field in fields(Samples)}
    others = {field.name: getattr(rows, field.name) for field in fields(rows) if field.name != "samples"}
    return samples | others


def _schema(rows: PrebatchedRows, origin: str) -> pa.Schema:
    columns = _columns(rows)
    widths = {name: list(column.shape[1:]) for name, column in columns.items() if column.ndim > 1}
    metadata = {_VERSION: str(FORMAT_VERSION), _ORIGIN: origin, _WIDTHS: json.dumps(widths, sort_keys=True)}
    return pa.schema(_fields(widths), metadata=metadata)


def _fields(widths: dict[str, list[int]]) -> list[pa.Field]:
    """Fields of the columns of format 1 with these widths."""
    answer = []
    for name, dtype in _TYPES.items():
        kind = pa.from_numpy_dtype(dtype)
        width = int(np.prod(widths.get(name, [1])))
        if name in widths and width:
            kind = pa.list_(pa.field("item", kind, nullable=False), width)
        if width:
            answer.append(pa.field(name, kind, nullable=False))
    return answer


def _widths(schema: pa.Schema) -> dict[str, list[int]]:
    widths: dict[str, list[int]] = json.loads(schema.metadata[_WIDTHS])
    return widths


def _record_batch(rows: PrebatchedRows, schema: pa.Schema) -> pa.RecordBatch:
    columns, arrays = _columns(rows), []
    for field in schema:
        flat = pa.array(np.ascontiguousarray(columns[field.name], _TYPES[field.name]).ravel())
        if pa.types.is_fixed_size_list(field.type):
            flat = pa.FixedSizeListArray.from_arrays(flat, type=field.type)
        arrays.append(flat)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _checked(path: Path, schema: pa.Schema, origin: str) -> dict[str, list[int]]:
    """Widths of a file that may be read."""
    metadata = schema.metadata or {}
    if _VERSION not in metadata:
        raise PrebatchFileError(f"{path}: no file of prebatched rows: expected the key {_VERSION.decode()}")
    version = int(metadata[_VERSION])
    if version > FORMAT_VERSION:
        raise PrebatchFileError(
            f"{path}: format version {version}, this program reads up to {FORMAT_VERSION}; upgrade it, or "
            "write the file again"
        )
    found = metadata[_ORIGIN].decode()
    if found != origin:
        raise PrebatchFileError(
            f"{path}: entries of the ID tables of {found!r}, expected {origin!r}; they mean other items "
            "there: produce the rows again from this bundle"
        )
    widths = _widths(schema)
    if not schema.equals(pa.schema(_fields(widths))):
        raise PrebatchFileError(
            f"{path}: expected the columns of format {version}, got {', '.join(schema.names)}; write it again"
        )
    return widths


def _rows(batch: pa.RecordBatch, widths: dict[str, list[int]]) -> PrebatchedRows:
    columns = {}
    for name, dtype in _TYPES.items():
        shape = (batch.num_rows, *widths.get(name, []))
        columns[name] = np.empty(shape, dtype)  # a copy: torch wants arrays that it may write
        if name in batch.schema.names:
            column = batch.column(name)
            if pa.types.is_fixed_size_list(column.type):
                column = column.flatten()
            columns[name].ravel()[:] = column.to_numpy()
    samples = Samples(**{field.name: columns.pop(field.name) for field in fields(Samples)})
    return PrebatchedRows(samples, **columns)
