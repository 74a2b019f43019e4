"""Tune a peer on the stretch before the start, then test: refit, ask for lists, refit."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.metrics import FloatArray, best, expected_ranks, per_target
from benchmarks.peers.peer import UNSCORED, Fitted, Known, Peer
from benchmarks.peers.popularity import HourlyPopularity
from benchmarks.peers.positives import Int64Array, Positives

SCOPES = ("all", "new")
LIST = 100
AT_ONCE = 128
TUNING_SHARE, TUNING_TARGETS = 0.25, 600


@dataclass(frozen=True)
class Plan:
    """What is measured, and how much may be spent on it."""

    positives: Positives
    start_ms: int
    targets: Int64Array
    refit_hours: float = 24.0
    max_refits: int = 20
    trials: int | None = None
    max_epochs: int | None = None
    newest: int = 0
    seed: int = 7

    def edges(self) -> Int64Array:
        """int64[refits]: when each refit is made, the first at the start; evenly wider apart where
        max_refits are fewer than one every refit_hours.
        """
        last = int(self.positives.ts_ms[self.targets[-1]])
        step = max(self.refit_hours * 3_600_000, (last + 1 - self.start_ms) / self.max_refits)
        return np.arange(self.start_ms, last + 1, step).astype(np.int64)


@dataclass
class Scope:
    """Scored targets of one scope, in order of time."""

    row: list[int] = field(default_factory=list)
    rank: list[float] = field(default_factory=list)
    lists: list[Int64Array] = field(default_factory=list)

    def figures(self) -> dict[str, FloatArray]:
        """Per target."""
        return per_target(np.array(self.rank))


@dataclass
class Outcome:
    """One peer's test."""

    scopes: dict[str, Scope]
    knobs: dict[str, Any]
    refits: int
    fallbacks: int
    """Targets that got the popularity list."""
    tuning_s: float
    test_s: float


@dataclass(frozen=True)
class Tuned:
    knobs: Mapping[str, Any]
    epochs: int
    recall50: float


def tune(peer: Peer, plan: Plan, fallback_days: float) -> Tuned:
    """The best of the peer's grid by recall@50 (mean of both scopes) on the last quarter of the positives
    before the start, by one model each, made at that quarter's beginning.
    """
    cut = plan.positives.before(plan.start_ms)
    stretch = np.arange(int(cut * (1 - TUNING_SHARE)), cut, dtype=np.int64)
    targets = plan.positives.sample(stretch, TUNING_TARGETS, plan.seed)
    known = Known(plan.positives, plan.positives.before(int(plan.positives.ts_ms[stretch[0]])), plan.newest)
    epochs = [n for n in peer.epochs if plan.max_epochs is None or n <= plan.max_epochs] or [plan.max_epochs]
    trials = []
    for knobs in peer.grid[: plan.trials]:
        fitted, trained = peer.start(known, knobs, plan.seed), 0
        for wanted in epochs:
            fitted.train(wanted - trained)
            trained, scopes = wanted, {scope: Scope() for scope in SCOPES}
            _ask(fitted, plan.positives, targets, fallback_days, scopes)
            recall50 = np.mean([scope.figures()["recall@50"].mean() for scope in scopes.values()])
            trials.append(Tuned(knobs, wanted, float(recall50)))
            _say(f"{peer.name}: tuning {dict(knobs)}, {wanted} epochs: recall@50 {recall50:.4f}")
    return max(trials, key=lambda one: one.recall50)


def test(peer: Peer, plan: Plan, tuned: Tuned, fallback_days: float, tuning_s: float) -> Outcome:
    """Refit at every edge from all that is older, and rank the targets up to the next edge."""
    began, scopes, fallbacks, refits = time.perf_counter(), {scope: Scope() for scope in SCOPES}, 0, 0
    for edge, rows in _between(plan):
        known = Known(plan.positives, plan.positives.before(edge), plan.newest)
        fitted = peer.start(known, tuned.knobs, plan.seed)
        fitted.train(tuned.epochs)
        refits += 1
        fallbacks += _ask(fitted, plan.positives, rows, fallback_days, scopes)
        _say(f"{peer.name}: refit {refits}, {len(rows)} targets, {time.perf_counter() - began:.0f} s")
    knobs = {**tuned.knobs, "epochs": tuned.epochs}
    return Outcome(scopes, knobs, refits, fallbacks, tuning_s, time.perf_counter() - began)


def _between(plan: Plan) -> Iterator[tuple[int, Int64Array]]:
    edges, ts_ms = plan.edges(), plan.positives.ts_ms[plan.targets]
    for edge, end in zip(edges, [*edges[1:], ts_ms[-1] + 1], strict=True):
        rows = plan.targets[(ts_ms >= edge) & (ts_ms < end)]
        if len(rows):
            yield int(edge), rows


def _ask(
    fitted: Fitted, positives: Positives, rows: Int64Array, fallback_days: float, scopes: dict[str, Scope]
) -> int:
    """Rank the targets in both scopes; returns how many got the popularity list."""
    popularity, without = HourlyPopularity(positives, fallback_days), 0
    for begin in range(0, len(rows), AT_ONCE):
        part = rows[begin : begin + AT_ONCE]
        moments = positives.moments(part)
        scores = np.array(fitted.scores(moments), np.float32)
        unscored = ~np.isfinite(scores).any(1)
        without += int(unscored.sum())
        if unscored.any():
            scores[unscored] = popularity.scores(positives.moments(part[unscored]))
        _rank(scores, positives, part, scopes)
    return without


def _rank(
    scores: NDArray[np.float32], positives: Positives, rows: Int64Array, scopes: dict[str, Scope]
) -> None:
    target = positives.item[rows]
    _note(scopes["all"], scores, target, rows)
    seen = [positives.seen(row) for row in rows]
    for row_scores, items in zip(scores, seen, strict=True):
        row_scores[items] = UNSCORED
    unseen = np.array([item not in items for item, items in zip(target, seen, strict=True)])
    _note(scopes["new"], scores[unseen], target[unseen], rows[unseen])


def _note(scope: Scope, scores: NDArray[np.float32], target: NDArray[np.int32], rows: Int64Array) -> None:
    scope.row.extend(rows.tolist())
    scope.rank.extend(expected_ranks(scores, target).tolist())
    scope.lists.extend(best(scores, LIST))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
