"""Which bundle and delta are served: a record in Redis with change notices, and the same record in a file.

The file is written first and always; Redis makes the change known at once and reaches other machines. Each
record carries a revision, and the higher one counts, so that a store that was away for a while cannot bring
back old news.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import redis

FILE = "pointer.json"
_LOG = logging.getLogger(__name__)
# Keeps the higher revision and tells the listeners, in one step.
_SET = """
local held = redis.call('GET', KEYS[1])
if held and cjson.decode(held)['revision'] >= cjson.decode(ARGV[1])['revision'] then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('PUBLISH', KEYS[1], ARGV[1])
return 1
"""


class Pointer(msgspec.Struct, frozen=True, kw_only=True):
    """What is served: a bundle, the sequence of the delta on top (0 = none), and its watermark.

    revision is given by the store: how often the pointer was set.
    """

    bundle: str
    delta: int
    watermark_ms: int
    revision: int = 0


class StalePointer(ValueError):
    """A pointer move that would take the served watermark back."""


class PointerStore:
    """Reads and moves the pointer. Redis may be absent: the file under `root` then serves alone.

    name: key and channel in Redis. timeout_s: after this long Redis counts as absent.
    `redis_failures` counts the calls that had to do without it.
    """

    def __init__(
        self,
        root: Path,
        redis_url: str | None = None,
        name: str = "freshrecall:pointer",
        timeout_s: float = 0.5,
    ) -> None:
        self.root, self.name = root, name
        self.redis_failures = 0
        self._redis: redis.Redis | None = None
        if redis_url:
            self._redis = redis.Redis.from_url(
                redis_url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s
            )

    def get(self) -> Pointer | None:
        """The pointer, None before the first set. Never raises for an absent Redis."""
        held = [read_pointer_file(self.root), self._from_redis()]
        return max((p for p in held if p), key=lambda p: p.revision, default=None)

    def set(self, pointer: Pointer, force: bool = False) -> Pointer:
        """Move the pointer; returns it with its revision. Raises StalePointer when its watermark goes back.

        `force` is for a rollback on purpose. Setting what is already set changes nothing.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with _locked(self.root / "pointer.lock"):
            current = self.get()
            if current and _place(pointer) == _place(current):
                self._tell(current)
                return current
            if current and pointer.watermark_ms < current.watermark_ms and not force:
                raise StalePointer(
                    f"pointer: expected a watermark of at least {current.watermark_ms} (of {current.bundle}/"
                    f"{current.delta}), got {pointer.watermark_ms} (of {pointer.bundle}/{pointer.delta}); "
                    "use force to roll back on purpose"
                )
            moved = msgspec.structs.replace(pointer, revision=(current.revision if current else 0) + 1)
            _replace_file(self.root / FILE, msgspec.json.encode(moved))
            self._tell(moved)
            return moved

    def notices(self) -> Notices:
        """Change notices for one listening thread."""
        return Notices(self._redis, self.name)

    def close(self) -> None:
        """Close the connection to Redis."""
        if self._redis:
            self._redis.close()

    def _from_redis(self) -> Pointer | None:
        if not self._redis:
            return None
        try:
            text: Any = self._redis.get(self.name)
            return msgspec.json.decode(text, type=Pointer) if text else None
        except (redis.RedisError, msgspec.MsgspecError) as error:
            self._failed("reading", error)
            return None

    def _tell(self, pointer: Pointer) -> None:
        if not self._redis:
            return
        try:
            self._redis.eval(_SET, 1, self.name, msgspec.json.encode(pointer))
        except redis.RedisError as error:
            self._failed("writing", error)

    def _failed(self, what: str, error: Exception) -> None:
        self.redis_failures += 1
        _LOG.warning(
            "pointer: Redis failed while %s %s, the file %s serves: %s", what, self.name, FILE, error
        )


class Notices:
    """Waiting for a change of the pointer: a message of Redis, or the end of the waiting time, whichever is
    first.
    """

    def __init__(self, client: redis.Redis | None, channel: str) -> None:
        self._client, self._channel = client, channel
        self._subscription: Any = None

    def wait(self, timeout_s: float, stop: threading.Event, slice_s: float = 0.2) -> bool:
        """Return True at a notice, False after `timeout_s` or as soon as `stop` is set (seen every
        `slice_s`).
        """
        left = timeout_s
        while left > 0 and not stop.is_set():
            pause = min(left, slice_s)
            left -= pause
            try:
                if self._subscription is None and self._client is not None:
                    client: Any = self._client  # its pubsub() has no types
                    self._subscription = client.pubsub(ignore_subscribe_messages=True)
                    self._subscription.subscribe(self._channel)
                if self._subscription is None:
                    stop.wait(pause)
                elif self._subscription.get_message(timeout=pause) is not None:
                    return True
            except (redis.RedisError, OSError):
                # Absent for now: wait like a poller, subscribe again at the next call.
                self.close()
                stop.wait(left)
                return False
        return False

    def close(self) -> None:
        """Unsubscribe."""
        if self._subscription is not None:
            with contextlib.suppress(redis.RedisError, OSError):
                self._subscription.close()
            self._subscription = None

    def __enter__(self) -> Notices:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_pointer_file(root: Path) -> Pointer | None:
    """The pointer in the file under `root`, None when there is none. Raises ValueError when it is not
    readable.
    """
    try:
        return msgspec.json.decode((root / FILE).read_bytes(), type=Pointer)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise ValueError(
            f"{root / FILE}: expected a pointer record, got {error}; restore or remove it"
        ) from error


def _place(pointer: Pointer) -> tuple[str, int, int]:
    return pointer.bundle, pointer.delta, pointer.watermark_ms


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace_file(path: Path, content: bytes) -> None:
    """Write aside, fsync, rename over `path`, fsync the directory."""
    aside = path.with_name(f".tmp-{path.name}")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.rename(aside, path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
