"""Embedding rows that learn: fbgemm's table-batched embedding with fused exact row-wise Adagrad, growing."""

from __future__ import annotations

import warnings

import numpy as np
import torch

from models.arrays import Int64Array, Tensors
from models.frozen_rows import frozen_lookup

with warnings.catch_warnings():  # fbgemm names the parts that its CPU build leaves out
    warnings.simplefilter("ignore")
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import (
        BoundsCheckMode,
        EmbeddingLocation,
        PoolingMode,
    )
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

_EPSILON = 1e-8
_NO_WEIGHT_GRADIENT = torch.zeros(1, dtype=torch.int32)  # the factors of a bag are not learned


class EmbeddingTable:
    """rows float32[capacity, dim] with one Adagrad momentum per row; row 0 is the cold row, all start at
    zero.

    An update for row r with summed gradient g: momentum[r] += mean(g^2); row[r] -= lr * g /
    (sqrt(momentum[r]) + eps).
    """

    def __init__(self, dim: int, lr: float, rows: int = 64) -> None:
        self.dim = dim
        self.lr = lr
        self._used = 1
        self._allocate(max(rows, 1))

    @property
    def rows(self) -> int:
        """Rows in use, the cold row included."""
        return self._used

    @property
    def weights(self) -> torch.Tensor:
        """Live view float32[rows, dim]."""
        weights: torch.Tensor = self._weights[: self._used]
        return weights

    @property
    def momentum(self) -> torch.Tensor:
        """Live view float32[rows]."""
        momentum: torch.Tensor = self._momentum[: self._used]
        return momentum

    def set_lr(self, lr: float) -> None:
        """Step size of the following updates."""
        if lr != self.lr:
            self.lr = lr
            self._table.set_learning_rate(lr)

    def reserve(self, rows: int) -> None:
        """Use at least `rows` rows; capacity doubles, weights and momentum are kept, added rows copy the
        cold row.
        """
        if rows <= self._used:
            return
        if rows > len(self._weights):
            weights, momentum = self._weights, self._momentum
            self._allocate(max(rows, 2 * len(weights)))
            self._weights[: len(weights)] = weights
            self._momentum[: len(momentum)] = momentum
        self._weights[self._used : rows] = self._weights[0].clone()
        self._momentum[self._used : rows] = 0.0
        self._used = rows

    def start(self, rows: Int64Array) -> None:
        """Make rows (int64[n]) copies of the cold row without optimizer state: new, or freed by expiry."""
        index = torch.from_numpy(rows)
        self._weights[index] = self._weights[0].clone()
        self._momentum[index] = 0.0

    def trained(
        self, indices: torch.Tensor, offsets: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """float32[bags, dim] = sums of rows; backward() updates the rows by itself.

        indices: int64[n] rows; offsets: int64[bags+1]; weights: float32[n] factors, or None for plain sums.
        """
        if weights is None:  # one compiled variant only: plain sums are weighted by one
            weights = torch.ones(len(indices), dtype=torch.float32)
        pooled: torch.Tensor = self._table(
            indices=indices,
            offsets=offsets,
            per_sample_weights=weights,
            feature_requires_grad=_NO_WEIGHT_GRADIENT,
        )
        return pooled

    def frozen(
        self, indices: torch.Tensor, offsets: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The same sums without gradient or update."""
        return frozen_lookup(self._weights, indices, offsets, weights)

    def state(self) -> Tensors:
        """Rows in use and their momentum."""
        return {"weights": self.weights.numpy().copy(), "momentum": self.momentum.numpy().copy()}

    @classmethod
    def from_state(cls, state: Tensors, lr: float) -> EmbeddingTable:
        """The table that state() described."""
        weights = torch.from_numpy(np.array(state["weights"], np.float32))
        table = cls(weights.shape[1], lr, rows=len(weights))
        table._used = len(weights)
        table._weights[: len(weights)] = weights
        table._momentum[: len(weights)] = torch.from_numpy(np.array(state["momentum"], np.float32))
        return table

    def _allocate(self, rows: int) -> None:
        self._table = SplitTableBatchedEmbeddingBagsCodegen(
            [(rows, self.dim, EmbeddingLocation.HOST, ComputeDevice.CPU)],
            optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            learning_rate=self.lr,
            eps=_EPSILON,
            pooling_mode=PoolingMode.SUM,
            bounds_check_mode=BoundsCheckMode.NONE,
        )
        self._weights = self._table.split_embedding_weights()[0].detach()
        self._momentum = self._table.split_optimizer_states()[0][0].detach()
        self._weights.zero_()
        self._momentum.zero_()
