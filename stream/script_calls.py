"""Calls of one Lua script that reads: what is asked in one turn of the event loop leaves as one pipeline.

A client spends more on a call by itself than the store on the script; so eight callers share one.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import redis.asyncio
from redis.exceptions import NoScriptError


class _Call(NamedTuple):
    """One call: what follows the script's name, and where its answer goes."""

    words: Sequence[str | int]
    answer: asyncio.Future[Any]


class ScriptCalls:
    """One script of one store."""

    def __init__(self, url: str, script: str) -> None:
        self._store = redis.asyncio.Redis.from_url(url)
        self._script = script
        self._digest = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        self._waiting: list[_Call] = []
        self._asking: set[asyncio.Task[None]] = set()

    async def __call__(self, keys: Sequence[str], args: Sequence[str | int]) -> Any:
        """Its answer: bytes, whole numbers and lists of them; raises redis.RedisError or OSError."""
        loop = asyncio.get_running_loop()
        call = _Call((len(keys), *keys, *args), loop.create_future())
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
        pipeline = self._store.pipeline(transaction=False)
        for call in calls:
            pipeline.execute_command("EVALSHA", self._digest, *call.words)
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
        return replies
