"""Where simulated events go: parquet files in the standard form, or Kafka."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from deploy.errors import StartError
from stream.producer import EventProducer, changes_of

BEHIND_S = 1.0
"""What a paced run may catch up."""
_ROWS = 200_000  # of a row group: a minute's events alone would make many tiny ones


class ParquetSink:
    """events at `file`; items.parquet and users.parquet beside it. The files appear whole, after the run."""

    def __init__(self, file: Path, users: pa.Table) -> None:
        """Raises StartError where `file` has the name of one of the files beside it."""
        self.tables = {"events": file, "items": file.with_name("items.parquet"),
                       "users": file.with_name("users.parquet")}  # fmt: skip
        if len(set(self.tables.values())) < len(self.tables):
            raise StartError(f"{file}: items.parquet and users.parquet come beside it; choose another name")
        file.parent.mkdir(parents=True, exist_ok=True)
        self._users, self._items = users, list[pa.Table]()
        self._waiting, self._rows = list[pa.Table](), 0
        self._writer: pq.ParquetWriter | None = None

    def items(self, items: pa.Table, ts_ms: int) -> None:
        """Kept for the end; a table has no moment from which its items are known."""
        self._items.append(items)

    def events(self, events: pa.Table) -> None:
        """Written a row group at a time."""
        self._waiting.append(events)
        self._rows += len(events)
        if self._rows >= _ROWS:
            self._flush()

    def __enter__(self) -> Self:
        """The sink itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the files their names; after an error, nothing that was there is replaced."""
        if kind is None:
            self._flush()
        if self._writer is not None:
            self._writer.close()
        if kind is not None:
            return
        if self._writer is None:
            raise StartError("no events: expected some; simulate more days or more requests per day")
        for name, tables in (("items", self._items), ("users", [self._users])):
            pq.write_table(pa.concat_tables(tables), _aside(self.tables[name]), compression="zstd")
        for file in self.tables.values():
            _aside(file).rename(file)

    def _flush(self) -> None:
        if not self._rows:
            return
        table = pa.concat_tables(self._waiting)
        if self._writer is None:
            self._writer = pq.ParquetWriter(_aside(self.tables["events"]), table.schema, compression="zstd")
        self._writer.write_table(table)
        self._waiting, self._rows = [], 0


class KafkaSink:
    """Events and the catalogue through `stream.producer`, at a chosen speed of event time."""

    def __init__(
        self,
        producer: EventProducer,
        users: pa.Table,
        start_ms: int,
        speed: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """speed: event seconds per wall second, None = as fast as it goes."""
        self.producer, self.speed, self.start_ms = producer, speed, start_ms
        self._clock, self._sleep, self._start_s = clock, sleep, clock()
        producer.send_changes(producer.config.users, changes_of(users, "user_id", start_ms))

    def items(self, items: pa.Table, ts_ms: int) -> None:
        """Upserts at their moment, before any event that names them."""
        self.producer.send_changes(self.producer.config.items, changes_of(items, "item_id", ts_ms))

    def events(self, events: pa.Table) -> None:
        """Wait until the last of them has happened, then send all."""
        if self.speed is not None:
            reached_s = (events["ts_ms"][-1].as_py() - self.start_ms) / 1000.0 / self.speed
            wait_s = reached_s - (self._clock() - self._start_s)
            if wait_s > 0:
                self.producer.flush()
                self._sleep(wait_s)
            elif wait_s < -BEHIND_S:
                # After a stall, such as a wait for the server: on at the chosen speed, no rush to catch up.
                self._start_s -= wait_s + BEHIND_S
        self.producer.send_table(events)


def _aside(file: Path) -> Path:
    return file.with_suffix(file.suffix + ".tmp")
