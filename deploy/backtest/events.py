"""A standard event table as the archive would give it, and tables of items and users as the catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from deploy.datasets import DatasetError
from deploy.event_ids import derived_event_ids
from models.arrays import Int64Array
from models.catalogue_columns import CatalogueColumns
from stream.event import EVENT_SCHEMA


@dataclass(frozen=True)
class EventStream:
    """All events in canonical order: by event time, rows of one moment as in the file.

    events: EVENT_SCHEMA; ts_ms: int64[N], ascending.
    """

    events: pa.Table
    ts_ms: Int64Array

    def between(self, start_ms: int | None, end_ms: int) -> pa.Table:
        """Events at start_ms <= ts_ms < end_ms; None = from the first one."""
        first = 0 if start_ms is None else int(np.searchsorted(self.ts_ms, start_ms))
        return self.events.slice(first, int(np.searchsorted(self.ts_ms, end_ms)) - first)


def event_stream(table: pa.Table) -> EventStream:
    """What Kafka and the archive make of a table of `read_events`: key texts, one partition, row = offset."""
    rows = len(table)
    zeros = pa.array(np.zeros(rows, np.int32))
    columns = {
        "event_id": table["event_id"] if "event_id" in table.column_names else derived_event_ids(table),
        "ts_ms": table["ts_ms"],
        "user_id": key_texts(table["user_id"]),
        "item_id": key_texts(table["item_id"]),
        "kind": table["kind"],
        "scene": table["scene"],
        "request_id": table["request_id"],
        "value": table["value"],
        "context": pa.MapArray.from_arrays(
            np.zeros(rows + 1, np.int32), pa.array([], pa.string()), pa.array([], pa.string())
        ),
        "incarnation": zeros,
        "partition": zeros,
        "offset": pa.array(np.arange(rows)),
        "ordinal": zeros,
    }
    arrays = [columns[field.name].cast(field.type) for field in EVENT_SCHEMA]
    events = pa.Table.from_arrays(arrays, schema=EVENT_SCHEMA).combine_chunks()
    return EventStream(events, np.array(events["ts_ms"], np.int64))


def key_texts(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """`stream.keys.encode_id` of a whole column of integers or strings; null and "" stay "" (no item)."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_integer(column.type):
        texts = pc.binary_join_element_wise("#", column.cast(pa.string()), "")
    else:
        texts = column.cast(pa.string())
        texts = pc.if_else(pc.starts_with(texts, "#"), pc.binary_join_element_wise("#", texts, ""), texts)
    return pc.fill_null(texts, "")


def ids_of(keys: pa.Array, kind: pa.DataType) -> pa.Array:
    """The IDs behind key texts: int64 or strings, as the table had them (inverse of `key_texts`)."""
    if pa.types.is_integer(kind):
        return pc.utf8_slice_codeunits(keys, 1).cast(pa.int64())
    return pc.if_else(pc.starts_with(keys, "#"), pc.utf8_slice_codeunits(keys, 1), keys)


def catalogue_columns(items: Path | None, users: Path | None) -> CatalogueColumns:
    """Attributes as facts that hold throughout: the tables carry no times. Raises DatasetError."""
    empty = CatalogueColumns()
    item_table = empty.items if items is None else _attributes(items, "item_id")
    user_table = empty.users if users is None else _attributes(users, "user_id")
    return CatalogueColumns(item_table, user_table, len(item_table) + len(user_table))


def _attributes(path: Path, key: str) -> pa.Table:
    """One row per ID, the last one given; numbers stay numbers, lists stay lists, all else is text."""
    if not path.exists():
        raise DatasetError(f"{path}: no such file; expected a parquet table with {key}")
    table = pq.read_table(path)
    if key not in table.column_names:
        raise DatasetError(f"{path}: missing column {key}; found {', '.join(table.column_names)}")
    keys = key_texts(table[key])
    codes = np.array(keys.dictionary_encode().indices)
    _, last_of_reversed = np.unique(codes[::-1], return_index=True)
    rows = pa.array(np.sort(len(codes) - 1 - last_of_reversed))
    columns = {key: keys.take(rows)}
    for name in table.column_names:
        if name != key:
            columns[name] = _plain(table[name].combine_chunks().take(rows))
    return pa.table(columns)


def _plain(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        return column.cast(pa.int64())
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return pc.if_else(pc.is_nan(column.cast(pa.float64())), None, column.cast(pa.float64()))
    return column if pa.types.is_list(kind) else column.cast(pa.string())
