"""Calls of one Lua script that reads, all over one connection: sent as they come, answered in order.

A client for everything that a store can do spends more on a call than the store on the script. This one knows
a single command, and what many callers ask in one turn of the event loop leaves in one packet.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, cast
from urllib.parse import unquote, urlsplit

import redis
import redis.asyncio

_PORT = 6379


class ScriptCalls(Protocol):
    """One script of one store."""

    async def __call__(self, keys: Sequence[str], args: Sequence[str | int]) -> Any:
        """Its answer; raises redis.RedisError or OSError."""
        ...

    async def close(self) -> None:
        """End the connections."""
        ...


def script_calls(url: str, script: str) -> ScriptCalls:
    """Over one connection to redis://[user:password@]host:port/db; through redis-py for any other URL."""
    parts = urlsplit(url)
    plain = parts.scheme == "redis" and not parts.query and parts.path.strip("/").isdigit() | (not parts.path)
    return PipelinedCalls(url, script) if plain else _ClientCalls(url, script)


class _ClientCalls:
    """Through redis-py: TLS, sockets of the file system, options in the URL."""

    def __init__(self, url: str, script: str) -> None:
        self._store = redis.asyncio.Redis.from_url(url)
        self._script: Callable[..., Awaitable[Any]] = self._store.register_script(script)

    async def __call__(self, keys: Sequence[str], args: Sequence[str | int]) -> Any:
        return await self._script(keys=keys, args=args)

    async def close(self) -> None:
        await self._store.aclose()


class PipelinedCalls:
    """Over one connection, made when it is first needed and again when it was lost."""

    def __init__(self, url: str, script: str) -> None:
        self._url = urlsplit(url)
        digest = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        self._by_digest, self._by_text = ("EVALSHA", digest), ("EVAL", script)
        self._connection: _Connection | None = None
        self._connecting: asyncio.Future[_Connection] | None = None

    async def __call__(self, keys: Sequence[str], args: Sequence[str | int]) -> Any:
        """The script's answer: bytes, whole numbers and lists of them. Asked once more where the connection
        was lost or the store does not have the script.
        """
        rest = (len(keys), *keys, *args)
        try:
            return await self._asked(command(*self._by_digest, *rest))
        except redis.exceptions.NoScriptError:
            return await self._asked(command(*self._by_text, *rest))
        except ConnectionError:
            return await self._asked(command(*self._by_text, *rest))

    async def close(self) -> None:
        """End the connection; whoever waits is told that it was lost."""
        if self._connection is not None:
            self._connection.abort()

    async def _asked(self, request: bytes) -> Any:
        connection = self._connection
        if connection is None or not connection.usable:
            connection = await self._connected()
        return await connection.ask(request)

    async def _connected(self) -> _Connection:
        """One attempt at a time, which all wait for."""
        loop = asyncio.get_running_loop()
        if self._connecting is None or self._connecting.done() or self._connecting.get_loop() is not loop:
            self._connecting = asyncio.ensure_future(self._connect())
        return await asyncio.shield(self._connecting)

    async def _connect(self) -> _Connection:
        url, loop = self._url, asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: _Connection(loop), url.hostname or "localhost", url.port or _PORT
        )
        if url.password is not None:
            user = [unquote(url.username)] if url.username else []
            await connection.ask(command("AUTH", *user, unquote(url.password)))
        if database := url.path.strip("/"):
            await connection.ask(command("SELECT", database))
        self._connection = connection
        return connection


class _Connection(asyncio.Protocol):
    """Requests out, replies in, in the same order."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._received = b""
        self._replies = 0

    @property
    def usable(self) -> bool:
        """Whether it can be asked in the running event loop."""
        return self._transport is not None and self._loop is asyncio.get_running_loop()

    async def ask(self, request: bytes) -> Any:
        """The reply. Raises redis.ResponseError for an error of the store, ConnectionError."""
        if self._transport is None:
            raise ConnectionResetError("the connection to the store was lost")
        future, replies = self._loop.create_future(), self._replies
        self._waiting.append(future)
        self._transport.write(request)
        try:
            return await future
        except asyncio.CancelledError:
            if self._replies == replies:  # nothing came meanwhile: perhaps nothing ever will
                self.abort()
            raise

    def abort(self) -> None:
        """End it."""
        if self._transport is not None and not self._loop.is_closed():
            self._transport.abort()
        self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one, and no subclass

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        received, at = self._received + data if self._received else data, 0
        while at < len(received):
            reply, end = parsed(received, at)
            if not end:
                break
            at, future = end, self._waiting.popleft()
            self._replies += 1
            if future.done():
                continue  # whoever asked gave up
            if isinstance(reply, redis.ResponseError):
                future.set_exception(reply)
            else:
                future.set_result(reply)
        self._received = received[at:]

    def connection_lost(self, error: Exception | None) -> None:
        """Called by the event loop."""
        self._transport = None
        for future in self._waiting:
            if not future.done():
                future.set_exception(ConnectionResetError(f"the connection to the store was lost: {error}"))
        self._waiting.clear()


def command(*parts: str | int) -> bytes:
    """A command as the protocol (RESP) has it."""
    texts = [str(part).encode() for part in parts]
    return b"*%d\r\n" % len(texts) + b"".join([b"$%d\r\n%b\r\n" % (len(text), text) for text in texts])


def parsed(data: bytes, at: int) -> tuple[Any, int]:
    """A reply that begins at a place, and where it ends; 0 = it has not all arrived. An error of the store is
    returned as redis.ResponseError. Raises ValueError for what is no reply.
    """
    end = data.find(b"\r\n", at)
    if end < 0:
        return None, 0
    kind, head, end = data[at : at + 1], data[at + 1 : end], end + 2
    if kind == b"$":
        size = int(head)
        if size < 0:
            return None, end
        return (data[end : end + size], end + size + 2) if len(data) >= end + size + 2 else (None, 0)
    if kind == b"*":
        parts = []
        for _ in range(int(head)):
            part, end = parsed(data, end)
            if not end:
                return None, 0
            parts.append(part)
        return parts, end
    if kind == b":":
        return int(head), end
    if kind == b"+":
        return head, end
    if kind == b"-":
        text = head.decode(errors="replace")
        if text.startswith("NOSCRIPT"):
            return redis.exceptions.NoScriptError(text), end
        return redis.ResponseError(text), end
    raise ValueError(f"store: expected a reply ($, *, :, + or -), got {data[at : at + 20]!r}")
