"""APScheduler asks the daily job: again after a failure, and never more than one at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from updater.config import ScheduleConfig
from updater.schedule import DailyJob, Schedule

HOUR, DAY = 3_600_000, 86_400_000


def run_until_trained(config: ScheduleConfig, retrain: Callable[[int], None], done: threading.Event) -> None:
    """Run a schedule in which day 5 is sealed and day 4 was trained, until `done`."""
    job = DailyJob(config, HOUR, lambda: 5 * DAY, lambda: 4 * DAY, retrain, lambda: 5 * DAY)
    stop = threading.Event()
    thread = threading.Thread(target=Schedule(config, job).run, args=(stop,))
    thread.start()
    assert done.wait(20)
    stop.set()
    thread.join(20)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    "config",
    [
        ScheduleConfig(clock="event", poll_s=0.02, retry_s=0.01),
        ScheduleConfig(clock="wall", retry_s=0.02),  # its cron is far away: the start and the retry must do
    ],
    ids=["event", "wall"],
)
def test_a_failed_day_is_tried_again(config: ScheduleConfig) -> None:
    asked: list[int] = []
    done = threading.Event()

    def retrain(through_ms: int) -> None:
        asked.append(through_ms)
        if len(asked) < 3:
            raise RuntimeError("gate failed")
        done.set()

    run_until_trained(config, retrain, done)
    assert asked[:3] == [5 * DAY] * 3
