"""What a simulated run came to: clicks per impression, regret, share of new items, by day."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, TypeAlias

import numpy as np

from deploy.simulate.actions import KINDS
from deploy.simulate.behaviour import Answered, click_probability
from deploy.simulate.config import DAY_MS, HOUR_MS, RunConfig
from deploy.simulate.world import World
from models.arrays import Int64Array

Sums: TypeAlias = defaultdict[str, float]


class Figures:
    """Counts and sums, by day since the start. Everything in it is SIMULATED."""

    def __init__(self, world: World, run: RunConfig) -> None:
        self.world, self.run = world, run
        self._days: defaultdict[int, Sums] = defaultdict(lambda: defaultdict(float))

    def regret(self, users: Int64Array, served: Int64Array) -> None:
        """Compare expected clicks of the first lists of the minute with those of the best lists.

        Before the answer moves the world. Requests of a minute are in random order of users, so the first
        ones are a fair sample of it.
        """
        asked = users[: self.run.oracle_requests]
        if not len(asked):
            return
        best = click_probability(
            self.world.logits(asked, self.world.best(asked, served.shape[1])).astype(float), self.world.config
        ).sum()
        lists = served[: len(asked)]
        logits = self.world.logits(asked, np.maximum(lists - 1, 0)).astype(float)
        day = self._day()
        day["oracle_expected"] += float(best)
        day["sampled_expected"] += float((click_probability(logits, self.world.config) * (lists > 0)).sum())
        day["sampled_places"] += lists.size

    def add(self, served: Int64Array, answered: Answered) -> None:
        """Count a minute's lists and what followed from them."""
        day, shown = self._day(), served[served > 0] - 1
        born_ms = self.world.items.born_ms[shown]
        day["requests"] += len(served)
        day["unanswered"] += int((served == 0).all(axis=1).sum()) if served.size else 0
        day["new"] += int((self.world.now_ms - born_ms <= self.run.new_item_h * HOUR_MS).sum())
        day["expected"] += float(answered.expected.sum())
        for kind, count in enumerate(np.bincount(answered.actions.kind, minlength=len(KINDS))):
            day[KINDS[kind]] += int(count)

    def summary(self) -> dict[str, Any]:
        """All days together, and each day."""
        total: Sums = defaultdict(float)
        for day in self._days.values():
            for name, value in day.items():
                total[name] += value
        by_day = [{"day": number, **_shown(day)} for number, day in sorted(self._days.items())]
        return {**_shown(total), "by_day": by_day}

    def _day(self) -> Sums:
        return self._days[(self.world.now_ms - self.world.config.start_ms) // DAY_MS]


def _shown(sums: Sums) -> dict[str, Any]:
    """Rates, null where there is nothing to divide by."""

    def rate(part: str, whole: str) -> float | None:
        return round(sums[part] / sums[whole], 6) if sums[whole] else None

    served, best = rate("sampled_expected", "sampled_places"), rate("oracle_expected", "sampled_places")
    return {
        "requests": int(sums["requests"]),
        "unanswered": int(sums["unanswered"]),
        "actions": {kind: int(sums[kind]) for kind in KINDS},
        "clicks_per_impression": rate("click", "impression"),
        "expected_clicks_per_impression": rate("expected", "impression"),
        "new_items_share": rate("new", "impression"),
        "expected_clicks_per_place": served,
        "oracle_expected_clicks_per_place": best,
        "regret": None if served is None or best is None else round(best - served, 6),
        "relative_regret": None if served is None or not best else round(1 - served / best, 6),
        "regret_places": int(sums["sampled_places"]),
    }
