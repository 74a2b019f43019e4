"""Embedding rows that learn: pooled reads with fused exact row-wise Adagrad, growing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from models.aligned import aligned_zeros
from models.arrays import Int64Array, Tensors
from models.row_adagrad import update_rows
from models.row_sums import pooled_rows

_EPSILON = 1e-8


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
        self._moves = torch.zeros(1, requires_grad=True)
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
        self.lr = lr

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
            weights = torch.ones(len(indices))
        call: Any = _Pooled.apply  # untyped
        pooled: torch.Tensor = call(self._moves, self, indices, offsets, weights)
        return pooled

    def frozen(self, indices: torch.Tensor, offsets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The same sums without gradient or update."""
        pooled = torch.empty(len(offsets) - 1, self.dim)
        pooled_rows(
            self._weights.numpy(), indices.contiguous().numpy(), offsets.contiguous().numpy(),
            weights.contiguous().numpy(), pooled.numpy(),
        )  # fmt: skip
        return pooled

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
        self._weights = torch.from_numpy(aligned_zeros(rows, self.dim))
        self._momentum = torch.from_numpy(aligned_zeros(rows))

    def update(
        self, indices: torch.Tensor, offsets: torch.Tensor, weights: torch.Tensor, gradient: torch.Tensor
    ) -> Int64Array:
        """What backward() of trained() does, by the gradient float32[bags, dim] of its answer; the rows that
        moved, each once, int64[d].
        """
        return update_rows(
            indices.numpy(), offsets.numpy(), weights.numpy(), gradient.contiguous().numpy(),
            self._weights.numpy(), self._momentum.numpy(), self.lr, _EPSILON,
        )  # fmt: skip


class _Pooled(torch.autograd.Function):
    """Pooled rows whose backward moves them; `moves` is only there to be told of a gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        moves: torch.Tensor,
        table: EmbeddingTable,
        indices: torch.Tensor,
        offsets: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        ctx.read = table, indices, offsets, weights
        return table.frozen(indices, offsets, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[None, ...]:
        table, *read = ctx.read
        table.update(*read, gradient)
        return (None,) * 5
