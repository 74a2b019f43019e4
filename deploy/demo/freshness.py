"""How long until the events of an interval show through its delta."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pyarrow as pa


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
