"""How likely a user is to meet an item, as published: what the same users meet, when, and what this one met.

A meeting is an event that brings a user and an item together, whatever came of it: an impression first of
all. What a feed shows a user next follows from whom it takes them for, and so do the items that users like
them meet. Many an item has its hours of the day. And what a user met hardly comes again in many a feed. A
pre-rank network reads all of it (models/prerank.py); models/meeting_counts.py counts.

Shapes: K items, N items of one request, M items that its user met.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from models.arrays import Float16Array, Float32Array, Float64Array, Int32Array, Int64Array, Tensors

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
LATELY_MS = 14 * DAY_MS
"""How long a meeting is remembered: two of the longest half-lives of live counts."""
HOURS = 24
NAMED = ("met together", "met before", "met lately", "met at this hour")
"""Names of the values of an item."""
_READ = 20
"""Newest items that a user met that neighbours are read of."""
_BY_PLACE = 0.85
"""Weight of an item beside that of the one that was met after it."""
_UNIT = 0.01
"""Of a sum of similarities; one pair of seldom items that two users met has about as much."""


@dataclass(frozen=True, eq=False)
class Meetings:
    """Of K items. Neighbours by their places: offsets int64[K+1], neighbours int32[flat], similarities
    float16[flat]. hours: float16[HOURS, K] log of the item's share in that hour (of UTC, and the hours before
    and after it) over its share in all.
    """

    offsets: Int64Array = field(default_factory=lambda: np.zeros(1, np.int64))
    neighbours: Int32Array = field(default_factory=lambda: np.empty(0, np.int32))
    scores: Float16Array = field(default_factory=lambda: np.empty(0, np.float16))
    hours: Float16Array = field(default_factory=lambda: np.empty((HOURS, 0), np.float16))

    def __post_init__(self) -> None:
        """Refuse parts that do not fit together (ValueError)."""
        flat = len(self.neighbours)
        whole = len(self.offsets) and self.offsets[0] == 0 and self.offsets[-1] == flat == len(self.scores)
        if not whole or (np.diff(self.offsets) < 0).any():
            raise ValueError(
                f"meetings: expected offsets of {flat} neighbours, ascending from 0, and as many scores, got "
                f"{self.offsets[-1:].tolist()} and {len(self.scores)}"
            )
        if flat and not (self.neighbours.min() >= 0 and self.neighbours.max() < len(self)):
            raise ValueError(f"meetings: expected neighbours among {len(self)} items, got others")
        if self.hours.shape != (HOURS, len(self)):
            raise ValueError(f"meetings: hours: expected {[HOURS, len(self)]}, got {list(self.hours.shape)}")
        if not (np.isfinite(self.scores).all() and np.isfinite(self.hours).all()):
            raise ValueError("meetings: expected finite scores and hours, got others")

    def __len__(self) -> int:
        """K."""
        return len(self.offsets) - 1

    def of(self, places: Int64Array, met: Int64Array, met_ms: Int64Array, now_ms: int) -> Float32Array:
        """float32[N, 4], NAMED, of the items `places` int64[N] (-1 = none of the K) for one who met the
        items `met` int64[M] (the same) at met_ms int64[M], oldest first, and asks at now_ms.

        log(1 + s / _UNIT), s being the sum over the newest _READ of _BY_PLACE^(how many were met since) *
        similarity; 1 where the item itself was met; 2^-(days since then), 0 if not; the lift of the hour.
        """
        values = np.zeros((len(places), len(NAMED)), np.float32)
        here = np.flatnonzero(places >= 0)
        asked = places[here]
        values[here, 3] = self.hours[now_ms // HOUR_MS % HOURS, asked]
        known = met >= 0
        weights = np.power(_BY_PLACE, np.arange(len(met) - 1, -1, -1, dtype=np.float64))[known]
        met, met_ms = met[known], met_ms[known]
        if not len(met):
            return values
        values[here, 0] = np.log1p(self._sums(met[-_READ:], weights[-_READ:])[asked] / _UNIT)
        newest_ms = np.full(len(self), -1, np.int64)
        newest_ms[met] = met_ms  # of equal items the last one stays
        before = newest_ms[asked] >= 0
        values[here, 1] = before
        values[here, 2] = np.where(before, np.exp2((newest_ms[asked] - now_ms) / DAY_MS), 0.0)
        return values

    def _sums(self, met: Int64Array, weights: Float64Array) -> Float64Array:
        """float64[K]: weighted similarities to what was met."""
        size = self.offsets[met + 1] - self.offsets[met]
        row = np.repeat(np.arange(len(met)), size)
        flat = np.arange(len(row)) + np.repeat(self.offsets[met] - (np.cumsum(size) - size), size)
        added = self.scores[flat].astype(np.float64) * weights[row]
        sums: Float64Array = np.bincount(self.neighbours[flat], added, len(self)).astype(np.float64)
        return sums

    def tensors(self, prefix: str) -> Tensors:
        """Everything from_tensors() needs."""
        return {
            prefix + "offsets": self.offsets,
            prefix + "neighbours": self.neighbours,
            prefix + "scores": self.scores,
            prefix + "hours": self.hours,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray], prefix: str) -> Meetings:
        """What tensors() described. ValueError where the parts do not fit together."""
        return cls(
            np.asarray(tensors[prefix + "offsets"], np.int64),
            np.asarray(tensors[prefix + "neighbours"], np.int32),
            np.asarray(tensors[prefix + "scores"], np.float16),
            np.asarray(tensors[prefix + "hours"], np.float16),
        )
