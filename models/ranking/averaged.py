"""A logistic regression beside a network: two models of the same rows, and the mean of their logits."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from models.ranking.factorization import Logistic
from models.ranking.inputs import RankInputs, RankNetwork


class Averaged(RankNetwork):
    """logits = share * logistic + (1 - share) * network, each trained by a loss of its own.

    Their errors are different ones, and the mean has less of either; a network that was trained on the sum,
    as wide & deep (Cheng et al., DLRS 2016), would learn what the first order terms leave over instead.
    """

    def __init__(self, linear: Logistic, network: RankNetwork, share: float, wide: bool) -> None:
        """wide: the network, too, adds the fields' first order terms to its logits."""
        super().__init__()
        self.linear = linear
        self.network = network
        self.share = share
        self.wide = wide

    def members(self, inputs: RankInputs) -> tuple[Tensor, ...]:
        """Logits [B, H] of the logistic regression and of the network."""
        seen = inputs if self.wide else replace(inputs, linear=torch.zeros_like(inputs.linear))
        return self.linear(inputs), self.network(seen)

    def forward(self, inputs: RankInputs) -> Tensor:
        """Logits [B, H]."""
        first, deep = self.members(inputs)
        return self.share * first + (1.0 - self.share) * deep

    def output_biases(self) -> tuple[Tensor, ...]:
        """[H] of each."""
        return (*self.linear.output_biases(), *self.network.output_biases())

    def penalty(self) -> Tensor:
        """The network's."""
        return self.network.penalty()
