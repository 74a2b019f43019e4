"""The consumer joins what it took in, whatever becomes of the updater beside it."""

import threading
from pathlib import Path

import pyarrow as pa
import pytest

from deploy.config import Config
from deploy.consumer import run_consumer
from deploy.wiring import open_producer
from stream.joined_log import JoinedReader
from tests.deploy.waiting import eventually
from updater.incremental import IncrementalUpdater

HOUR = 3_600_000
START = 1_700_000_000_000 // HOUR * HOUR


def events() -> pa.Table:
    """An impression a minute for four hours, every second one clicked."""
    rows = []
    for n in range(240):
        at = START + n * 60_000
        common = {"user_id": n % 20, "item_id": n, "scene": "home", "request_id": f"r{n}"}
        rows.append({"event_id": f"i{n}", "ts_ms": at, "kind": "impression", **common})
        if n % 2:
            rows.append({"event_id": f"c{n}", "ts_ms": at + 900, "kind": "click", **common})
    return pa.Table.from_pylist(rows)


def test_rows_are_written_while_the_updater_fails(
    tmp_path: Path, broker: str, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: IncrementalUpdater) -> bool:
        raise OSError("no updates today")

    monkeypatch.setattr(IncrementalUpdater, "advance", failing)
    name = f"joined-{tmp_path.name}"
    config = Config.model_validate(
        {
            "data_dir": tmp_path,
            "kafka": {
                "bootstrap": broker,
                "events": name,
                "items": f"{name}.items",
                "users": f"{name}.users",
            },
            "redis": {"url": store},
            "profiles": {"prefix": name},
            "intake": {"idle_s": 3600},
            "join": {"poll_s": 0.05},
        }
    )
    with open_producer(config) as producer:
        producer.send_table(events())
        producer.flush()
    stop = threading.Event()
    consumer = threading.Thread(target=run_consumer, args=(config, stop))
    consumer.start()
    reader = JoinedReader(config.joined_dir)
    try:
        assert eventually(lambda: (reader.through_ms() or 0) >= START + 3 * HOUR or not consumer.is_alive())
    finally:
        stop.set()
        consumer.join()
    rows = reader.rows(START, START + 3 * HOUR - 900_000, ["event_id", "actions"]).to_pylist()
    assert len(rows) == 3 * 60 - 15
    for row in rows:
        clicked = int(row["event_id"][1:]) % 2
        assert row["actions"] == ([("click", 0.0)] if clicked else [])
