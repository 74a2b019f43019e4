"""Factorisation machine as a recall model (Rendle, ICDM 2010): one inner product ranks what it scores.

B users, N items, M numbers, E = D width of every field's row.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from models.model_config import ModelConfig
from models.towers import ItemInputs, RecallTowers, SideWidth, UserInputs


class FactorizationMachine(RecallTowers):
    """Score of a user and an item: products of all pairs of fields with an item field in them, and the item
    fields' own weights; what only depends on the user ranks nothing and is left out.

    A field's row is [v, w]: E - 1 factors and the weight of the field alone (unused on the user's side). A
    number's row is its value times a learned row; a further history counts with a learned factor.
    User vector [sum v, 1]; item vector [sum v, sum w + second order of the item's fields].
    """

    unit_length: ClassVar[bool] = False

    def __init__(self, config: ModelConfig, user_side: SideWidth, item_side: SideWidth) -> None:
        super().__init__(config)
        if config.dim != config.id_dim:
            raise ValueError(f"fm: expected dim = id_dim, got {config.dim} and {config.id_dim}")
        self.user_numbers = nn.Parameter(torch.zeros(1 + user_side.numbers, config.dim))
        self.item_numbers = nn.Parameter(torch.zeros(item_side.numbers, config.dim))
        self.history_factors = nn.Parameter(torch.zeros(len(self.further_histories)))

    def user_vectors(self, inputs: UserInputs) -> Tensor:
        """[sum v, 1] float32[B, 1, D]."""
        numbers = torch.cat([inputs.history_share(self.history_length), inputs.numbers], dim=1)
        total = inputs.user + inputs.history + sum(inputs.categories) + numbers @ self.user_numbers
        for name, factor in zip(self.further_histories, self.history_factors, strict=True):
            total = total + factor * inputs.pooled[name]
        return torch.cat([total[:, :-1], torch.ones_like(total[:, :1])], dim=1).unsqueeze(1)

    def item_vectors(self, inputs: ItemInputs) -> Tensor:
        """[sum v, w + second order] float32[N, D]."""
        fields = (inputs.item, *inputs.categories)
        total = sum(fields) + inputs.numbers @ self.item_numbers
        squares = sum(row**2 for row in fields) + inputs.numbers**2 @ self.item_numbers**2
        second_order = (total**2 - squares)[:, :-1].sum(1, keepdim=True) / 2
        return torch.cat([total[:, :-1], total[:, -1:] + second_order], dim=1)
