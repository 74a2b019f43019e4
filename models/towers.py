"""Building blocks of the recall models: what a tower reads, and a multilayer perceptron with a linear way
around it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class UserInputs:
    """What the user tower reads, already embedded; B rows.

    user: [B, E] ID row; history: [B, E] pooled item rows; history_size: [B] items pooled;
    categories: one [B, e] per category feature; numbers: [B, M] standardised.
    """

    user: Tensor
    history: Tensor
    history_size: Tensor
    categories: Sequence[Tensor]
    numbers: Tensor

    def side(self, longest: int) -> Tensor:
        """[B, S]: everything but the two item-space vectors; the history size as a share of the longest, in
        logs.
        """
        size = torch.log1p(self.history_size) / math.log1p(longest)
        return torch.cat([size.unsqueeze(1), *self.categories, self.numbers], dim=1)


@dataclass(frozen=True)
class ItemInputs:
    """What the item side reads; N rows. item: [N, E] ID row; categories: [N, e] each; numbers: [N, M]."""

    item: Tensor
    categories: Sequence[Tensor]
    numbers: Tensor


class Tower(nn.Module):
    """MLP(inputs) + linear(id inputs), ReLU between layers.

    The linear way starts as the sum of its E-wide parts (where E = D) and the MLP's last layer starts at
    zero: before any
    training a user vector is the user's row plus the mean of the history, and an item vector the item's row.
    """

    def __init__(self, parts: int, id_dim: int, side: int, hidden: Sequence[int], out: int) -> None:
        super().__init__()
        widths = [parts * id_dim + side, *hidden]
        layers: list[nn.Module] = []
        for width, following in pairwise(widths):
            layers += [nn.Linear(width, following), nn.ReLU()]
        last = nn.Linear(widths[-1], out)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*layers, last)
        self.around = nn.Linear(parts * id_dim, out, bias=False)
        if id_dim == out:
            with torch.no_grad():
                self.around.weight.copy_(torch.eye(out).repeat(1, parts))

    def forward(self, id_inputs: Tensor, side: Tensor) -> Tensor:
        """[B, out] from id inputs [B, parts * E] and side inputs [B, S]."""
        vector: Tensor = self.layers(torch.cat([id_inputs, side], dim=1)) + self.around(id_inputs)
        return vector
