"""Calls of one Lua script that reads: what is asked in one turn of the event loop leaves as one pipeline.

A client library spends more on a call than the store on the script. So it only greets the store here
(address, password, database, TLS); then one connection is written to and read directly, for all callers.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Sequence
from typing import Any

import hiredis
import redis.asyncio
from redis.exceptions import NoScriptError, ResponseError

_NOT_YET = object()


class _Call:
    """One call. head: the command and the script; words: what follows; again: it was lost with its connection
    and is asked once more; told: replies that had come when it was sent.
    """

    __slots__ = ("again", "answer", "head", "told", "words")

    def __init__(self, head: bytes, words: Sequence[str | int], answer: asyncio.Future[Any]) -> None:
        self.head, self.words, self.answer, self.again, self.told = head, words, answer, False, 0

    def packed(self) -> bytes:
        """In the store's protocol."""
        parts = [b"*%d\r\n" % (len(self.words) + 2), self.head]
        for word in self.words:
            text = str(word).encode()
            parts.append(b"$%d\r\n%s\r\n" % (len(text), text))
        return b"".join(parts)


class _Line(asyncio.Protocol):
    """A connection that was greeted. Replies come in the order of the calls."""

    def __init__(self, calls: ScriptCalls, greeted: redis.asyncio.Connection) -> None:
        self.asked: deque[_Call] = deque()
        self.told = 0
        self._calls, self._greeted = calls, greeted
        self._replies = hiredis.Reader(replyError=_error, notEnoughData=_NOT_YET)
        writer = greeted._writer  # of all that a library has there, only this is wanted
        if writer is None:
            raise redis.ConnectionError("the store's connection was lost while it was made")
        self._transport = writer.transport
        self._transport.set_protocol(self)

    @property
    def open(self) -> bool:
        """Whether it may be written to."""
        return not self._transport.is_closing()

    def ask(self, calls: Sequence[_Call]) -> None:
        """Send calls."""
        for call in calls:
            call.told = self.told
        self.asked.extend(calls)
        self._transport.write(b"".join([call.packed() for call in calls]))

    def drop(self) -> None:
        """Close it; what it has not answered is asked again elsewhere."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Of the transport."""
        self._replies.feed(data)
        while (reply := self._replies.gets()) is not _NOT_YET:
            self.told += 1
            self._calls.take(self.asked.popleft(), reply)

    def connection_lost(self, error: Exception | None) -> None:
        """Of the transport."""
        calls, self.asked = self.asked, deque()
        self._calls.lost(calls)


class ScriptCalls:
    """One script of one store."""

    def __init__(self, url: str, script: str) -> None:
        self._pool = redis.asyncio.ConnectionPool.from_url(url, protocol=2)
        text = script.encode()
        digest = hashlib.sha1(text, usedforsecurity=False).hexdigest()
        self._known = b"$7\r\nEVALSHA\r\n$40\r\n%s\r\n" % digest.encode()
        self._whole = b"$4\r\nEVAL\r\n$%d\r\n%s\r\n" % (len(text), text)
        self._waiting: list[_Call] = []
        self._closed = False
        self._line: _Line | None = None
        self._connecting: asyncio.Task[None] | None = None

    async def __call__(self, keys: Sequence[str], args: Sequence[str | int]) -> Any:
        """Its answer: bytes, whole numbers and lists of them; raises redis.RedisError or OSError."""
        loop = asyncio.get_running_loop()
        call = _Call(self._known, (len(keys), *keys, *args), loop.create_future())
        self._wait(call)
        try:
            return await call.answer
        except asyncio.CancelledError:
            self._given_up(call)
            raise

    async def close(self) -> None:
        """End the connection."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        if self._line is not None:
            self._line.drop()

    def take(self, call: _Call, reply: Any) -> None:
        """Of a line: a reply."""
        if call.answer.done():
            return  # whoever asked gave up
        if isinstance(reply, NoScriptError) and call.head is self._known:
            call.head = self._whole  # after which the store knows the script by its digest
            self._wait(call)
        elif isinstance(reply, Exception):
            call.answer.set_exception(reply)
        else:
            call.answer.set_result(reply)

    def lost(self, calls: Sequence[_Call]) -> None:
        """Of a line that ended: what it has not answered, which may have been while nobody asked."""
        for call in calls:
            if call.answer.done():
                continue
            if call.again or self._closed:
                call.answer.set_exception(redis.ConnectionError("the connection to the store was closed"))
            else:
                call.again = True
                self._wait(call)

    def _wait(self, call: _Call) -> None:
        if not self._waiting:
            call.answer.get_loop().call_soon(self._ask)
        self._waiting.append(call)

    def _ask(self) -> None:
        if self._line is not None and self._line.open:
            calls, self._waiting = self._waiting, []
            self._line.ask([call for call in calls if not call.answer.done()])
        elif self._connecting is None:
            self._connecting = asyncio.ensure_future(self._connected())

    async def _connected(self) -> None:
        """A new line, and what waits for it."""
        try:
            greeted = self._pool.make_connection()  # type: ignore[no-untyped-call]
            await greeted.connect()
            self._line = _Line(self, greeted)
        except Exception as error:
            calls, self._waiting = self._waiting, []
            for call in calls:
                if not call.answer.done():
                    call.answer.set_exception(error)
        finally:
            self._connecting = None
        if self._waiting:
            self._ask()

    def _given_up(self, call: _Call) -> None:
        """A line that has told nothing since the call was sent may never again."""
        line = self._line
        if line is not None and line.told == call.told and call in line.asked:
            line.drop()


def _error(text: str) -> ResponseError:
    return NoScriptError(text) if text.startswith("NOSCRIPT") else ResponseError(text)
