"""Sequence-aware user tower: causal self-attention over the history (Kang and McAuley, ICDM 2018), with the
age of every item beside its place.

B batch, L history, E width of ID rows, H heads, Q positions that are asked for.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, scaled_dot_product_attention

from models.model_config import ModelConfig
from models.towers import (
    SHORTEST,
    HistorySequence,
    ItemInputs,
    RecallTowers,
    SideWidth,
    UserInputs,
    item_tower,
    unit,
    user_tower,
)

_AGES = 24  # doublings of a minute: the last bucket begins at 16 years


class SequenceTower(RecallTowers):
    """The state of the newest position joins the user row, the mean of the history and the side inputs.

    Before any training a state is its item's row, so that a user vector is the user's row plus the mean of
    the history plus its newest item.
    """

    needs_sequence: ClassVar[bool] = True

    def __init__(self, config: ModelConfig, user_side: SideWidth, item_side: SideWidth) -> None:
        super().__init__(config)
        if config.id_dim % config.heads:
            raise ValueError(f"heads: expected a divisor of id_dim {config.id_dim}, got {config.heads}")
        self.place = nn.Parameter(torch.zeros(config.history_length, config.id_dim))
        self.age = nn.Parameter(torch.zeros(_AGES, config.id_dim))
        self.blocks = nn.ModuleList(
            _Block(config.id_dim, config.heads, config.dropout) for _ in range(config.blocks)
        )
        self.user_tower = user_tower(config, user_side, views=2)
        self.item_tower = item_tower(config, item_side)

    def user_vectors(self, inputs: UserInputs) -> Tensor:
        """Vectors u float32[B, 1, D], unit length."""
        newest = self.states(self.sequence(inputs), 1)[:, 0]
        ids = self.id_inputs(inputs, inputs.history, newest)
        return unit(self.user_tower(ids, inputs.side(self.history_length))).unsqueeze(1)

    def item_vectors(self, inputs: ItemInputs) -> Tensor:
        """Vectors v float32[N, D], unit length."""
        return unit(self.item_tower(inputs.item, inputs.side()))

    def states(self, sequence: HistorySequence, newest: int) -> Tensor:
        """[B, newest, E]: states of the newest positions, each made of itself and what is older; zero where
        there is no item.
        """
        length = sequence.rows.shape[1]
        age = torch.log2(1 + sequence.age_s.clamp_min(0) / 60).to(torch.int64).clamp_max(_AGES - 1)
        x_BLE = sequence.rows + self.place[len(self.place) - length :] + self.age[age]
        # A position without an item sees itself: a softmax over nothing would be NaN. No other sees it.
        itself = torch.eye(length, dtype=torch.bool)
        seen_BLL = torch.ones(length, length, dtype=torch.bool).tril() & (sequence.mask.unsqueeze(1) | itself)
        last = len(self.blocks) - 1
        for place, block in enumerate(self.blocks):
            x_BLE = block(x_BLE, seen_BLL, newest if place == last else length)
        return x_BLE * sequence.mask[:, length - newest :].unsqueeze(2)


class _Block(nn.Module):
    """Pre-norm self-attention and feed-forward, both residual and both starting as nothing added."""

    def __init__(self, width: int, heads: int, share_dropped: float) -> None:
        super().__init__()
        self._heads = heads
        self._share_dropped = share_dropped
        # The floor under the deviation bounds the gradient of a row that is nearly constant.
        self.before_attention = nn.LayerNorm(width, eps=SHORTEST**2)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.attended = nn.Linear(width, width)
        self.before_feed = nn.LayerNorm(width, eps=SHORTEST**2)
        self.feed = nn.Linear(width, width)
        self.fed = nn.Linear(width, width)
        for last in (self.attended, self.fed):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x_BLE: Tensor, seen_BLL: Tensor, newest: int) -> Tensor:
        """[B, newest, E]: the newest positions, each having seen the positions where seen_BLL is True."""
        # What is computed without gradients is an answer, and answers are never dropped.
        p = self._share_dropped if self.training and torch.is_grad_enabled() else 0.0
        first = x_BLE.shape[1] - newest
        normed_BLE = self.before_attention(x_BLE)
        attended_BHQe = scaled_dot_product_attention(
            self._split(self.query(normed_BLE[:, first:])),
            self._split(self.key(normed_BLE)),
            self._split(self.value(normed_BLE)),
            attn_mask=seen_BLL[:, first:].unsqueeze(1),
        )
        attended_BQE = attended_BHQe.transpose(1, 2).flatten(2)
        x_BQE = x_BLE[:, first:] + dropout(self.attended(attended_BQE), p)
        return x_BQE + dropout(self.fed(self.feed(self.before_feed(x_BQE)).relu()), p)

    def _split(self, x_BLE: Tensor) -> Tensor:
        """[B, H, L, E / H]."""
        b, length, width = x_BLE.shape
        return x_BLE.view(b, length, self._heads, width // self._heads).transpose(1, 2)
