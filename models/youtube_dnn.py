"""YoutubeDNN recall (Covington et al., RecSys 2016): a user tower against the rows of a softmax over all
items.
"""

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from models.frozen_tower import Passed
from models.model_config import ModelConfig
from models.towers import FrozenTowers, ItemInputs, RecallTowers, SideWidth, UserInputs, user_tower


class YoutubeDNN(RecallTowers):
    """Logit u.v_i + b_i. An item row is [v, b]; u ends in a constant 1, so that inner product ranks what was
    trained.
    """

    unit_length: ClassVar[bool] = False

    def __init__(self, config: ModelConfig, user_side: SideWidth, item_side: SideWidth) -> None:
        super().__init__(config)
        self.user_tower = user_tower(config, user_side)

    def user_vectors(self, inputs: UserInputs) -> Tensor:
        """[u, 1] float32[B, 1, D]."""
        ids = self.id_inputs(inputs, inputs.history)
        vector = self.user_tower(ids, inputs.side(self.history_length))[:, :-1]
        return torch.cat([vector, torch.ones_like(vector[:, :1])], dim=1).unsqueeze(1)

    def item_vectors(self, inputs: ItemInputs) -> Tensor:
        """[v, b] float32[N, D]: the item's row itself."""
        return inputs.item

    def frozen(self) -> FrozenTowers | None:
        """The user tower without autograd; items are their rows."""
        tower = self.user_tower.frozen()
        if tower is None:
            return None

        def users(inputs: UserInputs) -> Passed:
            passed = tower(self.id_parts(inputs, inputs.history), inputs.side(self.history_length))
            passed.vectors[:, -1] = 1.0

            def backward() -> None:
                if passed.gradient is not None:
                    passed.gradient[:, -1] = 0.0
                passed.backward()

            return replace(passed, backward=backward)

        return FrozenTowers(users, lambda items: Passed.as_it_is(items.item))
