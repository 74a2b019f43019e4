"""What a user tower asks an item index for: vectors, and what the model adds for the user's own items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from models.arrays import Float32Array, Int64Array

_NOBODY = pa.array([], pa.string())


@dataclass(frozen=True)
class Queries:
    """N moments' queries; score of item i = max_v vectors[n, v] . item_i; where i is an own item,
    max_v own_vectors[n, v] . item_i + own_score.

    vectors, own_vectors: float32[N, V, W], W as wide as the item vectors, V = 1 except for models of several
    interests. own_id: string[n] keys of items of the moments' histories, distinct in each;
    own_offsets: int64[N+1]; own_score: float32[n].
    """

    vectors: Float32Array
    own_vectors: Float32Array
    own_offsets: Int64Array
    own_id: pa.Array
    own_score: Float32Array

    def __len__(self) -> int:
        return len(self.vectors)

    @classmethod
    def plain(cls, vectors: Float32Array) -> Queries:
        """Queries without own items."""
        offsets = np.zeros(len(vectors) + 1, np.int64)
        return cls(vectors, vectors, offsets, _NOBODY, np.empty(0, np.float32))

    @classmethod
    def joined(cls, parts: Sequence[Queries]) -> Queries:
        """The queries of several parts, one behind another."""
        sizes = np.concatenate([np.diff(one.own_offsets) for one in parts])
        return cls(
            np.concatenate([one.vectors for one in parts]),
            np.concatenate([one.own_vectors for one in parts]),
            np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]),
            pa.concat_arrays([one.own_id for one in parts]),
            np.concatenate([one.own_score for one in parts]),
        )

    def part(self, rows: slice) -> Queries:
        """The queries of some of the moments (a slice with start and stop)."""
        begin, end = self.own_offsets[rows.start], self.own_offsets[rows.stop]
        return Queries(
            self.vectors[rows],
            self.own_vectors[rows],
            self.own_offsets[rows.start : rows.stop + 1] - begin,
            self.own_id.slice(begin, end - begin),
            self.own_score[begin:end],
        )

    @property
    def flat(self) -> Float32Array:
        """All vectors one under another, float32[N * V, W]: what an index is tuned on."""
        return self.vectors.reshape(-1, self.vectors.shape[2])
