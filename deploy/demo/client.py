"""The demo's reader: keeps asking for recall as a site would, and keeps what it was told."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np


@dataclass
class Answers:
    """What the requests gave: counts, latencies in ms, and when each version was first seen."""

    requests: int = 0
    failed: list[str] = field(default_factory=list)
    latency_ms: list[float] = field(default_factory=list)
    first_seen_s: dict[tuple[str, int], float] = field(default_factory=dict)
    watermark_seen_s: dict[int, float] = field(default_factory=dict)


class RecallClient:
    """Asks for random users at a steady rate from its own thread until stopped."""

    def __init__(self, url: str, users: Sequence[int], rate: float, k: int = 50, seed: int = 7) -> None:
        self._client = httpx.Client(base_url=url, timeout=10.0)
        self._users, self._rate, self._k = users, rate, k
        self._rng = np.random.default_rng(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recall-client", daemon=True)
        self.answers = Answers()

    def start(self) -> None:
        """Begin asking."""
        self._thread.start()

    def stop(self) -> Answers:
        """End asking and return what was learned."""
        self._stop.set()
        self._thread.join()
        self._client.close()
        return self.answers

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            self._ask(int(self._rng.choice(self._users)))
            due = max(
                due + 1 / self._rate, time.monotonic() - 1.0
            )  # after a stall: catch up one second at most
            self._stop.wait(max(0.0, due - time.monotonic()))

    def _ask(self, user: int) -> None:
        answers, started = self.answers, time.monotonic()
        answers.requests += 1
        try:
            response = self._client.post("/v1/recall", json={"user_id": user, "k": self._k})
            body: dict[str, Any] = response.json()
            if response.status_code != 200 or len(body["items"]) != self._k:
                answers.failed.append(f"user {user}: {response.status_code} {str(body)[:200]}")
                return
        except (httpx.HTTPError, ValueError, KeyError) as error:
            answers.failed.append(f"user {user}: {error!r}")
            return
        now = time.monotonic()
        answers.latency_ms.append((now - started) * 1000)
        answers.first_seen_s.setdefault((body["bundle"], body["delta"]), now)
        answers.watermark_seen_s.setdefault(body["watermark_ms"], now)


def swapped_in(metric: str, url: str) -> int:
    """A counter of the server's /metrics page (Prometheus text format)."""
    lines = httpx.get(f"{url}/metrics", timeout=10.0).text.splitlines()
    return int(sum(float(line.split()[-1]) for line in lines if line.startswith(f"{metric} ")))
