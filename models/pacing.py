"""Long work that leaves the processor to others: requests, while a version is loaded beside them.

A lower priority does not do that: who waits for the processor with the interpreter lock holds up all others.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

Clock = Callable[[], float]
BLOCK_BYTES = 1 << 20
"""Of what is gone through block by block: less than half a millisecond of work between two rests."""


class _Pace:
    def __init__(self, share: float, worked_s: Clock, now_s: Clock, sleep: Callable[[float], None]) -> None:
        self._share, self._worked_s, self._now_s, self._sleep = share, worked_s, now_s, sleep
        self._start()

    def _start(self) -> None:
        self._since = self._worked_s(), self._now_s()

    def rest(self) -> None:
        worked, passed = self._worked_s() - self._since[0], self._now_s() - self._since[1]
        due = worked / self._share - passed  # less what it waited for others already
        if due > 0:
            self._sleep(due)
        self._start()


class _OfThread(threading.local):
    pace: _Pace | None = None


_here = _OfThread()


@contextlib.contextmanager
def paced(
    share: float,
    worked_s: Clock = time.thread_time,
    now_s: Clock = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[None]:
    """The calling thread works for at most this share (0 .. 1) of the time, wherever it comes by rest().

    worked_s: its processor time, now_s: the time that passes, both in seconds.
    """
    before, _here.pace = _here.pace, _Pace(share, worked_s, now_s, sleep)
    try:
        yield
    finally:
        _here.pace = before


def rest() -> None:
    """Called between blocks of work: waits as long as the thread's pace asks for, if it has one."""
    if _here.pace is not None:
        _here.pace.rest()
