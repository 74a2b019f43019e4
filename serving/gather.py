"""Ask several channels at once; what is late or fails is left out and named, never waited for.

Every channel has a lane, one thread of its own: a call that hangs holds up nothing but its lane, and while it
hangs the next answers do without the channel at once. Lanes outlive snapshots.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

_LOG = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Gathered(Generic[T]):
    """answers: by channel, in the order asked; dropped: channel -> why it is not among them."""

    answers: dict[str, T]
    dropped: dict[str, str]


class _Lane:
    """One daemon thread that does its calls in order: an executor's would hold up the end of the process."""

    def __init__(self, name: str, prepare: Callable[[], object]) -> None:
        self.began_s: float | None = None
        """When the running call began, None between calls."""
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._prepare = prepare
        threading.Thread(target=self._run, name=f"channel-{name}", daemon=True).start()

    def call(self, work: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        self._calls.put((future, work))
        return future

    def end(self) -> None:
        self._calls.put(None)

    def _run(self) -> None:
        self._prepare()
        while call := self._calls.get():
            future, work = call
            if not future.set_running_or_notify_cancel():
                continue  # its answer went out without it
            self.began_s = time.perf_counter()
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)
            finally:
                self.began_s = None


class Lanes:
    """One lane per channel name, made when it is first asked. Belongs to one event loop."""

    def __init__(self, prepare: Callable[[], object] = lambda: None) -> None:
        """prepare: called once in every new thread (thread counts of the libraries that have them)."""
        self._prepare = prepare
        self._lanes: dict[str, _Lane] = {}

    async def gather(
        self, calls: Mapping[str, Callable[[], T]], limits_s: Mapping[str, float]
    ) -> Gathered[T]:
        """Make one call of each channel; limits_s: how long to wait for each, from now."""
        began_s = time.perf_counter()
        dropped: dict[str, str] = {}
        asked: dict[str, asyncio.Future[T]] = {}
        for name, call in calls.items():
            lane = self._lane(name)
            since_s = lane.began_s  # read once: the lane writes it
            running_s = 0.0 if since_s is None else began_s - since_s
            if running_s > limits_s[name]:
                dropped[name] = f"skipped: its last call has been running for {1000 * running_s:.0f} ms"
            else:
                asked[name] = asyncio.wrap_future(lane.call(call))
        answers: dict[str, T] = {}
        for name, future in asked.items():
            if not future.done():
                left_s = began_s + limits_s[name] - time.perf_counter()
                await asyncio.wait([future], timeout=max(left_s, 0.0))
            if not future.done():
                future.cancel()  # one that has not begun never will; one that runs is left to its lane
                dropped[name] = f"no answer within {1000 * limits_s[name]:g} ms"
            elif error := future.exception():
                _LOG.error("channel %s failed", name, exc_info=error)
                dropped[name] = f"{type(error).__name__}: {str(error)[:200]}"
            else:
                answers[name] = future.result()
        return Gathered(answers, dropped)

    def running(self, name: str) -> bool:
        """Whether a channel is at work on a call."""
        return name in self._lanes and self._lanes[name].began_s is not None

    def close(self) -> None:
        """Take no more calls; what hangs is not waited for."""
        for lane in self._lanes.values():
            lane.end()

    def _lane(self, name: str) -> _Lane:
        if name not in self._lanes:
            self._lanes[name] = _Lane(name, self._prepare)
        return self._lanes[name]
