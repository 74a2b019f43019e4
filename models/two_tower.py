"""Two-tower recall model (Yi et al., RecSys 2019): u = f(user, history, context), v = g(item), both of
length one.
"""

from torch import Tensor

from models.model_config import ModelConfig
from models.towers import (
    SHORTEST,
    FrozenTowers,
    ItemInputs,
    RecallTowers,
    SideWidth,
    UserInputs,
    item_tower,
    unit,
    user_tower,
)


class TwoTower(RecallTowers):
    """Similarity u.v, the cosine; MLP towers, with DCN-v2 cross layers beside them by config.

    Also the towers of embedding-based retrieval (Huang et al., KDD 2020), which differs in its loss and its
    negatives.
    """

    def __init__(self, config: ModelConfig, user_side: SideWidth, item_side: SideWidth) -> None:
        super().__init__(config)
        self.user_tower = user_tower(config, user_side, cross_layers=config.cross_layers)
        self.item_tower = item_tower(config, item_side, config.cross_layers)

    def user_vectors(self, inputs: UserInputs) -> Tensor:
        """Vectors u float32[B, 1, D], unit length."""
        ids = self.id_inputs(inputs, inputs.history)
        return unit(self.user_tower(ids, inputs.side(self.history_length))).unsqueeze(1)

    def item_vectors(self, inputs: ItemInputs) -> Tensor:
        """Vectors v float32[N, D], unit length."""
        return unit(self.item_tower(inputs.item, inputs.side()))

    def frozen(self) -> FrozenTowers | None:
        """Both towers without autograd."""
        user, item = self.user_tower.frozen(SHORTEST), self.item_tower.frozen(SHORTEST)
        if user is None or item is None:
            return None
        return FrozenTowers(
            lambda users: user(self.id_parts(users, users.history), users.side(self.history_length)),
            lambda items: item([items.item], items.side()),
        )
