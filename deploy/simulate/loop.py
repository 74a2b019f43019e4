"""The closed loop, minute by minute: who comes, what they are served, what they do; the world moves on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import pyarrow as pa

from deploy.simulate.actions import SCENE, Actions, Pending
from deploy.simulate.behaviour import Answered, answer
from deploy.simulate.config import HOUR_MS, MINUTE_MS, RunConfig
from deploy.simulate.figures import Figures
from deploy.simulate.recommenders import Recommender
from deploy.simulate.world import World, activity

Progress = Callable[[int, int, int], None]
"""Called with (minutes done, event time reached in ms, events handed out so far)."""


class Sink(Protocol):
    """Where events go. Items come before the first event that names them."""

    def items(self, items: pa.Table, ts_ms: int) -> None:
        """New items (item_id, attributes), known from `ts_ms` on."""
        ...

    def events(self, events: pa.Table) -> None:
        """Events in the standard form with event_id, by time; never earlier than those before."""
        ...


class Simulation:
    """One run of a world with a recommender. After `run`, `figures` says what came of it."""

    def __init__(self, world: World, run: RunConfig, recommender: Recommender, sink: Sink) -> None:
        self.world, self.config, self.recommender, self.sink = world, run, recommender, sink
        self.figures = Figures(world, run)
        self.handed_out = 0
        self._pending = Pending()

    @property
    def after_the_end(self) -> int:
        """Actions that would have happened after the run; nobody hears of them."""
        return len(self._pending)

    def run(self, progress: Progress = lambda minutes, ts_ms, events: None) -> None:
        """Simulate all minutes."""
        self.sink.items(self.world.items.table(), self.world.now_ms)
        for minute in range(self.config.minutes):
            self.minute()
            progress(minute + 1, self.world.now_ms, self.handed_out)

    def minute(self) -> None:
        """Ask, answer, hand out what happens before the minute's end, move on."""
        world = self.world
        answered = self._answered()
        self._pending.add(answered.actions)
        due = self._pending.until(world.now_ms + MINUTE_MS)
        self._hand_out(due)
        self.recommender.observe(due)
        before = world.items.count
        if world.advance():
            self.sink.items(world.items.table(before), world.now_ms)

    def _answered(self) -> Answered:
        world, config = self.world, self.config
        hour = world.now_ms % (24 * HOUR_MS) / HOUR_MS
        users, ts_ms = world.visitors(config.requests_per_day / 1440 * activity(hour))
        served = self.recommender.lists(users + 1, {"scene": SCENE}, config.k, ts_ms)
        self.figures.regret(users, served)
        answered = answer(world, users, ts_ms, served)
        self.figures.add(served, answered)
        return answered

    def _hand_out(self, due: Actions) -> None:
        if len(due):
            self.sink.events(due.table(self.world.config.seed))
            self.handed_out += len(due)
