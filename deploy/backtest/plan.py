"""Event time cut into update intervals, each day's from its local midnight, where the full retrains are."""

from __future__ import annotations

from dataclasses import dataclass

from deploy.errors import StartError
from updater.day import last_midnight_ms

DAY_MS = 86_400_000
_NEXT_DAY_MS = 36 * 3_600_000  # from a midnight into the following day, however long summer time makes one


@dataclass(frozen=True)
class Step:
    """One interval [start_ms, end_ms) of event time; full: a local midnight ends it."""

    start_ms: int
    end_ms: int
    full: bool


def steps(start_ms: int, end_ms: int, interval_ms: int, day_timezone: str) -> list[Step]:
    """Consecutive intervals that cover [start_ms, end_ms). Raises StartError for an interval over a day."""
    if not 0 < interval_ms <= DAY_MS:
        raise StartError(f"interval: expected above 0 and at most a day ({DAY_MS} ms), got {interval_ms} ms")
    cut: list[Step] = []
    midnight_ms = last_midnight_ms(start_ms, day_timezone)
    while midnight_ms < end_ms:
        next_ms = last_midnight_ms(midnight_ms + _NEXT_DAY_MS, day_timezone)
        for begin_ms in range(midnight_ms, next_ms, interval_ms):
            stop_ms = min(begin_ms + interval_ms, next_ms)
            if stop_ms > start_ms and begin_ms < end_ms:
                whole = stop_ms == next_ms and next_ms <= end_ms
                cut.append(Step(max(begin_ms, start_ms), min(stop_ms, end_ms), whole))
        midnight_ms = next_ms
    return cut
