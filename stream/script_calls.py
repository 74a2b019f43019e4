"""Calls of one Lua script that reads: what is asked in one turn of the event loop runs as one script.

A client spends more on a command and its reply than the store on the script; so the callers of a turn share
them.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import hiredis
import redis.asyncio
from redis.exceptions import NoScriptError

_TOGETHER = 16
"""Calls of one command at most: the store does nothing else meanwhile."""
# ARGV: of each call how many keys and arguments it has, then these arguments. An error is its call's alone.
_OF_ALL = """
local function one(KEYS, ARGV)
%s
end
local answers, key, word = {}, 0, 0
while word < #ARGV do
  local keys, words = {}, {}
  local of_keys, of_words = tonumber(ARGV[word + 1]), tonumber(ARGV[word + 2])
  for at = 1, of_keys do keys[at] = KEYS[key + at] end
  for at = 1, of_words do words[at] = ARGV[word + 2 + at] end
  key, word = key + of_keys, word + 2 + of_words
  local fine, answer = pcall(one, keys, words)
  if not fine and type(answer) ~= 'table' then answer = {err = 'ERR ' .. tostring(answer)} end
  answers[#answers + 1] = answer or false
end
return answers
"""


class _Call(NamedTuple):
    """One call, and where its answer goes."""

    keys: Sequence[str]
    args: Sequence[str | int]
    answer: asyncio.Future[Any]


class ScriptCalls:
    """One script of one store."""

    def __init__(self, url: str, script: str) -> None:
        """script: the body of a function of KEYS and ARGV."""
        # No pipeline: most of its time goes to what it does around a command and its reply.
        self._connections = redis.asyncio.ConnectionPool.from_url(url)
        self._free: list[redis.asyncio.Connection] = []
        self._script = _OF_ALL % script
        self._digest = hashlib.sha1(self._script.encode(), usedforsecurity=False).hexdigest()
        self._waiting: list[_Call] = []
        self._asking: set[asyncio.Task[None]] = set()

    async def __call__(self, keys: Sequence[str], args: Sequence[str | int]) -> Any:
        """Its answer: bytes, whole numbers and lists of them; raises redis.RedisError or OSError."""
        loop = asyncio.get_running_loop()
        call = _Call(keys, args, loop.create_future())
        if not self._waiting:
            loop.call_soon(self._ask)
        self._waiting.append(call)
        return await call.answer

    async def close(self) -> None:
        """End the connections."""
        for asking in self._asking:
            asking.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)
        for connection in self._free:
            await connection.disconnect()

    def _ask(self) -> None:
        calls, self._waiting = self._waiting, []
        asking = asyncio.ensure_future(self._answer(calls))
        self._asking.add(asking)  # the loop itself keeps no task alive
        asking.add_done_callback(self._asking.discard)

        def gave_up(_: asyncio.Future[Any]) -> None:
            if all(call.answer.done() for call in calls):
                asking.cancel()

        for call in calls:
            call.answer.add_done_callback(gave_up)

    async def _answer(self, calls: Sequence[_Call]) -> None:
        try:
            try:
                replies = await self._sent(calls)
            except redis.ConnectionError:  # closed by the store while nobody asked
                replies = await self._sent(calls)
        except Exception as error:
            replies = [error] * len(calls)
        for call, reply in zip(calls, replies, strict=True):
            if call.answer.done():
                continue  # whoever asked gave up
            if isinstance(reply, Exception):
                call.answer.set_exception(reply)
            else:
                call.answer.set_result(reply)

    async def _sent(self, calls: Sequence[_Call]) -> list[Any]:
        """An answer or an error for each. A connection that fails or is given up is closed by the library,
        and opens again when it is asked next.
        """
        parts = [calls[first : first + _TOGETHER] for first in range(0, len(calls), _TOGETHER)]
        connection = self._free.pop() if self._free else self._new()
        try:
            replies = await _replies(connection, [_packed("EVALSHA", self._digest, part) for part in parts])
            if any(isinstance(reply, NoScriptError) for reply in replies):
                replies = await _replies(connection, [_packed("EVAL", self._script, part) for part in parts])
        finally:
            self._free.append(connection)
        return [
            answer
            for part, reply in zip(parts, replies, strict=True)
            for answer in ([reply] * len(part) if isinstance(reply, Exception) else reply)
        ]

    def _new(self) -> redis.asyncio.Connection:
        made: redis.asyncio.Connection = self._connections.make_connection()  # type: ignore[no-untyped-call]
        return made


def _packed(command: str, script: str, calls: Sequence[_Call]) -> bytes:
    """In the store's protocol."""
    keys = [key for call in calls for key in call.keys]
    words = [word for call in calls for word in (len(call.keys), len(call.args), *call.args)]
    packed: bytes = hiredis.pack_command((command, script, len(keys), *keys, *words))  # type: ignore[arg-type]
    return packed


async def _replies(connection: redis.asyncio.Connection, commands: list[bytes]) -> list[Any]:
    """The reply to each, or its error."""
    await connection.send_packed_command(commands)
    replies: list[Any] = []
    for _ in commands:
        try:
            replies.append(await connection.read_response())
        except redis.ResponseError as error:
            replies.append(error)
    return replies
