"""The models of the training measurements as one would write them in torch: sparse rows with Adagrad."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import data

NAME = "torch EmbeddingBag(sparse) + Adagrad"


class SparseTorch(nn.Module):
    """Mean of the history's rows -> MLP, against item rows or an MLP over them; softmax over the positive and
    shared negatives. Rows learn by Adagrad, dense layers by Adam, or stay as they are (dense=False).
    """

    def __init__(self, rows: int, hidden: Sequence[int], item_tower: bool, tau: float, dense: bool) -> None:
        super().__init__()
        self.tau = tau
        self.rows = nn.EmbeddingBag(rows, data.WIDTH, mode="mean", sparse=True, include_last_offset=True)
        self.user = _mlp(hidden)
        self.item = _mlp(hidden) if item_tower else nn.Identity()
        weights = [*self.user.parameters(), *self.item.parameters()]
        for weight in weights:
            weight.requires_grad_(dense)
        self._optimizers: list[torch.optim.Optimizer] = [torch.optim.Adagrad(self.rows.parameters(), lr=0.05)]
        if dense:
            self._optimizers.append(torch.optim.Adam(weights, lr=1e-3))

    def step(self, history_BL: Tensor, target_B: Tensor, negatives_K: Tensor) -> None:
        """One whole step; int64 rows."""
        for optimizer in self._optimizers:
            optimizer.zero_grad()
        self.loss(history_BL, target_B, negatives_K).backward()
        for optimizer in self._optimizers:
            optimizer.step()

    def loss(self, history_BL: Tensor, target_B: Tensor, negatives_K: Tensor) -> Tensor:
        """Mean over the rows."""
        b, length = history_BL.shape
        u_BD = self.user(self.rows(history_BL.ravel(), torch.arange(0, b * length + 1, length)))
        asked = torch.cat([target_B, negatives_K])
        v_ND = self.item(functional.embedding(asked, self.rows.weight, sparse=True))
        positive = (u_BD * v_ND[:b]).sum(1, keepdim=True)
        logits = torch.cat([positive, u_BD @ v_ND[b:].T], dim=1) / self.tau
        return functional.cross_entropy(logits, torch.zeros(b, dtype=torch.int64))


def _mlp(hidden: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, following in pairwise((data.WIDTH, *hidden)):
        layers += [nn.Linear(width, following), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear((data.WIDTH, *hidden)[-1], data.WIDTH))
