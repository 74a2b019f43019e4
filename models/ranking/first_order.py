"""First order terms: one weight per row and head, with Adagrad of its own each.

Not an EmbeddingTable: the weights of its rows share one momentum, in which a frequent task would slow a rare
one down.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.arrays import Tensors

_EPSILON = 1e-8


class FirstOrder:
    """weights float32[rows, H], starting at zero; update: momentum += g^2, weight -= lr * g /
    (sqrt(momentum) + eps), g the gradient summed over a step.
    """

    def __init__(self, heads: int, lr: float) -> None:
        self.lr = lr
        self.weights = torch.zeros(0, heads)
        self.momentum = torch.zeros(0, heads)
        self._read: tuple[Tensor, Tensor] | None = None

    def reserve(self, rows: int) -> None:
        """Use at least `rows` rows."""
        if rows > len(self.weights):
            grown = torch.zeros(rows - len(self.weights), self.weights.shape[1])
            self.weights = torch.cat([self.weights, grown])
            self.momentum = torch.cat([self.momentum, grown])

    def start(self, rows: Tensor, like: Tensor) -> None:
        """Make rows (int64[n]) copies of the rows `like` (int64[n]) without optimizer state."""
        self.weights[rows] = self.weights[like]
        self.momentum[rows] = 0.0

    def trained(self, rows_BS: Tensor, factors_BS: Tensor) -> Tensor:
        """[B, H] sums of factor * weight; step() after backward() updates the rows."""
        unique, inverse = torch.unique(rows_BS, return_inverse=True)
        read = self.weights[unique].requires_grad_()
        self._read = unique, read
        return (read[inverse] * factors_BS[:, :, None]).sum(1)

    def step(self) -> None:
        """Apply the gradients of what trained() read last; RuntimeError if there was no backward()."""
        if self._read is None or self._read[1].grad is None:
            raise RuntimeError("FirstOrder.step: expected trained() and backward() before it")
        rows, gradient = self._read[0], self._read[1].grad
        self._read = None
        self.momentum[rows] += gradient * gradient
        self.weights[rows] -= self.lr * gradient / (self.momentum[rows].sqrt() + _EPSILON)

    def state(self) -> Tensors:
        """Weights and momentum."""
        return {"weights": self.weights.numpy().copy(), "momentum": self.momentum.numpy().copy()}

    def restore(self, state: Tensors) -> None:
        """Take what state() described."""
        self.weights = torch.from_numpy(np.array(state["weights"], np.float32))
        self.momentum = torch.from_numpy(np.array(state["momentum"], np.float32))
