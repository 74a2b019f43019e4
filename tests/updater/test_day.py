"""Midnights are local to the data, and a day is due once, when it is sealed."""

import threading
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from updater.config import ScheduleConfig
from updater.day import day_boundary_ms, last_midnight_ms
from updater.schedule import DailyJob, Schedule

HOUR = 3_600_000


def at(text: str, zone: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


@pytest.mark.parametrize(
    ("zone", "now", "midnight"),
    [
        ("UTC", "2017-12-05T13:00", "2017-12-05T00:00"),
        ("Asia/Shanghai", "2022-04-27T18:49", "2022-04-27T00:00"),
        ("America/New_York", "2017-11-05T23:30", "2017-11-05T00:00"),  # the day of 25 hours
        ("America/New_York", "2017-03-12T12:00", "2017-03-12T00:00"),  # the day of 23 hours
        ("UTC", "2017-12-05T00:00", "2017-12-05T00:00"),
    ],
)
def test_last_midnight(zone: str, now: str, midnight: str) -> None:
    assert last_midnight_ms(at(now, zone), zone) == at(midnight, zone)


def test_boundary_never_splits_an_interval() -> None:
    """Kathmandu is 5:45 ahead: its midnight lies inside a UTC hour, the day ends with the hour before."""
    now = at("2017-12-05T10:00", "Asia/Kathmandu")
    boundary = day_boundary_ms(now, "Asia/Kathmandu", HOUR)
    assert boundary % HOUR == 0
    assert 0 < at("2017-12-05T00:00", "Asia/Kathmandu") - boundary < HOUR


def job(
    config: ScheduleConfig, sealed: int | None, trained: int | None, now: int = 0
) -> tuple[DailyJob, list[int]]:
    ran: list[int] = []
    return DailyJob(config, HOUR, lambda: sealed, lambda: trained, ran.append, lambda: now), ran


EVENT = ScheduleConfig(clock="event", day_timezone="UTC")
WALL = ScheduleConfig(clock="wall", day_timezone="UTC")
D4, D5 = at("2017-12-04T00:00", "UTC"), at("2017-12-05T00:00", "UTC")


def test_event_clock_retrains_a_sealed_day_once() -> None:
    due, ran = job(EVENT, sealed=D5, trained=D4)
    assert due.run_if_due()
    assert ran == [D5]
    assert job(EVENT, sealed=D5 - HOUR, trained=D4)[0].due_ms() is None
    assert job(EVENT, sealed=D5 + 5 * HOUR, trained=D5)[0].due_ms() is None


def test_missed_days_come_as_one_run() -> None:
    assert job(EVENT, sealed=D5 + HOUR, trained=D4 - 72 * HOUR)[0].due_ms() == D5


def test_nothing_is_due_before_the_first_bundle_or_the_first_seal() -> None:
    assert job(EVENT, sealed=D5, trained=None)[0].due_ms() is None
    assert job(EVENT, sealed=None, trained=D4)[0].due_ms() is None


def test_wall_clock_waits_for_the_seal() -> None:
    late = job(WALL, sealed=D5 - HOUR, trained=D4, now=D5 + 20 * 60_000)[0]
    assert late.due_ms() is None
    assert late.waits_for_seal()
    ready = job(WALL, sealed=D5, trained=D4, now=D5 + 20 * 60_000)[0]
    assert ready.due_ms() == D5
    assert not ready.waits_for_seal()


def test_wall_clock_ignores_events_from_the_future() -> None:
    assert job(WALL, sealed=D5 + 48 * HOUR, trained=D4, now=D5 + HOUR)[0].due_ms() == D5


def test_a_retrain_in_progress_is_never_joined_by_another() -> None:
    """The one at the start takes long, and the cron's time comes meanwhile."""
    stop, first, release = threading.Event(), threading.Event(), threading.Event()
    at_once, most, ended = [0], [0], threading.Semaphore(0)

    def retrain(through_ms: int) -> None:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        first.set()
        release.wait(10)
        at_once[0] -= 1
        ended.release()

    due = DailyJob(WALL, HOUR, lambda: D5, lambda: D4, retrain, lambda: D5)
    schedule = Schedule(WALL, due)
    running = threading.Thread(target=schedule.run, args=(stop,))
    running.start()
    assert first.wait(10)
    schedule._scheduler.modify_job("daily", next_run_time=datetime.now(UTC))
    assert not ended.acquire(timeout=0.5)  # room for the second one to start beside the first
    release.set()
    assert ended.acquire(timeout=10)
    assert ended.acquire(timeout=10)
    stop.set()
    running.join(10)
    assert most[0] == 1
