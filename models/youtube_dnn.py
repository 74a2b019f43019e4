"""YoutubeDNN recall (Covington et al., RecSys 2016): a user tower against the rows of a softmax over all
items.
"""

import torch
from torch import Tensor, nn

from models.model_config import ModelConfig
from models.towers import ItemInputs, Tower, UserInputs


class YoutubeDNN(nn.Module):
    """Logit u.v_i + b_i. An item row is [v, b]; u ends in a constant 1, so that inner product ranks what was
    trained.
    """

    def __init__(self, config: ModelConfig, user_side: int) -> None:
        super().__init__()
        self.history_length = config.history_length
        self.user_tower = Tower(2, config.id_dim, user_side + 1, config.hidden, config.dim)

    def user_vectors(self, inputs: UserInputs) -> Tensor:
        """[u, 1] float32[B, D]."""
        ids = torch.cat([inputs.user, inputs.history], dim=1)
        vector = self.user_tower(ids, inputs.side(self.history_length))[:, :-1]
        return torch.cat([vector, torch.ones_like(vector[:, :1])], dim=1)

    def item_vectors(self, inputs: ItemInputs) -> Tensor:
        """[v, b] float32[N, D]: the item's row itself."""
        return inputs.item
