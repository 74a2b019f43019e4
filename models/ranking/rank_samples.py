"""Joined samples as a ranker's training rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from models.arrays import Float32Array, Int32Array, Int64Array


@dataclass(frozen=True)
class RankSamples:
    """N impressions; entries refer to one RankLearner's ID tables. Counts are not in here: they are read when
    the samples are trained on.

    emitted_ms: int64[N]. request: int32[N, Sr], item: int32[N, Si] entries of the sides' keyed fields; pair:
    int32[N] entry of (user, scene); request_numbers, item_numbers: float32[N, ...] declared numbers, nan =
    missing; labels: float32[N, T]; watch_s: float32[N].
    """

    emitted_ms: Int64Array
    request: Int32Array
    item: Int32Array
    pair: Int32Array
    request_numbers: Float32Array
    item_numbers: Float32Array
    labels: Float32Array
    watch_s: Float32Array

    def __len__(self) -> int:
        return len(self.emitted_ms)

    def take(self, positions: Int64Array | slice) -> RankSamples:
        """The samples at positions (int64[n] or a slice)."""
        return RankSamples(**{field.name: getattr(self, field.name)[positions] for field in fields(self)})

    @classmethod
    def concatenate(cls, parts: Sequence[RankSamples]) -> RankSamples:
        """Samples of several prepare() calls as one; ValueError for none."""
        if not parts:
            raise ValueError("rank samples: nothing to concatenate; prepare at least one joined table")
        return cls(
            **{
                field.name: np.concatenate([getattr(part, field.name) for part in parts])
                for field in fields(cls)
            }
        )
