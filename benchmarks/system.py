"""The server as a child process, with the broker and the store it needs, started as `freshrecall up` does."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from benchmarks import data
from benchmarks.bundles import Published
from benchmarks.worker import ROOT
from deploy.config import Config
from deploy.config_load import ENV_PREFIX
from deploy.embedded import free_port
from deploy.embedded_config import EmbeddedConfig
from deploy.processes import ChildProcess
from deploy.reachable import require_services
from deploy.up import command, start_embedded
from models.artifact import Artifact
from models.pointer import Pointer, PointerStore
from models.registry import Registry
from stream.columns import to_columns
from stream.profiles import Profiles

DEADLINE_S = 600.0
PAUSE_S = 0.05
"""Between two looks, which take their part of the processor."""


class NotServed(RuntimeError):
    """The server did not come to where it was waited for."""


@dataclass
class System:
    """A data directory with its services, and the server over it while it runs."""

    config: Config
    url: str
    http: httpx.Client
    """Of the server. Making one takes tens of milliseconds of the processor, beside whatever is measured."""
    server: ChildProcess | None = None
    empty_bytes: int = 0
    """Resident memory of the server before it had anything to serve."""
    services: Sequence[int] = ()
    """Process ids of broker and store."""

    @property
    def registry(self) -> Registry:
        """What it serves from."""
        return Registry(self.config.registry_dir)

    def point(self, bundle: str, delta: int = 0, watermark_ms: int = 0) -> None:
        """Move the pointer; forced, for the bundles of a measurement are equally old."""
        name = f"{self.config.profiles.prefix}:pointer"
        store = PointerStore(self.config.registry_dir, self.config.redis.url, name)
        store.set(Pointer(bundle=bundle, delta=delta, watermark_ms=watermark_ms), force=True)
        store.close()

    def until_served(self, bundle: str, delta: int = 0) -> None:
        """Wait until requests are answered from this version. Raises NotServed."""

        def served() -> bool:
            with contextlib.suppress(httpx.TransportError):
                answer = self.http.get("/readyz")
                body = answer.json()
                return answer.status_code == 200 and (body["bundle"], body["delta"]) == (bundle, delta)
            return False

        self._until(served, f"{bundle}/{delta} to be served")

    def until_alive(self) -> None:
        """Wait until the server answers at all. Raises NotServed."""

        def alive() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return self.http.get("/healthz").status_code == 200
            return False

        self._until(alive, "the server to answer")

    def start_server(self) -> None:
        """As `freshrecall up` starts it."""
        settings = {
            "DATA_DIR": self.config.data_dir,
            "KAFKA__BOOTSTRAP": self.config.kafka.bootstrap,
            "REDIS__URL": self.config.redis.url,
            "SERVING__PORT": self.url.rpartition(":")[2],
            "SERVING__CLOCK": "event",
        }
        environment = os.environ | {f"{ENV_PREFIX}{name}": str(value) for name, value in settings.items()}
        with self._log.open("ab") as log:
            self.server = ChildProcess("serve", command("serve", None), log, environment)

    def start_empty(self, published: Published) -> None:
        """The server, with nothing to serve yet, over a store that knows the histories."""
        self.remember(published)
        self.start_server()
        self.until_alive()
        self.empty_bytes = resident_bytes(self.pid)

    def stop_server(self) -> None:
        """By its id; nothing to do where none runs."""
        if self.server is not None:
            self.server.stop()
            self.server = None

    @property
    def pid(self) -> int:
        """Of the server. Raises NotServed where none runs."""
        if self.server is None:
            raise NotServed("expected a server that runs, got none; call start_server()")
        return self.server.pid

    def remember(self, published: Published) -> None:
        """Give the store the histories of those who are asked for."""
        users, length = published.histories.shape
        who = np.repeat(published.apart * np.arange(users), length)
        zeros = np.zeros(len(who), np.int32)
        events = data.typed(who, published.histories.ravel())
        batch = to_columns(events, zeros, zeros, np.arange(len(who)), zeros)
        with contextlib.closing(Profiles(self.config.redis.url, self.config.profiles)) as profiles:
            profiles.apply(batch)

    @property
    def _log(self) -> Path:
        return self.config.data_dir / "serve.log"

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + DEADLINE_S
        while not condition():
            code = None if self.server is None else self.server.exit_code()
            if code is not None or time.monotonic() > end:
                how = f"it ended with exit code {code}" if code is not None else f"{DEADLINE_S:g} s passed"
                said = self._log.read_text(encoding="utf-8", errors="replace")[-1500:]
                raise NotServed(f"waited for {what}, {how}; the server said: {said}")
            time.sleep(PAUSE_S)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[System]:
    """Broker and store in `folder`; whoever is started is stopped by its id."""
    with contextlib.ExitStack() as stack:
        config = Config(data_dir=folder, embedded=EmbeddedConfig(broker_port=0, store_port=0))
        config, embedded = start_embedded(config, stack)
        require_services(config)
        pids = [service.pid for service in embedded if service.pid is not None]
        url = f"http://127.0.0.1:{free_port()}"
        http = stack.enter_context(httpx.Client(base_url=url, timeout=30.0))
        system = System(config, url, http, services=pids)
        try:
            yield system
        finally:
            system.stop_server()


@contextlib.contextmanager
def serving(folder: Path, published: Published) -> Iterator[tuple[System, str]]:
    """The same with the server up, the bundle (its id is the second) served and the histories known."""
    with running(folder) as system:
        bundle = published.publish(system.registry)
        system.start_empty(published)
        system.point(bundle)
        system.until_served(bundle)
        yield system, bundle


@dataclass(frozen=True)
class HandWritten:
    """The peer while it runs."""

    pid: int
    url: str


@contextlib.contextmanager
def hand_written(folder: Path, bundle: Artifact, published: Published) -> Iterator[HandWritten]:
    """benchmarks/serve_peer.py over an opened bundle, once it listens."""
    histories, port = folder / "histories.npy", free_port()
    np.save(histories, published.histories)
    words = [sys.executable, "-m", "benchmarks.serve_peer", bundle.root, histories, port]
    with (folder / "peer.log").open("ab") as log:
        child = ChildProcess(
            "peer", [str(word) for word in words], log, os.environ | {"PYTHONPATH": str(ROOT)}
        )
    try:
        end = time.monotonic() + DEADLINE_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
                break
            if child.exit_code() is not None or time.monotonic() > end:
                raise NotServed(f"hand-written peer: does not listen; see {folder / 'peer.log'}")
            time.sleep(PAUSE_S)
        yield HandWritten(child.pid, f"http://127.0.0.1:{port}")
    finally:
        child.stop()


def resident_bytes(pid: int) -> int:
    """Memory of a process that lies in RAM."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def pinned(pid: int, core: int) -> None:
    """Keep all threads of a process on one core (modulo those there are), and those they start later."""
    cores = sorted(os.sched_getaffinity(0))
    for thread in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), {cores[core % len(cores)]})
