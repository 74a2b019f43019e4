"""How long until an event shows: through the profile path, and through the delta of its interval."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import pyarrow as pa


class ProfileProbe:
    """Times single events: from just before they are produced until an answer was computed with them.

    `before(chunk)` is called by the replay before it sends; when the probe is free it remembers what the
    server says
    for one user of the chunk and then asks until that user's profile position moves.
    """

    def __init__(self, url: str, gap_s: float = 0.2, deadline_s: float = 20.0) -> None:
        self._client = httpx.Client(base_url=url, timeout=10.0)
        self._gap_s, self._deadline_s = gap_s, deadline_s
        self._waiting: queue.Queue[tuple[int, dict[str, Any], float] | None] = queue.Queue(maxsize=1)
        self._busy = threading.Event()
        self._next_s = 0.0
        self._thread = threading.Thread(target=self._run, name="profile-probe", daemon=True)
        self.visible_ms: list[float] = []
        self.changed = 0
        self.lost: list[int] = []
        self._thread.start()

    def before(self, chunk: pa.Table) -> None:
        """Take the last user of the rows that are about to be sent, if no other is being watched."""
        if self._busy.is_set() or time.monotonic() < self._next_s:
            return
        user = int(chunk["user_id"][len(chunk) - 1].as_py())
        held = self._ask(user)
        if held is not None:
            self._busy.set()
            self._waiting.put((user, held, time.monotonic()))

    def stop(self) -> None:
        """Wait for the event being watched, then end."""
        self._waiting.put(None)
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        while (watched := self._waiting.get()) is not None:
            self._watch(*watched)
            self._next_s = time.monotonic() + self._gap_s
            self._busy.clear()

    def _watch(self, user: int, held: dict[str, Any], produced_s: float) -> None:
        while time.monotonic() < produced_s + self._deadline_s:
            answer = self._ask(user)
            if answer is not None and answer["profile"] != held["profile"]:
                self.visible_ms.append((time.monotonic() - produced_s) * 1000)
                self.changed += answer["items"] != held["items"]
                return
            time.sleep(0.005)
        self.lost.append(user)

    def _ask(self, user: int) -> dict[str, Any] | None:
        try:
            response = self._client.post("/v1/recall", json={"user_id": user, "k": 50})
        except httpx.HTTPError:
            return None
        return response.json() if response.status_code == 200 else None


class IntervalClock:
    """When, on the wall, the replay passed the end of each interval of event time."""

    def __init__(self, interval_ms: int, first_ms: int) -> None:
        self._interval_ms = interval_ms
        self._end_ms = (first_ms // interval_ms + 1) * interval_ms
        self.passed_s: dict[int, float] = {}

    def before(self, chunk: pa.Table) -> None:
        """Note the interval ends that the rows about to be sent pass."""
        newest = int(chunk["ts_ms"][len(chunk) - 1].as_py())
        now = time.monotonic()
        while newest >= self._end_ms:
            self.passed_s[self._end_ms] = now
            self._end_ms += self._interval_ms

    def delays_ms(self, watermark_seen_s: dict[int, float]) -> list[float]:
        """Per interval, ms from passing its end until an answer's watermark had reached it."""
        seen = sorted(watermark_seen_s.items())
        delays = []
        for end_ms, passed in sorted(self.passed_s.items()):
            first = min((at for watermark, at in seen if watermark >= end_ms), default=None)
            if first is not None:
                delays.append(max(0.0, (first - passed) * 1000))
        return delays


def percentile(values: Sequence[float], q: float) -> float:
    """The q-th percentile, nan for nothing measured."""
    return float(np.percentile(values, q)) if len(values) else float("nan")
