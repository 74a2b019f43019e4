"""When the machine itself stood still: `Worker("benchmarks.pauses")`.

A thread on every core does nothing but wake up, before all others where the system lets it (real-time
priority). What it sleeps through is not of the processes that are measured: whoever runs the virtual machine
took the core away, or the kernel did not leave it.

Asked {while_there} (a file: until it is gone), it answers {began_s, ended_s, real_time}: the moments
(time.monotonic) between which a core did not wake its thread, and whether the priority was given.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.worker import work

WAKE_S = 0.002
LATE_S = 0.002
"""What it wakes late by without any harm."""


def pauses(while_there: str) -> dict[str, Any]:
    """Watch and tell."""
    found = list[tuple[float, float]]()
    given = list[bool]()
    threads = [
        threading.Thread(target=_watch, args=(core, while_there, found, given))
        for core in os.sched_getaffinity(0)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    began, ended = [one[0] for one in found], [one[1] for one in found]
    return {"began_s": began, "ended_s": ended, "real_time": all(given)}


def _watch(core: int, while_there: str, found: list[tuple[float, float]], given: list[bool]) -> None:
    os.sched_setaffinity(0, {core})  # of this thread alone
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        given.append(True)
    except PermissionError:
        given.append(False)
    found.extend(late(lambda: os.path.exists(while_there)))


def late(
    there: Callable[[], bool],
    now_s: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[tuple[float, float]]:
    """(last moment awake, next one) of every sleep of the calling thread that was too long."""
    last = now_s()
    while there():
        sleep(WAKE_S)
        now = now_s()
        if now - last > WAKE_S + LATE_S:
            yield last, now
        last = now


if __name__ == "__main__":
    work(pauses)
