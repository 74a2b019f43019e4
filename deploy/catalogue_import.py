"""Tables of items and users into the catalogue topics."""

import datetime
import numbers
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from deploy.datasets import DatasetError
from stream.change import Change
from stream.producer import EventProducer
from stream.topics import KafkaConfig

ROWS_PER_MESSAGE = 200
KNOWN_SINCE_MS = 1  # a table without times describes all of history


def import_catalogue(kafka: KafkaConfig, items: Path | None, users: Path | None) -> int:
    """Upsert every row of parquet tables keyed by `item_id` / `user_id`; other columns are attributes.

    Returns the number of changes sent. Raises DatasetError for a table without its key, Unreachable.
    """
    sent = 0
    with EventProducer(kafka) as producer:
        for path, key, topic in ((items, "item_id", kafka.items), (users, "user_id", kafka.users)):
            if path is None:
                continue
            for changes in changes_of(path, key):
                # By ID, like every change: of two imports the later one counts, also where times are equal.
                producer.send_changes(topic, changes)
                sent += len(changes)
    return sent


def changes_of(path: Path, key: str) -> Iterator[list[Change]]:
    """The rows of a table as upserts, some at a time."""
    if not path.exists():
        raise DatasetError(f"{path}: no such file; expected a parquet table with {key}")
    file = pq.ParquetFile(path)
    if key not in file.schema_arrow.names:
        raise DatasetError(f"{path}: missing column {key}; found {', '.join(file.schema_arrow.names)}")
    for batch in file.iter_batches(ROWS_PER_MESSAGE):
        yield [
            Change(id=row.pop(key), ts_ms=KNOWN_SINCE_MS, attributes=_attributes(row))
            for row in batch.to_pylist()
        ]


def _attributes(row: dict[str, Any]) -> dict[str, str | int | float | bool]:
    """Numbers stay numbers, everything else becomes text."""
    return {name: _value(value) for name, value in row.items() if value is not None and value == value}


def _value(value: Any) -> str | int | float | bool:
    if isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, numbers.Real):
        return float(value)
    return value.isoformat() if isinstance(value, (datetime.date, datetime.datetime)) else str(value)
