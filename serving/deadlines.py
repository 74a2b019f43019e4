"""Time limits of many waits by one timer: to set and stop one for each costs as much as what it limits."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Protocol


class Wait(Protocol):
    """Something that is waited for."""

    over: bool
    """It has come, or nobody waits any more."""

    def late(self) -> None:
        """Called when its time is over before it is."""
        ...


class Deadlines:
    """Waits of one length, of one event loop. As they begin one after another, so they end."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._waits: deque[tuple[float, Wait]] = deque()
        self._sweeping = False

    def begin(self, wait: Wait) -> None:
        """Tell it when it is late, limit_s from now. It is held no longer than that."""
        loop, waits = asyncio.get_running_loop(), self._waits
        while waits and waits[0][1].over:
            waits.popleft()
        waits.append((loop.time() + self._limit_s, wait))
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(self._limit_s, self._sweep)

    def _sweep(self) -> None:
        loop, waits = asyncio.get_running_loop(), self._waits
        now = loop.time()
        while waits and (waits[0][1].over or waits[0][0] <= now):
            _, wait = waits.popleft()
            if not wait.over:
                wait.late()
        self._sweeping = bool(waits)
        if waits:
            loop.call_at(waits[0][0], self._sweep)


class Within:
    """What asyncio.timeout() does, by Deadlines: the task that is in its block when the time is over leaves
    it with TimeoutError. Of one use.
    """

    __slots__ = ("_before", "_deadlines", "_late", "_task", "over")

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines, self.over, self._late = deadlines, False, False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a time limit is of a task, and there is none")
        self._task, self._before = task, task.cancelling()
        self._deadlines.begin(self)

    def late(self) -> None:
        """Of Deadlines."""
        self._late = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over = True
        if self._late and self._task.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise TimeoutError from error
