"""AUC, GAUC and their differences, with intervals by resampling users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

DRAWS = 200
SEED = 7


def weighted_auc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUC of every row of weights [draws, N]; nan where one class has no weight. Ties count one half."""
    order = np.argsort(scores, kind="stable")
    ordered, labels, weights = scores[order], labels[order] > 0, weights[:, order]
    starts = np.flatnonzero(np.r_[True, np.diff(ordered) > 0])
    positive = np.add.reduceat(weights * labels, starts, axis=1)
    negative = np.add.reduceat(weights * ~labels, starts, axis=1)
    below = np.cumsum(negative, axis=1) - 0.5 * negative
    pairs = positive.sum(1) * negative.sum(1)
    with np.errstate(invalid="ignore"):
        return (positive * below).sum(1) / pairs


def user_aucs(user: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """AUC of every user 0 .. n-1 (sorted int64[N]); nan for those with one class only."""
    order = np.lexsort((scores, user))
    ordered, labels = scores[order], labels[order] > 0
    begins = np.r_[True, (np.diff(ordered) > 0) | (np.diff(user) > 0)]
    starts = np.flatnonzero(begins)
    positive, negative = np.add.reduceat(labels, starts), np.add.reduceat(~labels, starts)
    of_user = user[starts]
    below = np.cumsum(negative) - 0.5 * negative
    n = int(user[-1]) + 1
    positives, negatives = np.bincount(of_user, positive, n), np.bincount(of_user, negative, n)
    before = np.cumsum(negatives) - negatives
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.bincount(of_user, positive * (below - before[of_user]), n) / (positives * negatives)


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve; nan with one class only."""
    return float(weighted_auc(labels, scores, np.ones((1, len(labels))))[0])


@dataclass(frozen=True)
class Impressions:
    """The impressions that are tested: user int64[N], scene, labels [N, T], day int64[N]."""

    user: np.ndarray
    scene: np.ndarray
    labels: np.ndarray
    day: np.ndarray

    def where(self, mask: np.ndarray) -> Impressions:
        return Impressions(self.user[mask], self.scene[mask], self.labels[mask], self.day[mask])

    @cached_property
    def users(self) -> tuple[np.ndarray, np.ndarray]:
        """(order that puts every user's rows together, where each begins)."""
        order = np.argsort(self.user, kind="stable")
        return order, np.flatnonzero(np.r_[True, np.diff(self.user[order]) > 0])

    @cached_property
    def user_code(self) -> np.ndarray:
        """int64[N] number of each row's user, from 0, as in `draws`."""
        order, starts = self.users
        code = np.empty(len(order), np.int64)
        code[order] = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(order)]))
        return code

    @cached_property
    def draws(self) -> np.ndarray:
        """float32[1 + DRAWS, users] how often each user is in a resample; the first row is everybody once."""
        users = len(self.users[1])
        random = np.random.default_rng(SEED)
        counts = [np.bincount(random.integers(0, users, users), minlength=users) for _ in range(DRAWS)]
        return np.stack([np.ones(users), *counts]).astype(np.float32)

    def aucs(self, task: int, scores: np.ndarray, draws: bool = True) -> np.ndarray:
        """AUC [1 + DRAWS] (or [1]) of a task."""
        code = self.user_code
        chosen = self.draws if draws else self.draws[:1]
        parts = [weighted_auc(self.labels[:, task], scores, one[:, code]) for one in _chunks(chosen)]
        return np.concatenate(parts)

    def gaucs(self, task: int, scores: np.ndarray, draws: bool = True, by_day: bool = False) -> np.ndarray:
        """GAUC [1 + DRAWS] (or [1]): mean of the users' AUCs, weighted by impressions, over users with both
        classes. by_day: of the AUCs of each user's days instead; what is resampled are users all the same.
        """
        span = int(self.day.max()) + 1 if by_day else 1
        group = self.user_code * span + (self.day if by_day else 0)
        found, code, sizes = np.unique(group, return_inverse=True, return_counts=True)
        order = np.argsort(code, kind="stable")
        values = user_aucs(code[order], self.labels[order, task], scores[order])
        known = ~np.isnan(values)
        drawn = (self.draws if draws else self.draws[:1])[:, found[known] // span]
        weights = drawn * sizes[known]
        with np.errstate(invalid="ignore"):
            return (weights @ values[known]) / weights.sum(1)


def _chunks(draws: np.ndarray) -> list[np.ndarray]:
    return [draws[start : start + 25] for start in range(0, len(draws), 25)]


def interval(drawn: np.ndarray) -> dict[str, float]:
    """Value and 95% interval of [1 + DRAWS] values, the first of which is the value itself."""
    low, high = np.nanquantile(drawn[1:], [0.025, 0.975]) if len(drawn) > 1 else (np.nan, np.nan)
    return {"value": rounded(drawn[0]), "low": rounded(low), "high": rounded(high)}


def rounded(value: Any) -> float:
    return round(float(value), 5)


def mean_of(values: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over training seeds."""
    return np.mean(np.stack(values), axis=0)
