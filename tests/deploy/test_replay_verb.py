from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from kafka import KafkaConsumer, TopicPartition

from deploy.embedded import EmbeddedBroker
from deploy.event_ids import derived_event_ids
from stream.codec import decode
from stream.event import Event
from tests.deploy.test_cli import freshrecall
from tests.deploy.waiting import eventually

ROWS = 2000


def written(tmp_path: Path) -> pa.Table:
    table = pa.table(
        {
            "ts_ms": pa.array([1_000_000 + 10 * i for i in range(ROWS)]),
            "user_id": pa.array([i % 17 for i in range(ROWS)]),
            "item_id": pa.array([f"item-{i % 50}" for i in range(ROWS)]),
            "kind": pa.array(["purchase"] * ROWS),
            "scene": pa.array(["shop"] * ROWS),
            "request_id": pa.array([str(i // 3) for i in range(ROWS)]),
            "value": pa.array([None if i % 5 else i / 4 for i in range(ROWS)]),
        }
    )
    pq.write_table(table, tmp_path / "events.parquet")
    return table


def received(broker: EmbeddedBroker, topic: str, partitions: int, expected: int) -> list[Event]:
    consumer = KafkaConsumer(bootstrap_servers=broker.address, auto_offset_reset="earliest", group_id=None)
    consumer.assign([TopicPartition(topic, partition) for partition in range(partitions)])
    events: list[Event] = []

    def poll() -> bool:
        for records in consumer.poll(timeout_ms=100).values():
            for record in records:
                events.extend(decode(record.value))
        return len(events) >= expected

    assert eventually(poll)
    consumer.close()
    return events


def test_a_table_arrives_whole_with_a_users_events_in_order(tmp_path: Path) -> None:
    table = written(tmp_path)
    with EmbeddedBroker(tmp_path) as broker:
        done = freshrecall(
            "replay",
            str(tmp_path / "events.parquet"),
            *("--speed", "max", "--kafka", broker.address, "--data-dir", str(tmp_path)),
            *("--from-ms", "1001000", "--to-ms", "1019000"),
        )
        assert done.returncode == 0, done.stderr
        assert "1,800 events in" in done.stdout
        events = received(broker, "events", 4, 1800)
    rows = table.append_column("event_id", derived_event_ids(table)).slice(100, 1800).to_pylist()
    by_id = {event.event_id: event for event in events}
    assert len(events) == len(by_id) == 1800
    for row in rows:
        event = by_id[row["event_id"]]
        assert {name: getattr(event, name) for name in row} == row
    for user in range(17):
        times = [event.ts_ms for event in events if event.user_id == user]
        assert times == sorted(times)


def test_a_table_that_is_not_one_is_one_line_and_code_2(tmp_path: Path) -> None:
    (tmp_path / "events.parquet").write_text("ts_ms,user_id")
    with EmbeddedBroker(tmp_path) as broker:
        done = freshrecall("replay", str(tmp_path / "events.parquet"), "--kafka", broker.address)
    assert done.returncode == 2
    assert done.stderr.startswith(f"freshrecall: {tmp_path}/events.parquet: not a parquet file")
    assert "Traceback" not in done.stderr
