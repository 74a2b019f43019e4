"""What the answers are worth: recall, ndcg, coverage, popularity skew; intervals by bootstrap over users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from deploy.backtest.plan import Step
from deploy.backtest.replay import Answer
from deploy.backtest.targets import Targets
from models.arrays import BoolArray, Float64Array, Int64Array

CUTS = (10, 20, 50, 100)
NAMES = (*(f"recall@{k}" for k in CUTS), "ndcg@100", "popularity_skew")
COMPARED = ("recall@20", "recall@50", "ndcg@100")
ROUNDS = 1000

Key = tuple[str, str, str]
"""(strategy, channel, scope)"""


def values_of(rank: Float64Array) -> Float64Array:
    """float64[n, 5] of ranks (number of better items): hits at CUTS, and ndcg at 100.

    One relevant item: ndcg = 1 / log2(rank + 2) within the first 100, else 0.
    """
    hits = [(rank < k).astype(np.float64) for k in CUTS]
    return np.column_stack([*hits, np.where(rank < 100, 1 / np.log2(rank + 2), 0.0)])


@dataclass
class _Collected:
    rows: list[Int64Array] = field(default_factory=list)
    values: list[Float64Array] = field(default_factory=list)
    recommended: BoolArray = field(default_factory=lambda: np.zeros(0, bool))
    candidates: int = 0


class Scoreboard:
    """Collects answers; every contestant of a scope is asked the same targets in the same order."""

    def __init__(self, targets: Targets) -> None:
        self._targets = targets
        self._collected: dict[Key, _Collected] = {}
        self._counted = 0
        self._counts = np.zeros(len(targets.item_keys), np.int64)

    def add(self, answer: Answer) -> None:
        """Take in one answer."""
        log_counts = np.log1p(self._counts_before(answer.step.start_ms))
        there = answer.best >= 0
        listed = (log_counts[answer.best] * there).sum(1) / np.maximum(1, there.sum(1))
        skew = np.where(there.any(1), listed - log_counts[self._targets.item[answer.rows]], 0.0)
        held = self._collected.setdefault((answer.strategy, answer.channel, answer.scope), _Collected())
        if not len(held.recommended):
            held.recommended = np.zeros(len(self._counts), bool)
        held.rows.append(answer.rows)
        held.values.append(np.column_stack([values_of(answer.rank), skew]))
        held.recommended[answer.best[there]] = True
        held.candidates = max(held.candidates, answer.candidates)

    def _counts_before(self, start_ms: int) -> Int64Array:
        """Targets per item before an interval: as of the moment, like everything else."""
        upto = int(np.searchsorted(self._targets.ts_ms, start_ms))
        if upto > self._counted:
            fresh = self._targets.item[self._counted : upto]
            self._counts = self._counts + np.bincount(fresh, minlength=len(self._counts))
            self._counted = upto
        return self._counts

    @property
    def contestants(self) -> list[Key]:
        """(strategy, channel, scope) in the order of first answers."""
        return list(self._collected)

    def rows(self, key: Key) -> Int64Array:
        """Target numbers of a contestant, int64[n]."""
        return np.concatenate(self._collected[key].rows)

    def values(self, key: Key) -> Float64Array:
        """float64[n, 5]: NAMES of each target."""
        return np.concatenate(self._collected[key].values)

    def coverage(self, key: Key) -> float | None:
        """Distinct items in all lists over the most items there were to choose from."""
        held = self._collected[key]
        return float(held.recommended.sum() / held.candidates) if held.candidates else None


class Bootstrap:
    """The same draws of users for every contestant, so that differences are paired."""

    def __init__(self, users: np.ndarray, seed: int, rounds: int = ROUNDS) -> None:
        """users: codes int[N] of the N values; rows of one user are drawn together."""
        _, self._user = np.unique(users, return_inverse=True)
        self._sizes = np.bincount(self._user).astype(np.float64)
        self._seed, self._rounds = seed, rounds

    def means(self, values: Float64Array) -> Float64Array:
        """Means of values float64[N, M] in every round, float64[rounds, M]."""
        count = len(self._sizes)
        totals = np.empty((count, values.shape[1] + 1))
        for column in range(values.shape[1]):
            totals[:, column] = np.bincount(self._user, weights=values[:, column])
        totals[:, -1] = self._sizes
        rng = np.random.default_rng(self._seed)
        sums = np.empty((self._rounds, totals.shape[1]))
        for at in range(self._rounds):
            drawn = np.bincount(rng.integers(0, count, count), minlength=count)
            sums[at] = drawn @ totals
        means: Float64Array = sums[:, :-1] / sums[:, -1:]
        return means


def touched(targets: Targets, rows: Int64Array, steps: Sequence[Step]) -> BoolArray:
    """Whether the target's user or item had a positive between the last full retrain and its interval."""
    last_user = np.full(len(targets.user_keys), -1, np.int64)
    last_item = np.full(len(targets.item_keys), -1, np.int64)
    flags = np.zeros(len(rows), bool)
    full_ms = steps[0].start_ms
    for step in steps:
        first, last = np.searchsorted(targets.ts_ms[rows], [step.start_ms, step.end_ms])
        asked = rows[first:last]
        flags[first:last] = last_user[targets.user[asked]] >= full_ms
        flags[first:last] |= last_item[targets.item[asked]] >= full_ms
        part = slice(*np.searchsorted(targets.ts_ms, [step.start_ms, step.end_ms]))
        last_user[targets.user[part]] = targets.ts_ms[part]
        last_item[targets.item[part]] = targets.ts_ms[part]
        if step.full:
            full_ms = step.end_ms
    return flags


def summary(board: Scoreboard, targets: Targets, steps: Sequence[Step], seed: int) -> dict[str, Any]:
    """{"metrics": strategy -> channel -> scope -> figures, "differences": [...]}, both with 95% intervals."""
    metrics: dict[str, Any] = {}
    differences: list[dict[str, Any]] = []
    for scope in dict.fromkeys(scope for _, _, scope in board.contestants):
        keys = [key for key in board.contestants if key[2] == scope]
        rows = board.rows(keys[0])
        if not len(rows):
            continue
        values = np.stack([board.values(key) for key in keys], axis=1)  # [n, contestants, names]
        fresh = touched(targets, rows, steps)
        for subset, mask in (("", np.ones(len(rows), bool)), ("touched", fresh)):
            if not mask.any():
                continue
            part = values[mask]
            draws = Bootstrap(targets.user[rows[mask]], seed).means(part.reshape(len(part), -1))
            drawn = draws.reshape(-1, *part.shape[1:])
            means = part.mean(0)
            for place, (strategy, name, _) in enumerate(keys):
                figures = {"n": len(part)} | {
                    metric: _interval(means[place, at], drawn[:, place, at])
                    for at, metric in enumerate(NAMES)
                }
                into = metrics.setdefault(strategy, {}).setdefault(name, {}).setdefault(scope, {})
                if subset:
                    into[subset] = figures
                else:
                    into |= figures | {"coverage": board.coverage(keys[place])}
            differences += _differences(keys, means, drawn, subset, len(part))
    return {"metrics": metrics, "differences": differences}


def _interval(mean: float, drawn: Float64Array) -> dict[str, float]:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"mean": float(mean), "low": float(low), "high": float(high)}


def _differences(
    keys: Sequence[Key], means: Float64Array, drawn: Float64Array, subset: str, n: int
) -> list[dict[str, Any]]:
    """B - a for every pair of strategies in one channel and every pair of channels of one strategy."""
    found = []
    for a, b in combinations(range(len(keys)), 2):
        if (keys[a][0] == keys[b][0]) == (keys[a][1] == keys[b][1]):
            continue
        between = "channels" if keys[a][0] == keys[b][0] else "strategies"
        for metric in COMPARED:
            at = NAMES.index(metric)
            one: dict[str, Any] = {
                "between": between,
                "scope": keys[a][2],
                "targets": subset or "asked",
                "metric": metric,
                "a": keys[a][:2],
                "b": keys[b][:2],
                "n": n,
                **_interval(means[b, at] - means[a, at], drawn[:, b, at] - drawn[:, a, at]),
            }
            if means[a, at] > 0 and (drawn[:, a, at] > 0).all():
                ratio = drawn[:, b, at] / drawn[:, a, at] - 1
                one["relative"] = _interval(means[b, at] / means[a, at] - 1, ratio)
            found.append(one)
    return found
