"""Two-tower recall model (Yi et al., RecSys 2019): u = f(user, history, context), v = g(item), both of
length one.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from models.model_config import ModelConfig
from models.towers import ItemInputs, Tower, UserInputs

# Shorter vectors are divided by this instead: the gradient of a near-zero vector has no bound, and
# one such gradient would fill a row's Adagrad momentum for good.
_SHORTEST = 0.05


class TwoTower(nn.Module):
    """Similarity u.v / tau; trained with in-batch softmax and logQ correction."""

    def __init__(self, config: ModelConfig, user_side: int, item_side: int) -> None:
        super().__init__()
        self.history_length = config.history_length
        self.user_tower = Tower(2, config.id_dim, user_side + 1, config.hidden, config.dim)
        self.item_tower = Tower(1, config.id_dim, item_side, config.hidden, config.dim)

    def user_vectors(self, inputs: UserInputs) -> Tensor:
        """Vectors u float32[B, D], unit length."""
        ids = torch.cat([inputs.user, inputs.history], dim=1)
        return normalize(self.user_tower(ids, inputs.side(self.history_length)), dim=1, eps=_SHORTEST)

    def item_vectors(self, inputs: ItemInputs) -> Tensor:
        """Vectors v float32[N, D], unit length."""
        side = torch.cat([*inputs.categories, inputs.numbers], dim=1)
        return normalize(self.item_tower(inputs.item, side), dim=1, eps=_SHORTEST)
