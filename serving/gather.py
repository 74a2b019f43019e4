"""Ask several channels at once; what is late or fails is left out and named, never waited for.

Every channel has a lane, one thread of its own: a call that hangs holds up nothing but its lane, and while it
hangs the next answers do without the channel at once. Lanes outlive snapshots. A lane takes all that waits,
and makes together what is alike (Joint); the event loop is told once of all that a lane has done meanwhile:
the busier the server, the less a call costs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, TypeVar, cast

from serving.deadlines import Deadlines

_LOG = logging.getLogger(__name__)
T = TypeVar("T")
_SHARE_OF_LIMIT = 0.25
"""What calls that are made together may take of the time limit of each."""
_LOOKED_AT = 64
"""Waiting calls of another kind that a lane looks past for one that is alike."""


@dataclass(frozen=True)
class Gathered(Generic[T]):
    """answers: by channel, in the order asked; dropped: channel -> why it is not among them."""

    answers: dict[str, T]
    dropped: dict[str, str]


class Joint(ABC, Generic[T]):
    """A call that can be made together with others like it.

    like: calls are alike where it is equal; most: so many are made together.
    """

    like: Hashable
    most: int

    def __call__(self) -> T:
        """The answer of this call alone."""
        return self.of_each([self])[0]

    @abstractmethod
    def of_each(self, calls: Sequence[Any]) -> list[T]:
        """The answers of calls that are alike, each as it would be alone. Where it raises, every call is made
        by itself.
        """


class _Call(Generic[T]):
    """One call of a lane. future: done by the event loop, with whether the call was answered. over: it is
    done; a call that has not begun by then never will.
    """

    __slots__ = ("answer", "error", "future", "limit_s", "over", "work")

    def __init__(self, work: Callable[[], T], limit_s: float, future: asyncio.Future[bool]) -> None:
        self.work, self.limit_s, self.future, self.over = work, limit_s, future, False
        self.answer: T | None = None
        self.error: Exception | None = None

    def make(self) -> None:
        """Of the lane's thread."""
        try:
            self.answer = self.work()
        except Exception as error:
            self.error = error

    def late(self) -> None:
        """Of the event loop: its time is over."""
        self._close(False)

    def made(self) -> None:
        """Of the event loop: it was made."""
        self._close(True)

    def _close(self, answered: bool) -> None:
        self.over = True
        if not self.future.done():
            self.future.set_result(answered)


def _make(calls: Sequence[_Call[Any]]) -> None:
    """Of a lane's thread."""
    first = calls[0].work
    if len(calls) > 1 and isinstance(first, Joint):
        try:
            for call, answer in zip(calls, first.of_each([call.work for call in calls]), strict=True):
                call.answer = answer
            return
        except Exception:
            _LOG.exception("%d calls failed together; each is made alone", len(calls))
    for call in calls:
        call.make()


class _Lane:
    """One daemon thread that does its calls, the oldest first: an executor's would hold up the end of the
    process.
    """

    def __init__(self, name: str, prepare: Callable[[], object], loop: asyncio.AbstractEventLoop) -> None:
        self.began_s: float | None = None
        """When the running call began, None between calls."""
        self._waiting: deque[_Call[Any]] = deque()
        self._bell: SimpleQueue[bool] = SimpleQueue()
        self._rung = False
        self._made: deque[_Call[Any]] = deque()
        self._told = False
        self._each_s = 0.0
        """What a call took of late."""
        self._deadlines: dict[float, Deadlines] = {}  # limits are of a configuration: few
        self._prepare, self._loop = prepare, loop
        threading.Thread(target=self._run, name=f"channel-{name}", daemon=True).start()

    def call(self, work: Callable[[], T], limit_s: float) -> _Call[T]:
        """Of the event loop."""
        call = _Call(work, limit_s, self._loop.create_future())
        self._waiting.append(call)
        if not self._rung:  # once a turn, when all that wakes in it has asked
            self._rung = True
            self._loop.call_soon(self._ring)
        if limit_s not in self._deadlines:
            self._deadlines[limit_s] = Deadlines(limit_s)
        self._deadlines[limit_s].begin(call)
        return call

    def end(self) -> None:
        self._bell.put(False)

    def _ring(self) -> None:
        self._rung = False
        self._bell.put(True)

    def _run(self) -> None:
        self._prepare()
        while self._bell.get():
            while calls := self._next():
                began_s = self.began_s = time.perf_counter()
                _make(calls)
                self.began_s, self._each_s = None, (time.perf_counter() - began_s) / len(calls)
                for call in calls:
                    del call.work  # of a snapshot, which nothing that is made keeps alive
                self._made.extend(calls)
                del calls  # while it waits for the next one, a lane keeps no snapshot alive
                if not self._told:  # else the event loop has yet to look, and will find these too
                    self._told = True
                    with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody waits
                        self._loop.call_soon_threadsafe(self._tell)

    def _next(self) -> list[_Call[Any]]:
        """The first that waits, and those like it that are made together with it; empty where none waits."""
        calls: list[_Call[Any]] = []
        others: list[_Call[Any]] = []
        first: Hashable = None
        most = 1
        while self._waiting and len(calls) < most and len(others) < _LOOKED_AT:
            call = self._waiting.popleft()
            if call.over:
                continue
            like = call.work.like if isinstance(call.work, Joint) else None
            if not calls:
                calls, first, most = [call], like, self._most(call)
            elif like is not None and like == first:
                calls.append(call)
            else:
                others.append(call)
        self._waiting.extendleft(reversed(others))  # before what was asked meanwhile
        return calls

    def _most(self, call: _Call[Any]) -> int:
        """How many are made together with a call: its answer waits for all of them."""
        if not isinstance(call.work, Joint):
            return 1
        within = call.limit_s * _SHARE_OF_LIMIT
        return (
            call.work.most if call.work.most * self._each_s <= within else max(int(within / self._each_s), 1)
        )

    def _tell(self) -> None:
        self._told = False  # first: what is made from here on is told anew
        while self._made:
            self._made.popleft().made()


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
        dropped: dict[str, str] = {}
        asked: dict[str, _Call[T]] = {}
        for name, call in calls.items():
            lane = self._lane(name)
            since_s = lane.began_s  # read once: the lane writes it
            running_s = 0.0 if since_s is None else time.perf_counter() - since_s
            if running_s > limits_s[name]:
                dropped[name] = f"skipped: its last call has been running for {1000 * running_s:.0f} ms"
            else:
                asked[name] = lane.call(call, limits_s[name])
        answers: dict[str, T] = {}
        for name, made in asked.items():
            if not await made.future:
                dropped[name] = f"no answer within {1000 * limits_s[name]:g} ms"
            elif made.error is not None:
                _LOG.error("channel %s failed", name, exc_info=made.error)
                dropped[name] = f"{type(made.error).__name__}: {str(made.error)[:200]}"
            else:
                answers[name] = cast(T, made.answer)
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
            self._lanes[name] = _Lane(name, self._prepare, asyncio.get_running_loop())
        return self._lanes[name]
