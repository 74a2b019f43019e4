import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic

from deploy.embedded import EmbeddedBroker, EmbeddedStore
from deploy.errors import StartError
from tests.deploy.waiting import alive, eventually


def test_broker_takes_and_gives_a_message(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path) as broker:
        admin = KafkaAdminClient(bootstrap_servers=broker.address)
        admin.create_topics([NewTopic("events", 2, 1)])
        producer = KafkaProducer(bootstrap_servers=broker.address, acks="all")
        producer.send("events", value=b"hello", partition=1).get(timeout=10)
        consumer = KafkaConsumer(
            bootstrap_servers=broker.address, auto_offset_reset="earliest", group_id=None
        )
        consumer.assign([TopicPartition("events", 1)])
        received: list[bytes] = []

        def poll() -> bool:
            for records in consumer.poll(timeout_ms=100).values():
                received.extend(record.value for record in records)
            return bool(received)

        assert eventually(poll)
        assert received == [b"hello"]
        for client in (admin, producer, consumer):
            client.close()
        pid = broker.pid
    assert pid is not None
    assert not alive(pid)
    assert "listening" in broker.log_path.read_text()


def test_services_listen_on_loopback_only(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path) as broker, EmbeddedStore(tmp_path) as store:
        wanted = {f"{port:04X}" for port in (broker.port, store.port)}
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        listening = {(row[1].split(":")[1], row[1].split(":")[0]) for row in rows if row[3] == "0A"}
        assert {entry for entry in listening if entry[0] in wanted} == {(port, "0100007F") for port in wanted}


def test_store_keeps_its_data_over_a_restart_and_a_kill(tmp_path: Path) -> None:
    with EmbeddedStore(tmp_path) as store:
        with redis.Redis.from_url(store.url) as client:
            client.set("kept", "1")
        assert store.pid is not None
        os.kill(store.pid, signal.SIGKILL)
    with EmbeddedStore(tmp_path) as store, redis.Redis.from_url(store.url) as client:
        assert client.get("kept") == b"1"


@pytest.mark.parametrize("service", [EmbeddedBroker, EmbeddedStore])
def test_a_taken_port_is_named_with_its_setting(
    service: type[EmbeddedBroker] | type[EmbeddedStore], tmp_path: Path
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(StartError, match=rf"127\.0\.0\.1:{port}.*{service.setting}"):
            service(tmp_path, port).start()


def test_a_process_that_ends_at_once_is_reported_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.embedded.get_binary_path", lambda: Path("/bin/false"))
    with pytest.raises(StartError, match=r"ended with code 1 while starting; see .*store\.log"):
        EmbeddedStore(tmp_path).start()


def test_no_answer_within_the_deadline_stops_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = tmp_path / "deaf"
    deaf.write_text("#!/bin/sh\nexec sleep 600\n")
    deaf.chmod(0o755)
    monkeypatch.setattr("deploy.embedded.get_binary_path", lambda: deaf)
    store = EmbeddedStore(tmp_path, ready_timeout_s=0.2)
    with pytest.raises(StartError, match="no answer"):
        store.start()
    assert store.pid is None


PARENT = """
import sys, threading
from pathlib import Path
from deploy.embedded import EmbeddedBroker, EmbeddedStore
data = Path(sys.argv[1])
with EmbeddedBroker(data) as broker, EmbeddedStore(data) as store:
    print(broker.pid, store.pid, flush=True)
    threading.Event().wait()
"""


def test_children_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 2
        assert all(map(alive, children))
        parent.kill()
    assert eventually(lambda: not any(map(alive, children)))
