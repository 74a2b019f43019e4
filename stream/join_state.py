"""What the impression-action join holds between two intervals, and its bytes in a checkpoint.

Three tables, all bounded by the horizon: the impressions whose horizon is not over, the actions that joined
one of them, and the actions that still wait for an impression.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from stream.event import EVENT_SCHEMA, KINDS
from stream.seals import column

IMPRESSION_COLUMNS = ("event_id", "ts_ms", "user_id", "item_id", "scene", "request_id", "context")
"""Columns of an impression that its joined row repeats as they were logged."""
NO_VALUE = -np.inf
"""Stands for "no value" in the columns below, where a maximum is taken; an event's value is finite."""

OPEN_SCHEMA = pa.schema(
    [
        *(EVENT_SCHEMA.field(name) for name in IMPRESSION_COLUMNS),
        pa.field("emitted", pa.bool_(), nullable=False),  # its first row is out
        pa.field("late", pa.bool_(), nullable=False),  # something came that its first row lacks
    ]
)
"""Impressions whose horizon is not over, in the order in which the archive gave them."""
HELD_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),  # in the table of open impressions
        pa.field("kind", pa.int8(), nullable=False),  # in KINDS
        pa.field("value", pa.float64(), nullable=False),
        pa.field("early", pa.bool_(), nullable=False),  # belongs to the first row
    ]
)
"""Actions of open impressions: the largest value per impression, kind, `early` and interval."""
WAITING_SCHEMA = pa.schema(
    [
        EVENT_SCHEMA.field("request_id"),
        EVENT_SCHEMA.field("item_id"),
        EVENT_SCHEMA.field("ts_ms"),
        pa.field("kind", pa.int8(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
    ]
)
"""Actions without an impression so far."""
_SCHEMAS = {"open": OPEN_SCHEMA, "held": HELD_SCHEMA, "waiting": WAITING_SCHEMA}
_FRAME_ROWS = 262_144
"""Rows per frame of a checkpoint: a frame holds at most 2 GiB."""


@dataclass
class JoinState:
    """The three tables, and the end of the last interval in them (None: nothing was taken yet).

    removed_ms: rows of the intervals that end by then are not kept (None: all are).
    """

    open: pa.Table = field(default_factory=OPEN_SCHEMA.empty_table)
    held: pa.Table = field(default_factory=HELD_SCHEMA.empty_table)
    waiting: pa.Table = field(default_factory=WAITING_SCHEMA.empty_table)
    through_ms: int | None = None
    removed_ms: int | None = None

    def frames(self) -> list[bytes | memoryview]:
        """A head in JSON, then batches of the three tables in Arrow IPC; equal states give equal bytes."""
        tables = {name: getattr(self, name).combine_chunks() for name in _SCHEMAS}
        batches = {name: table.to_batches(max_chunksize=_FRAME_ROWS) for name, table in tables.items()}
        head = {
            "through_ms": self.through_ms,
            "removed_ms": self.removed_ms,
            "kinds": KINDS,
            "frames": {name: len(parts) for name, parts in batches.items()},
        }
        ipc = [memoryview(_ipc(batch)) for parts in batches.values() for batch in parts]
        return [json.dumps(head).encode(), *ipc]

    @classmethod
    def from_frames(cls, frames: Sequence[bytes | memoryview]) -> "JoinState":
        """Inverse of `frames`. Raises ValueError if some are missing."""
        head = json.loads(bytes(frames[0])) if frames else {"frames": {}}
        expected = 1 + sum(head["frames"].values())
        if len(frames) != expected:
            raise ValueError(f"expected {expected} frames, got {len(frames)}")
        tables, place = {}, 1
        for name, schema in _SCHEMAS.items():
            parts = [_batch(frame) for frame in frames[place : place + head["frames"][name]]]
            tables[name] = _renumbered(pa.Table.from_batches(parts, schema=schema), head["kinds"])
            place += len(parts)
        return cls(**tables, **Extent.of(frames[0])._asdict())


class Extent(NamedTuple):
    """Which intervals' rows are there: those with removed_ms < end <= through_ms; None: no bound, nothing."""

    through_ms: int | None = None
    removed_ms: int | None = None

    @classmethod
    def of(cls, frame: bytes | memoryview) -> "Extent":
        """Out of the first frame of a checkpoint alone; those of earlier versions removed nothing by it."""
        head = json.loads(bytes(frame))
        return cls(head["through_ms"], head.get("removed_ms"))


def _renumbered(table: pa.Table, kinds: list[str]) -> pa.Table:
    """The same table with kinds numbered as today, should the contract have gained some in between."""
    if tuple(kinds) == KINDS or "kind" not in table.column_names:
        return table
    numbers = np.array([KINDS.index(kind) if kind in KINDS else -1 for kind in kinds], np.int8)
    place = table.column_names.index("kind")
    return table.set_column(place, table.schema.field(place), pa.array(numbers[column(table, "kind")]))


def _ipc(batch: pa.RecordBatch) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _batch(frame: bytes | memoryview) -> pa.RecordBatch:
    with pa.ipc.open_stream(frame) as reader:
        return reader.read_next_batch()
