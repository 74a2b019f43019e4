"""The whole server: real sockets, swaps under load, clean ends."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest

from serving.audit import AuditCheck, read_audit
from serving.config import ServingConfig
from serving.server import AddressInUse, serve
from tests.serving.world import HOUR, FakeTower, World


class Running:
    """A server in a thread of this process."""

    def __init__(self, world, config, **more):
        self.world, self.config, self.more = world, config, more
        self.stop, self.ready = threading.Event(), threading.Event()
        self.address, self.error = "", None

    def _run(self):
        try:
            serve(
                self.config,
                self.stop,
                registry=self.world.registry,
                pointer=self.world.pointer,
                profiles=self.world.profiles,
                events=self.world.events.extend,
                load_tower=FakeTower.load,
                on_ready=self._on_ready,
                **self.more,
            )
        except BaseException as error:
            self.error = error
            self.ready.set()

    def _on_ready(self, address):
        self.address = address
        self.ready.set()

    def __enter__(self):
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        assert self.ready.wait(60)
        if self.error:
            raise self.error
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join(60)
        assert not self.thread.is_alive()


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "condition not reached in time"
        pause.wait(0.01)


def test_swaps_under_concurrent_requests_never_fail_and_never_mix(tmp_path):
    world = World(tmp_path / "registry")
    audit = tmp_path / "audit.jsonl"
    config = ServingConfig(
        port=0, clock="event", channel_timeout_ms=60_000, poll_interval_s=0.01, audit_file=audit
    )
    for user in range(5):
        world.profiles.put(f"u{user}", [(f"i{user}", "click", 100 + user)])
    base = world.bundle(items=300)
    world.point(base)
    answers, failures = [], []
    done = threading.Event()

    def client(address, number):
        with httpx.Client(base_url=address, timeout=30) as http:
            asked = 0
            while not done.is_set():
                user = f"u{(number + asked) % 8}"  # u5..u7 have no history
                asked += 1
                try:
                    answer = http.post("/v1/recall", json={"user_id": user, "k": 20})
                except httpx.HTTPError as error:
                    failures.append(repr(error))
                    continue
                if answer.status_code == 200:
                    answers.append(answer.json())
                else:
                    failures.append(answer.text)

    with Running(world, config) as server, httpx.Client(base_url=server.address) as http:
        wait_for(lambda: http.get("/readyz").status_code == 200)

        def served():
            body = http.get("/readyz").json()
            return body["bundle"], body["delta"]

        clients = [threading.Thread(target=client, args=(server.address, n)) for n in range(4)]
        for thread in clients:
            thread.start()
        try:
            for day in range(3):
                start = HOUR * (day + 1)
                if day:
                    base = world.bundle(day, items=300, watermark_ms=start)
                for sequence in range(1, 9):
                    watermark_ms = start + sequence * 1000
                    # One increment never arrives: the server must find the cumulative one.
                    if sequence == 4:
                        world.delta(base, sequence, since=1, watermark_ms=watermark_ms, seed=day)
                    else:
                        world.delta(base, sequence, watermark_ms=watermark_ms, seed=day)
                    world.point(base, sequence, watermark_ms=watermark_ms)
                    wait_for(lambda wanted=(base, sequence): served() == wanted)
                    count = len(answers)
                    wait_for(lambda count=count: len(answers) >= count + 8)
        finally:
            done.set()
            for thread in clients:
                thread.join(60)
        metrics = http.get("/metrics").text
    assert failures == []
    assert "freshrecall_bundles_swapped_total 3.0" in metrics
    records = read_audit(audit)
    assert len(records) == len(answers)
    by_request = {record.answer.request_id: record for record in records}
    check = AuditCheck(world.registry, FakeTower.load)
    records.sort(key=lambda record: (record.answer.bundle, record.answer.delta))
    assert len({(r.answer.bundle, r.answer.delta) for r in records}) >= 20
    for record in records:
        result = check.recompute(record)
        assert result.mixed == ""
    for answer in answers:
        assert answer["delta"] == by_request[answer["request_id"]].answer.delta
        assert len(answer["items"]) == 20


def test_address_in_use_is_one_clear_error(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressInUse, match=rf"cannot listen on 127.0.0.1:{port}"):
            Running(World(tmp_path), ServingConfig(port=port)).__enter__()


def test_it_ends_while_nothing_was_ever_published(tmp_path):
    with Running(World(tmp_path), ServingConfig(port=0)) as server:
        assert httpx.get(server.address + "/readyz").status_code == 503
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.address + "/readyz")


PROGRAM = """
import signal, sys, threading
from pathlib import Path
from serving.config import ServingConfig
from serving.server import serve
from tests.serving.world import FakeTower, World
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
world = World(Path(sys.argv[1]))
serve(ServingConfig(port=0), stop, registry=world.registry, pointer=world.pointer, profiles=world.profiles,
      events=world.events.extend, load_tower=FakeTower.load, on_ready=lambda a: print(a, flush=True))
print("ended", flush=True)
"""


def test_sigterm_ends_the_process_cleanly(tmp_path):
    world = World(tmp_path)
    world.point(world.bundle())
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    try:
        address = process.stdout.readline().strip()
        with httpx.Client(base_url=address) as http:
            wait_for(lambda: http.get("/readyz").status_code == 200)
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert "ended" in out
    assert "Traceback" not in err
