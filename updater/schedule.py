"""When full retrains happen: APScheduler on the wall clock, or the archive's event-time watermark in
replay.
"""

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from updater.config import ScheduleConfig
from updater.day import day_boundary_ms

log = logging.getLogger(__name__)

Retrain = Callable[[int], None]
"""Runs one full retrain through the given event time, ms."""


class DailyJob:
    """Decides whether a day is due and retrains it; the same object for cron, replay and tests."""

    def __init__(
        self,
        config: ScheduleConfig,
        interval_ms: int,
        sealed_through_ms: Callable[[], int | None],
        trained_through_ms: Callable[[], int | None],
        retrain: Retrain,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._config = config
        self._interval_ms = interval_ms
        self._sealed_through_ms = sealed_through_ms
        self._trained_through_ms = trained_through_ms
        self._retrain = retrain
        self._now_ms = now_ms

    def due_ms(self) -> int | None:
        """Return the day boundary that is sealed and not trained yet, or None.

        Days that were missed come as one run: a full retrain consumes everything after its parent.
        The first bundle is asked for by hand (`freshrecall retrain`), once enough history is there.
        """
        sealed, trained = self._sealed_through_ms(), self._trained_through_ms()
        if sealed is None or trained is None:
            return None
        now = sealed if self._config.clock == "event" else min(self._now_ms(), sealed)
        boundary = day_boundary_ms(now, self._config.day_timezone, self._interval_ms)
        return boundary if boundary > trained else None

    def run_if_due(self) -> bool:
        """Retrain the due day, if any; returns whether it did. Errors are the caller's to see."""
        boundary = self.due_ms()
        if boundary is None:
            return False
        self._retrain(boundary)
        return True

    def waits_for_seal(self) -> bool:
        """Whether the wall clock has passed a midnight that the archive has not sealed yet."""
        trained = self._trained_through_ms()
        boundary = day_boundary_ms(self._now_ms(), self._config.day_timezone, self._interval_ms)
        return trained is not None and boundary > trained and self.due_ms() is None


class Schedule:
    """Runs a `DailyJob` from APScheduler; a failed run is logged and the next one tries again."""

    def __init__(self, config: ScheduleConfig, job: DailyJob) -> None:
        self._config = config
        self._job = job
        self._resume_s = 0.0
        # One worker: cron, the start and a retry are jobs of their own, and may never retrain side by side.
        self._scheduler = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(1)}, timezone=config.day_timezone
        )

    def run(self, stop: threading.Event) -> None:
        """Block until `stop` is set; a retrain in progress is finished first."""
        trigger = (
            IntervalTrigger(seconds=self._config.poll_s)
            if self._config.clock == "event"
            else CronTrigger.from_crontab(self._config.daily_cron, timezone=self._config.day_timezone)
        )
        # misfire_grace_time=None: a day is retrained late rather than never.
        self._scheduler.add_job(
            self._tick, trigger, id="daily", max_instances=1, coalesce=True, misfire_grace_time=None
        )
        if self._config.clock == "wall":
            self._scheduler.add_job(self._tick, id="at-start")  # a day missed while this process was down
        self._scheduler.start()
        stop.wait()
        self._scheduler.shutdown(wait=True)

    def _tick(self) -> None:
        if time.monotonic() < self._resume_s:
            return
        try:
            again = not self._job.run_if_due() and self._job.waits_for_seal()
        except Exception:
            log.exception("daily retrain failed; the served version stays, and the day is tried again")
            again = True
            self._resume_s = time.monotonic() + self._config.retry_s
        if again and self._config.clock == "wall":  # the event clock comes back by itself
            due = datetime.now(UTC) + timedelta(seconds=self._config.retry_s)
            self._scheduler.add_job(
                self._tick, "date", run_date=due, id="retry", replace_existing=True, misfire_grace_time=None
            )
