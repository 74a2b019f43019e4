"""Training rows as columns: the sample contract of full and incremental training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from models.arrays import Float32Array, Int32Array, Int64Array


@dataclass(frozen=True)
class Samples:
    """N targets with their features as of the moment, in canonical order. Entries refer to one Learner's ID
    tables; what the user had done before is read from its histories by (user, ts_ms, request).

    sequence: int64[N] running number of the sample since the model began (keys its random numbers).
    ts_ms: int64[N]; user: int32[N] user entry, -1 = nobody known; item: int32[N] target entry;
    weight: float32[N].
    request: int64[N] hash of the request that the target answered, unique where there is none: its events
    are no history of the sample.
    categories: int32[N, C] entries of user, context and time features, laid out by FeatureColumns.layout, -1
    = none; numbers: float32[N, M] raw, nan = missing.
    """

    sequence: Int64Array
    ts_ms: Int64Array
    user: Int32Array
    item: Int32Array
    weight: Float32Array
    request: Int64Array
    categories: Int32Array
    numbers: Float32Array

    def __len__(self) -> int:
        return len(self.ts_ms)

    def take(self, positions: Int64Array | slice) -> Samples:
        """The samples at positions (int64[n] or a slice)."""
        columns = [getattr(self, name) for name in _COLUMNS]
        if isinstance(positions, slice):
            return Samples(*[column[positions] for column in columns])
        return Samples(*[column.take(positions, axis=0) for column in columns])  # of rows, the faster way

    @classmethod
    def empty(cls, slots: int, numbers: int) -> Samples:
        """No samples, with C = slots and M = numbers of a model."""
        return cls(
            sequence=np.empty(0, np.int64),
            ts_ms=np.empty(0, np.int64),
            user=np.empty(0, np.int32),
            item=np.empty(0, np.int32),
            weight=np.empty(0, np.float32),
            request=np.empty(0, np.int64),
            categories=np.empty((0, slots), np.int32),
            numbers=np.empty((0, numbers), np.float32),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Samples]) -> Samples:
        """Samples of consecutive stretches as one; ValueError for none."""
        if not parts:
            raise ValueError("samples: nothing to concatenate; use Samples.empty")
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS})


_COLUMNS = tuple(column.name for column in fields(Samples))
