import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.embedded import free_port
from tests.deploy.waiting import alive, eventually


class Running:
    """`freshrecall up` in a process of its own, with free ports."""

    def __init__(self, data_dir: Path) -> None:
        self.port = free_port()
        self.output = data_dir / "output.txt"
        environment = os.environ | {
            "FRESHRECALL__EMBEDDED__BROKER_PORT": "0",
            "FRESHRECALL__EMBEDDED__STORE_PORT": "0",
            "FRESHRECALL__INTAKE__IDLE_S": "0.2",
        }
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "deploy", "up", "--data-dir", str(data_dir), "--port", str(self.port)],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def text(self) -> str:
        return self.output.read_text()

    def status(self, path: str, body: Any = None) -> int:
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", data, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def descendants(self) -> list[int]:
        """All processes that have this one among their parents."""
        parent_of = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    parent_of[int(entry.name)] = int(
                        (entry / "stat").read_text().rpartition(")")[2].split()[1]
                    )
                except FileNotFoundError:
                    continue
        found = [self.process.pid]
        for pid in found:
            found += [child for child, parent in parent_of.items() if parent == pid]
        return found[1:]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    up = Running(tmp_path)
    try:
        assert eventually(lambda: up.status("/healthz") == 200 or up.process.poll() is not None, 120), up.text
        assert up.process.poll() is None, up.text
        yield up
    finally:
        if up.process.poll() is None:
            up.process.kill()
        up.process.wait()


def test_events_reach_the_archive_and_one_ctrl_c_stops_all_in_order(running: Running, tmp_path: Path) -> None:
    assert running.status("/readyz") == 503  # no bundle yet
    hour_ms = 3_600_000
    events = [
        {
            "event_id": f"e{i}",
            "ts_ms": 1_700_000_000_000 + i * hour_ms,
            "user_id": 7,
            "item_id": i,
            "kind": "click",
        }
        for i in range(3)
    ]
    assert running.status("/v1/events", events) in (200, 202)
    sealed = tmp_path / "archive" / "sealed"
    assert eventually(lambda: any(sealed.glob("*.parquet"))), running.text
    children = running.descendants()
    assert len(children) == 5  # broker, store, consume, schedule, serve
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(60) == 0, running.text
    assert re.findall(r"up \| (\w+) stopped", running.text) == ["serve", "schedule", "consume"]
    assert "Traceback" not in running.text
    assert not any(map(alive, children))


def test_a_child_that_dies_ends_the_rest_non_zero(running: Running) -> None:
    children = running.descendants()
    consumer = next(
        pid for pid in children if "consume" in Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    )
    os.kill(consumer, signal.SIGKILL)
    assert running.process.wait(60) == 1, running.text
    assert "consume ended by itself (signal 9)" in running.text
    assert not any(map(alive, children))


def test_nothing_outlives_a_killed_parent(running: Running) -> None:
    children = running.descendants()
    running.process.kill()
    assert eventually(lambda: not any(map(alive, children)))


def test_a_taken_broker_port_is_one_line_and_code_2(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "deploy", "up", "--data-dir", str(tmp_path)],
            env=os.environ | {"FRESHRECALL__EMBEDDED__BROKER_PORT": str(port)},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 2
    assert f"127.0.0.1:{port}" in done.stderr
    assert "embedded.broker_port" in done.stderr
    assert "Traceback" not in done.stderr
