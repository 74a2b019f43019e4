"""What a ranker's network reads, and where in it things are.

B batch, F fields, D width of a field's row, M scaled numbers, H heads (tasks, then the watch time), E = F * D
+ M width of everything.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class RankInputs:
    """rows: [B, F, D] embedded fields ([B, 0, D] for a model without); linear: [B, H] sums of first order
    terms (0 for a model without); numbers: [B, M] scaled.
    """

    rows: Tensor
    linear: Tensor
    numbers: Tensor

    def flat(self) -> Tensor:
        """[B, E]: everything side by side."""
        return torch.cat([self.rows.flatten(1), self.numbers], dim=1)


@dataclass(frozen=True)
class RankLayout:
    """fields F, dim D, numbers M, heads H; user, item, author: places of their fields (author -1 = none);
    domain_fields, domain_numbers: places of what describes the scene (PEPNet's F_d): its ID and the counts in
    it.
    """

    fields: int
    dim: int
    numbers: int
    heads: int
    user: int
    item: int
    author: int
    domain_fields: tuple[int, ...]
    domain_numbers: tuple[int, ...]

    @property
    def width(self) -> int:
        """Width E of RankInputs.flat()."""
        return self.fields * self.dim + self.numbers


class RankNetwork(nn.Module, ABC):
    """The dense part of one ranker: logits of H heads."""

    @abstractmethod
    def forward(self, inputs: RankInputs) -> Tensor:
        """Logits float32[B, H]."""

    @abstractmethod
    def output_biases(self) -> tuple[Tensor, ...]:
        """What is added last to the logits of every member, [H] each, to be set: they start at the tasks'
        log-odds.
        """

    def members(self, inputs: RankInputs) -> tuple[Tensor, ...]:
        """Logits float32[B, H] of everything that is trained by a loss of its own."""
        return (self(inputs),)

    def penalty(self) -> Tensor:
        """Scalar that is added to the loss of a step."""
        return torch.zeros(())


def perceptron(width: int, hidden: Sequence[int], dropout: float) -> nn.Sequential:
    """Linear and ReLU (and dropout) for every hidden layer; nothing for no hidden layers."""
    layers: list[nn.Module] = []
    for following in hidden:
        layers += [nn.Linear(width, following), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = following
    return nn.Sequential(*layers)


class ParallelLinear(nn.Module):
    """n linear layers side by side: [n, B, in] -> [n, B, out]."""

    def __init__(self, n: int, width: int, out: int) -> None:
        super().__init__()
        bound = width**-0.5  # as torch.nn.Linear starts
        self.weight = nn.Parameter(torch.empty(n, width, out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n, 1, out).uniform_(-bound, bound))

    def forward(self, x_nBI: Tensor) -> Tensor:
        """[n, B, out]; x may be [1, B, in], the same for all."""
        x = x_nBI if len(x_nBI) == len(self.weight) else x_nBI.expand(len(self.weight), -1, -1)
        return torch.baddbmm(self.bias, x, self.weight)
