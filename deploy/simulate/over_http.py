"""The recommender that is a running server: POST /v1/recall, many at once, so the loop is closed for real."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

import httpx
import numpy as np

from deploy.errors import StartError
from deploy.simulate.actions import Actions
from deploy.simulate.world import World
from models.arrays import Int64Array

log = logging.getLogger(__name__)
AT_ONCE = 32
POLL_S = 0.2


class Http:
    """Asks the server at `url`. A request that fails, or takes longer than `timeout_s`, is served nothing and
    counted; so is an item of an answer that this world does not have (`foreign`: of another run, or text).
    """

    def __init__(
        self,
        world: World,
        url: str,
        timeout_s: float = 2.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Raises StartError where nobody answers. transport: another one than the network, for tests."""
        self.world, self.url = world, url
        self.latency_ms: list[float] = []
        self.failed, self.foreign, self.first_failure = 0, 0, ""
        self._loop = asyncio.new_event_loop()
        limits = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
        self._client = httpx.AsyncClient(base_url=url, timeout=timeout_s, limits=limits, transport=transport)
        try:
            self._loop.run_until_complete(self._client.get("/healthz"))
        except httpx.HTTPError as error:
            self.close()
            raise StartError(
                f"{url}: expected a server of freshrecall, got {error!r}; start one with `freshrecall up`, "
                "or give its address with --url"
            ) from None

    def lists(self, users: Int64Array, context: Mapping[str, str], k: int, ts_ms: Int64Array) -> Int64Array:
        """See Recommender."""
        served = np.zeros((len(users), k), np.int64)
        self._loop.run_until_complete(self._all(users, context, ts_ms, served))
        return served

    def observe(self, actions: Actions) -> None:
        """The server hears of them through Kafka."""

    def wait_ready(self, limit_s: float = 600.0) -> None:
        """Wait until the server has something to answer with. Raises StartError after limit_s."""
        end_s = time.monotonic() + limit_s
        log.warning("waiting for %s/readyz; the first bundle is made by `freshrecall retrain`", self.url)
        while not self._loop.run_until_complete(self._ready()):
            if time.monotonic() > end_s:
                raise StartError(
                    f"{self.url}/readyz: expected 200 within {limit_s:g} s, as the warm days are over; make "
                    "the first bundle with `freshrecall retrain`"
                )
            time.sleep(POLL_S)

    def close(self) -> None:
        """End all connections."""
        self._loop.run_until_complete(self._client.aclose())
        self._loop.close()

    def summary(self) -> dict[str, Any]:
        """Answers, failures and latencies as the asker saw them."""
        found: dict[str, Any] = {
            "url": self.url, "answered": len(self.latency_ms), "failed": self.failed,
            "first_failure": self.first_failure, "foreign_items": self.foreign,
        }  # fmt: skip
        if self.latency_ms:
            p50, p99 = np.percentile(self.latency_ms, [50, 99])
            found |= {"latency_p50_ms": round(float(p50), 2), "latency_p99_ms": round(float(p99), 2)}
        return found

    async def _ready(self) -> bool:
        try:
            return (await self._client.get("/readyz")).status_code == 200
        except httpx.HTTPError:
            return False

    async def _all(
        self, users: Int64Array, context: Mapping[str, str], ts_ms: Int64Array, served: Int64Array
    ) -> None:
        # A gate of our own: waiting for a free connection would count against the client's timeout.
        gate = asyncio.Semaphore(AT_ONCE)

        async def ask(row: int) -> None:
            body = {"user_id": int(users[row]), "k": served.shape[1], "ts_ms": int(ts_ms[row])}
            async with gate:
                began = time.perf_counter()
                try:
                    response = await self._client.post("/v1/recall", json={**body, "context": dict(context)})
                    response.raise_for_status()
                    found = [item["id"] for item in response.json()["items"]]
                except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                    self.failed += 1
                    self.first_failure = self.first_failure or repr(error)
                    return
                self.latency_ms.append((time.perf_counter() - began) * 1000.0)
            known = self._known(found)[: served.shape[1]]
            served[row, : len(known)] = known

        await asyncio.gather(*(ask(row) for row in range(len(users))))

    def _known(self, found: list[Any]) -> list[int]:
        """The items that are there now, each once."""
        count = self.world.items.count
        known = dict.fromkeys(one for one in found if type(one) is int and 1 <= one <= count)
        self.foreign += len(found) - len(known)
        return list(known)
