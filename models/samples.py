"""Training rows as columns: the sample contract of full and incremental training."""

from __future__ import annotations

from dataclasses import dataclass

from models.arrays import Float32Array, Int32Array, Int64Array


@dataclass(frozen=True)
class Samples:
    """N targets with their features as of the moment, in canonical order. Entries refer to one Learner's ID tables.

    sequence: int64[N] running number of the sample since the model began (keys its random numbers).
    ts_ms: int64[N]; user: int32[N] user entry; item: int32[N] target entry; weight: float32[N].
    history: int32[N, L] item entries, newest last, -1 = none; history_age_s: int32[N, L] age at the moment.
    categories: int32[N, F] entries of user, context and time categories; numbers: float32[N, M] raw, nan = missing.
    """

    sequence: Int64Array
    ts_ms: Int64Array
    user: Int32Array
    item: Int32Array
    weight: Float32Array
    history: Int32Array
    history_age_s: Int32Array
    categories: Int32Array
    numbers: Float32Array

    def __len__(self) -> int:
        return len(self.ts_ms)
