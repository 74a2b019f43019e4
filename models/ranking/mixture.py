"""B3: several tasks over shared networks: MMOE and what it is compared with (Ma et al., KDD 2018)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from models.ranking.inputs import ParallelLinear, RankInputs, RankLayout, RankNetwork
from models.ranking.rank_config import RankConfig, Sharing


def expert_count(config: RankConfig, heads: int) -> int:
    """Networks below the towers: n experts, one shared bottom, or one per head."""
    counts: dict[Sharing, int] = {"mmoe": config.experts, "omoe": config.experts, "shared_bottom": 1}
    return counts.get(config.sharing, heads)


class Mixture(RankNetwork):
    """f_h = sum over experts e of softmax(x W_h)_e * expert_e(x); logit_h = tower_h(f_h).

    omoe: one gate W for all heads. shared_bottom: one expert. soft_sharing: head h has expert h to itself,
    and penalty() pulls the experts' weights towards their mean.
    """

    def __init__(self, config: RankConfig, layout: RankLayout) -> None:
        super().__init__()
        if not config.hidden:
            raise ValueError("mmoe: expected hidden layers for the experts, got hidden = ()")
        self.sharing = config.sharing
        self._strength = config.soft_sharing
        n = expert_count(config, layout.heads)
        gates = {"mmoe": layout.heads, "omoe": 1}.get(config.sharing, 0)
        self.gates = nn.Linear(layout.width, gates * n, bias=False) if gates else None
        widths = (layout.width, *config.hidden)
        self.experts = nn.ModuleList(ParallelLinear(n, a, b) for a, b in pairwise(widths))
        widths = (config.hidden[-1], *config.tower)
        self.towers = nn.ModuleList(ParallelLinear(layout.heads, a, b) for a, b in pairwise(widths))
        self.last = ParallelLinear(layout.heads, widths[-1], 1)
        self.dropout = nn.Dropout(config.dropout)

    def mixed(self, x_BE: Tensor) -> Tensor:
        """[H, B, hidden[-1]] what every head's tower reads ([1, B, ...] where it is the same for all)."""
        outputs_nBK = x_BE[None]
        for layer in self.experts:
            outputs_nBK = self.dropout(layer(outputs_nBK).relu())
        if self.gates is None:
            return outputs_nBK
        gates_BGn = self.gates(x_BE).unflatten(1, (-1, len(outputs_nBK))).softmax(-1)
        return torch.einsum("bgn,nbk->gbk", gates_BGn, outputs_nBK)

    def forward(self, inputs: RankInputs) -> Tensor:
        """Logits [B, H]."""
        outputs = self.mixed(inputs.flat())
        for layer in self.towers:
            outputs = self.dropout(layer(outputs).relu())
        logits: Tensor = inputs.linear + self.last(outputs)[:, :, 0].T
        return logits

    def output_biases(self) -> tuple[Tensor, ...]:
        """[H]."""
        return (self.last.bias[:, 0, 0],)

    def penalty(self) -> Tensor:
        """Strength * sum over experts' weights of (w - mean over experts)^2; 0 unless soft_sharing."""
        if self.sharing != "soft_sharing":
            return torch.zeros(())
        weights = [layer.weight for layer in self.experts if isinstance(layer, ParallelLinear)]
        pulls = [((w - w.mean(0, keepdim=True)) ** 2).sum() for w in weights]
        return self._strength * torch.stack(pulls).sum()
