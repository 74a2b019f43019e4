"""Load from outside: connections that ask again as soon as they are answered. `Worker("benchmarks.load")`.

Asked for {url, users, k, connections} with `requests` (so many in all) or `while_there` (a file: until it is
gone), and `apart`, the step from one user's ID to the next, it answers {seconds, failed, said, latency_ms,
ended_s}: every request's latency and the moment of its answer (time.monotonic, which all processes of a
machine share). Failed is what was not a whole answer: another status than 200, fewer than k items, something
missing in it ("degraded"), or none at all.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import uvloop

from benchmarks.worker import work

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@dataclass
class Told:
    """What the answers were."""

    failed: int = 0
    said: str = ""
    latency_ms: list[float] = field(default_factory=list)
    ended_s: list[float] = field(default_factory=list)

    def take(self, began_s: float, head: bytes, body: bytes, k: int) -> None:
        """One answer."""
        now = time.monotonic()
        self.latency_ms.append(1000 * (now - began_s))
        self.ended_s.append(now)
        if not head.startswith(b"HTTP/1.1 200") or body.count(b'"id":') != k or b'"degraded":["' in body:
            self.failed += 1
            said = head[:15] + b" " + body[:100] + b" ... " + body[-300:]  # what is missing stands at its end
            self.said = self.said or said.decode(errors="replace")


def load(
    url: str,
    users: int,
    k: int,
    connections: int,
    requests: int = 0,
    while_there: str = "",
    apart: int = 1,
) -> dict[str, Any]:
    """Ask and tell."""
    place = urlsplit(url)
    host, port = str(place.hostname), int(place.port or 80)
    asking = [_request(place.netloc, apart * user, k) for user in range(users)]
    told = Told()
    began = time.monotonic()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_all(host, port, _due(asking, requests, while_there), connections, k, told))
    return {"seconds": time.monotonic() - began, **vars(told)}


def _due(asking: list[bytes], requests: int, while_there: str) -> Iterator[bytes]:
    for asked in count():
        if asked == requests if requests else not os.path.exists(while_there):
            return
        yield asking[asked % len(asking)]


async def _all(host: str, port: int, due: Iterator[bytes], connections: int, k: int, told: Told) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(_connection(host, port, due, k, told))


async def _connection(host: str, port: int, due: Iterator[bytes], k: int, told: Told) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    for request in due:  # shared: each request is taken by one connection
        began = time.monotonic()
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            found = _LENGTH.search(head)
            body = await reader.readexactly(int(found[1]) if found else 0)
            told.take(began, head, body, k)
        except (OSError, asyncio.IncompleteReadError) as error:
            told.take(began, repr(error).encode(), b"", k)
            reader, writer = await asyncio.open_connection(host, port)
    writer.close()


def _request(netloc: str, user: int, k: int) -> bytes:
    body = json.dumps({"user_id": user, "k": k}).encode()
    head = f"POST /v1/recall HTTP/1.1\r\nhost: {netloc}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


if __name__ == "__main__":
    work(load)
