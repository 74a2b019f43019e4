"""A recommender that learns from what it is told: the system of system.py, asked request by request."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from deploy.config import Config
from deploy.simulate.actions import Actions
from deploy.simulate.config import HOUR_MS, MINUTE_MS
from deploy.simulate.live_profiles import LiveProfiles
from deploy.simulate.system import System
from deploy.simulate.world import World
from models.arrays import Int64Array


class Learned:
    """Lists of a System that hears of everything and is asked after its first bundle.

    A user's profile is as of the last whole minute, the models as of the last whole hour or day.
    """

    def __init__(self, world: World, config: Config, first_ms: int) -> None:
        """first_ms: the midnight of the first full retrain; it must not be asked before (NothingServed)."""
        self.world = world
        self.system = System(config, world.users_table(), world.now_ms, first_ms)
        self.profiles = LiveProfiles(config.profiles, world.users_table())
        self._items = 0
        self._meet_items()

    def lists(self, users: Int64Array, context: Mapping[str, str], k: int, ts_ms: Int64Array) -> Int64Array:
        """See Recommender."""
        self._meet_items()
        served = np.zeros((len(users), k), np.int64)
        minute = self.world.now_ms // MINUTE_MS
        for row, (user, moment) in enumerate(zip(users.tolist(), ts_ms.tolist(), strict=True)):
            # The ID that the answer's events will carry (Actions.table).
            request_id = f"s{self.world.config.seed}-{minute}-{row}"
            profile = self.profiles.fetch(user)
            found = self.system.answer(user, profile, context, k, moment, request_id)
            served[row, : len(found)] = found
        return served

    def observe(self, actions: Actions) -> None:
        """Take in what happened, and learn where an hour ends with the minute."""
        if len(actions):
            table = actions.table(self.world.config.seed)
            self.profiles.apply(actions, table["request_id"].to_pylist())
            self.system.take(table)
        end_ms = self.world.now_ms + MINUTE_MS
        if end_ms % HOUR_MS == 0:
            self._meet_items()
            self.system.close_hour(end_ms)

    def close(self) -> None:
        """Close the system's files."""
        self.system.close()

    def _meet_items(self) -> None:
        items = self.world.items
        if items.count > self._items:
            self.system.add_items(items.table(self._items), self.world.now_ms)
            self._items = items.count
