"""B1 and B2: logistic regression, the perceptron of weighted logistic regression, DeepFM."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.ranking.inputs import RankInputs, RankLayout, RankNetwork, perceptron
from models.ranking.rank_config import RankConfig


def second_order(rows_BFD: Tensor) -> Tensor:
    """[B, D]: per dimension the sum of products of all pairs of fields, in O(F D):
    ((sum v)^2 - sum v^2) / 2 (Rendle, ICDM 2010, lemma 3.1).
    """
    total_BD = rows_BFD.sum(1)
    return 0.5 * (total_BD * total_BD - (rows_BFD * rows_BFD).sum(1))


class Logistic(RankNetwork):
    """First order terms of fields and numbers, nothing else: the baseline."""

    def __init__(self, config: RankConfig, layout: RankLayout) -> None:
        super().__init__()
        self.numbers = nn.Linear(layout.numbers, layout.heads)
        nn.init.zeros_(self.numbers.weight)

    def forward(self, inputs: RankInputs) -> Tensor:
        """Logits [B, H]."""
        logits: Tensor = inputs.linear + self.numbers(inputs.numbers)
        return logits

    def output_biases(self) -> tuple[Tensor, ...]:
        """[H]."""
        return (self.numbers.bias,)


class Perceptron(RankNetwork):
    """One multilayer perceptron with H outputs: the ranking network of Covington et al. (RecSys 2016)."""

    def __init__(self, config: RankConfig, layout: RankLayout) -> None:
        super().__init__()
        self.layers = perceptron(layout.width, config.hidden, config.dropout)
        self.last = nn.Linear(config.hidden[-1] if config.hidden else layout.width, layout.heads)

    def forward(self, inputs: RankInputs) -> Tensor:
        """Logits [B, H]."""
        logits: Tensor = inputs.linear + self.last(self.layers(inputs.flat()))
        return logits

    def output_biases(self) -> tuple[Tensor, ...]:
        """[H]."""
        return (self.last.bias,)


class DeepFM(RankNetwork):
    """First order + second order + perceptron over shared rows (Guo et al., IJCAI 2017).

    With one head the second order term is the paper's sum over dimensions; several heads share the rows, and
    each weighs the dimensions for itself, beginning at 1.
    """

    def __init__(self, config: RankConfig, layout: RankLayout) -> None:
        super().__init__()
        self.deep = Perceptron(config, layout)
        self.numbers = nn.Linear(layout.numbers, layout.heads, bias=False)
        nn.init.zeros_(self.numbers.weight)
        self.pairs = nn.Parameter(torch.ones(layout.dim, layout.heads), requires_grad=layout.heads > 1)

    def forward(self, inputs: RankInputs) -> Tensor:
        """Logits [B, H]."""
        first: Tensor = self.numbers(inputs.numbers)
        deep: Tensor = self.deep(inputs)  # with the fields' first order terms
        return first + second_order(inputs.rows) @ self.pairs + deep

    def output_biases(self) -> tuple[Tensor, ...]:
        """[H]."""
        return self.deep.output_biases()
