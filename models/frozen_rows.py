"""Embedding rows that are only read: what serving needs of them, without the library that trains them."""

from __future__ import annotations

import numpy as np
import torch

from models.arrays import Int64Array, Tensors


class FrozenRows:
    """rows float32[n, dim] of an EmbeddingTable's state; row 0 is the cold row."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.weights = torch.zeros(1, dim)

    @property
    def rows(self) -> int:
        """Rows in use, the cold row included."""
        return len(self.weights)

    def reserve(self, rows: int) -> None:
        """Use at least `rows` rows; added ones copy the cold row."""
        if rows > len(self.weights):
            added = self.weights[:1].expand(rows - len(self.weights), -1)
            self.weights = torch.cat([self.weights, added])

    def start(self, rows: Int64Array) -> None:
        """Make rows (int64[n]) copies of the cold row."""
        self.weights[torch.from_numpy(rows)] = self.weights[0].clone()

    @classmethod
    def from_state(cls, state: Tensors) -> FrozenRows:
        """The rows of EmbeddingTable.state()."""
        weights = torch.from_numpy(np.array(state["weights"], np.float32))
        rows = cls(weights.shape[1])
        rows.weights = weights
        return rows
