"""Time-decayed popularity, refreshed every hour: also the list for moments that a peer cannot score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.peer import UNSCORED, Known
from benchmarks.peers.positives import Moments, Positives

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
WINDOW_DAYS = 60


class HourlyPopularity:
    """Counts as of the hour of each moment, whatever the refit: nothing is trained."""

    def __init__(self, positives: Positives, half_life_days: float) -> None:
        self._positives = positives
        self._half_life_days = half_life_days
        self._hour: int | None = None
        self._scores = np.zeros(0, np.float32)

    def train(self, epochs: int) -> None:
        """Has nothing to train."""

    def scores(self, moments: Moments) -> NDArray[np.float32]:
        """float32[n, items]; quick for moments in order of time."""
        return np.stack([self._at(int(ts_ms) // HOUR_MS) for ts_ms in moments.ts_ms])

    def _at(self, hour: int) -> NDArray[np.float32]:
        if hour != self._hour:
            log = self._positives
            upto = max(1, log.before(hour * HOUR_MS))
            newest = log.ts_ms[upto - 1]
            counted = slice(log.before(int(newest) - WINDOW_DAYS * DAY_MS), upto)
            weights = np.exp2((log.ts_ms[counted] - newest) / DAY_MS / self._half_life_days)
            counts = np.bincount(log.item[counted], weights, log.items).astype(np.float32)
            seen = np.bincount(log.item[:upto], minlength=log.items) > 0
            self._hour, self._scores = hour, np.where(seen, counts, UNSCORED)
        return self._scores


class Popularity:
    """The best of two half-lives."""

    name = "popularity"
    packages: tuple[str, ...] = ()
    grid = ({"half_life_days": 7.0}, {"half_life_days": 0.5})
    epochs = (0,)

    def start(self, known: Known, knobs: Mapping[str, Any], seed: int) -> HourlyPopularity:
        """Counts only."""
        return HourlyPopularity(known.positives, float(knobs["half_life_days"]))
