"""What the demo replays: which months are history, which days go through the loop, how fast."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

DAY_TIMEZONE = "America/New_York"  # the grocer's shops; a local midnight bounds a day of data


def local_ms(year: int, month: int, day: int) -> int:
    """Local midnight of a date, ms since the epoch."""
    return int(datetime(year, month, day, tzinfo=ZoneInfo(DAY_TIMEZONE)).timestamp() * 1000)


@dataclass(frozen=True)
class DemoPlan:
    """Event times in ms: history [history_from, live_from) trains the first bundle, then [live_from,
    live_to) is replayed.

    speed: event seconds per wall second of the live part.
    """

    history_from_ms: int
    live_from_ms: int
    live_to_ms: int
    speed: float

    @property
    def live_hours(self) -> float:
        """Length of the live part in hours of event time."""
        return (self.live_to_ms - self.live_from_ms) / 3_600_000


def plan(short: bool) -> DemoPlan:
    """The full demo: three local days and eight hours after three months. Short: one day after ten days.

    The hours after the last midnight let the last daily bundle be swapped in.
    """
    start = local_ms(2017, 12, 5)
    hours = timedelta(hours=26 if short else 3 * 24 + 8) // timedelta(milliseconds=1)
    history_from = local_ms(2017, 11, 25) if short else local_ms(2017, 9, 5)
    return DemoPlan(history_from, start, start + hours, speed=10_800.0 if short else 3_600.0)
