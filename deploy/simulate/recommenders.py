"""Who answers the simulated requests: the ceiling, two baselines, and what goes around another one.

A running server is in over_http.py, a system in this process in learned.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from deploy.simulate.actions import CLICK, Actions
from deploy.simulate.randomness import Stream, generator
from deploy.simulate.world import World
from models.arrays import Int64Array

_ORACLE_SCORES = 20_000_000  # scores in memory at once: 80 MB


class Recommender(Protocol):
    """Answers requests and is told what happened. It must not move the world."""

    def lists(self, users: Int64Array, context: Mapping[str, str], k: int, ts_ms: Int64Array) -> Int64Array:
        """Item IDs int64[n, k], best first, distinct, 0 = none, for user IDs int64[n] at ts_ms int64[n]."""
        ...

    def observe(self, actions: Actions) -> None:
        """Called once a minute with the actions that happened in it, in order."""
        ...


class Oracle:
    """The k items of highest true click probability: nothing can expect more clicks from the same state."""

    def __init__(self, world: World) -> None:
        self.world = world

    def lists(self, users: Int64Array, context: Mapping[str, str], k: int, ts_ms: Int64Array) -> Int64Array:
        """See Recommender."""
        served = np.zeros((len(users), k), np.int64)
        rows = max(1, _ORACLE_SCORES // self.world.items.count)
        for first in range(0, len(users), rows):
            found = self.world.best(users[first : first + rows] - 1, k)
            served[first : first + rows, : found.shape[1]] = found + 1
        return served

    def observe(self, actions: Actions) -> None:
        """It knows the world already."""


class Random:
    """k distinct items out of all that are there, uniformly (Floyd's sampling, a column at a time)."""

    def __init__(self, world: World) -> None:
        self.world = world

    def lists(self, users: Int64Array, context: Mapping[str, str], k: int, ts_ms: Int64Array) -> Int64Array:
        """See Recommender."""
        rng = generator(self.world.config.seed, Stream.RECOMMENDER, self.world.step)
        count, served = self.world.items.count, np.zeros((len(users), k), np.int64)
        for place, last in enumerate(range(count - min(k, count) + 1, count + 1)):
            drawn = rng.integers(1, last + 1, len(users))
            taken = (served[:, :place] == drawn[:, None]).any(axis=1)
            served[:, place] = np.where(taken, last, drawn)
        # Floyd's set is uniform, its order is not: the last items come late.
        served[:, :count] = rng.permuted(served[:, :count], axis=1)
        return served

    def observe(self, actions: Actions) -> None:
        """It learns nothing."""


class Popular:
    """The k items of most clicks, decayed; `explore` of the places get a random item, else nothing new is
    ever shown.
    """

    def __init__(self, world: World, half_life_h: float, explore: float) -> None:
        self.world, self.half_life_ms, self.explore = world, half_life_h * 3_600_000, explore
        self._random = Random(world)
        self._count = np.zeros(0)
        self._as_of_ms = world.now_ms

    def lists(self, users: Int64Array, context: Mapping[str, str], k: int, ts_ms: Int64Array) -> Int64Array:
        """See Recommender."""
        count = self._counts()
        top = np.lexsort((np.arange(len(count)), -count))[:k] + 1
        served = np.zeros((len(users), k), np.int64)
        served[:, : len(top)] = top
        if not self.explore:
            return served
        others = self._random.lists(users, context, k, ts_ms)
        rng = generator(self.world.config.seed, Stream.EXPLORE, self.world.step)
        chosen = (rng.random(served.shape) < self.explore) & (others > 0) & ~np.isin(others, top)
        return np.where(chosen, others, served)

    def observe(self, actions: Actions) -> None:
        """Count the clicks; an older click counts half after every half-life."""
        if not len(actions):
            return
        now_ms = int(actions.ts_ms[-1])
        count = self._counts()
        count *= 0.5 ** ((now_ms - self._as_of_ms) / self.half_life_ms)
        clicks = actions.where(actions.kind == CLICK)
        np.add.at(count, clicks.item, 0.5 ** ((now_ms - clicks.ts_ms) / self.half_life_ms))
        self._as_of_ms = now_ms

    def _counts(self) -> np.ndarray:
        """float64[I], grown to the items there are."""
        missing = self.world.items.count - len(self._count)
        if missing:
            self._count = np.concatenate([self._count, np.zeros(missing)])
        return self._count


class Exploring:
    """Another recommender's lists with a share of their places given to other items, drawn uniformly.

    Which places, and which items, depend on neither the recommender nor its lists (Stream.EXPLORE and
    RECOMMENDER): two recommenders of one seed explore alike.
    """

    def __init__(self, world: World, inner: Recommender, share: float) -> None:
        self.world, self.inner, self.share = world, inner, share
        self._random = Random(world)

    def lists(self, users: Int64Array, context: Mapping[str, str], k: int, ts_ms: Int64Array) -> Int64Array:
        """See Recommender. A drawn item that is in the list anyway is not drawn; an empty place is filled."""
        served = self.inner.lists(users, context, k, ts_ms)
        others = self._random.lists(users, context, k, ts_ms)
        rng = generator(self.world.config.seed, Stream.EXPLORE, self.world.step)
        chosen = (rng.random(served.shape) < self.share) | (served == 0)
        twice = (others[:, :, None] == served[:, None, :]).any(axis=2)
        return np.where(chosen & (others > 0) & ~twice, others, served)

    def observe(self, actions: Actions) -> None:
        """For the one within."""
        self.inner.observe(actions)


class Warmed:
    """`first` answers until event time `until_ms`, then `second`, which has events to have learned from."""

    def __init__(
        self,
        world: World,
        first: Recommender,
        second: Recommender,
        until_ms: int,
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        """begin: called once, before `second` is first asked."""
        self.world, self.first, self.second = world, first, second
        self.until_ms, self._begin, self._begun = until_ms, begin, False

    def lists(self, users: Int64Array, context: Mapping[str, str], k: int, ts_ms: Int64Array) -> Int64Array:
        """See Recommender."""
        if self.world.now_ms < self.until_ms:
            return self.first.lists(users, context, k, ts_ms)
        if not self._begun:
            self._begun = True
            self._begin()
        return self.second.lists(users, context, k, ts_ms)

    def observe(self, actions: Actions) -> None:
        """Both hear of everything."""
        self.first.observe(actions)
        self.second.observe(actions)
