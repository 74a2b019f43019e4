"""Calls of one Lua script that reads: what is asked in one turn of the event loop runs as one script.

A client spends more on a command and its reply than the store on the script; so the callers of a turn share
them.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

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
        self._store = redis.asyncio.Redis.from_url(url)
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
        await self._store.aclose()

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
            replies = await self._replies(calls)
            if any(isinstance(reply, NoScriptError) for reply in replies):
                await self._store.script_load(self._script)
                replies = await self._replies(calls)
        except Exception as error:
            replies = [error] * len(calls)
        for call, reply in zip(calls, replies, strict=True):
            if call.answer.done():
                continue  # whoever asked gave up
            if isinstance(reply, Exception):
                call.answer.set_exception(reply)
            else:
                call.answer.set_result(reply)

    async def _replies(self, calls: Sequence[_Call]) -> list[Any]:
        """An answer or an error for each."""
        try:
            return await self._sent(calls)
        except redis.ConnectionError:  # closed by the store while nobody asked
            return await self._sent(calls)

    async def _sent(self, calls: Sequence[_Call]) -> list[Any]:
        parts = [calls[first : first + _TOGETHER] for first in range(0, len(calls), _TOGETHER)]
        pipeline = self._store.pipeline(transaction=False)
        for part in parts:
            keys = [key for call in part for key in call.keys]
            words = [word for call in part for word in (len(call.keys), len(call.args), *call.args)]
            pipeline.execute_command("EVALSHA", self._digest, len(keys), *keys, *words)
        replies = await pipeline.execute(raise_on_error=False)
        return [
            answer
            for part, reply in zip(parts, replies, strict=True)
            for answer in ([reply] * len(part) if isinstance(reply, Exception) else reply)
        ]
