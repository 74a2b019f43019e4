"""What is counted, apart by user: arms of one world meet the same users, so differences are paired."""

from __future__ import annotations

import numpy as np

from deploy.simulate.actions import CLICK, IMPRESSION, VIEW
from deploy.simulate.behaviour import Answered
from deploy.simulate.config import RunConfig
from deploy.simulate.figures import Figures
from deploy.simulate.world import World
from models.arrays import Float64Array, Int64Array

COUNTED = ("impressions", "clicks", "expected", "watch_s")
ROUNDS = 1000


class ByUser(Figures):
    """Figures that also keep float64[days, users] of each of COUNTED, by the day of the request.

    expected: clicks to expect of the lists before any luck; watch_s: what clicks led to, however late.
    """

    def __init__(self, world: World, run: RunConfig) -> None:
        super().__init__(world, run)
        days = -(-run.minutes // 1440)
        self.kept = {name: np.zeros((days, world.config.users)) for name in COUNTED}

    def add(self, served: Int64Array, answered: Answered) -> None:
        """See Figures."""
        super().add(served, answered)
        day, actions = self.world.step // 1440, answered.actions
        for name, kind, value in (
            ("impressions", IMPRESSION, None), ("clicks", CLICK, None),
            ("watch_s", VIEW, actions.value / 1000.0),
        ):  # fmt: skip
            of_kind = actions.kind == kind
            amounts = None if value is None else value[of_kind]
            users = len(self.kept[name][day])
            self.kept[name][day] += np.bincount(actions.user[of_kind], amounts, users)
        seen = actions.where(actions.kind == IMPRESSION)
        rows, first = np.unique(seen.row, return_index=True)
        np.add.at(self.kept["expected"][day], seen.user[first], answered.expected[rows])


def rates(counts: Float64Array, impressions: Float64Array, draws: Int64Array) -> Float64Array:
    """Counts float64[U] per impression in every round of draws int64[rounds, U]: float64[rounds]."""
    shown = draws @ impressions
    return np.asarray((draws @ counts) / np.maximum(shown, 1.0))


def drawn(users: int, seed: int) -> Int64Array:
    """How often each user is there, int64[1 + ROUNDS, U]: as they are, then drawn with replacement."""
    rng = np.random.default_rng(seed)
    rounds = rng.multinomial(users, np.full(users, 1.0 / users), ROUNDS)
    return np.concatenate([np.ones((1, users), np.int64), rounds])
