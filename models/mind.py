"""MIND (Li et al., CIKM 2019): several interests of a user, by capsule routing over the history.

B batch, L history, K interests (the V vectors of a user), E width of ID rows, D of the similarity.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.model_config import ModelConfig
from models.towers import (
    HistorySequence,
    ItemInputs,
    RecallTowers,
    SideWidth,
    UserInputs,
    item_tower,
    unit,
    user_tower,
)

_LARGEST = 1e30  # of what label-aware attention exponentiates: float32 ends at 3e38


class MIND(RecallTowers):
    """Interests by behaviour-to-interest dynamic routing; each joined by the user row and the side inputs.

    A user of n history items has K_u = max(1, min(K, floor(log2 n))) interests; the places beyond repeat the
    first, so that V = K for everyone and the best of V is the best of K_u. The routing logits are drawn once
    per model and saved with it (the paper draws them per user): equal moments get equal answers.
    """

    needs_sequence: ClassVar[bool] = True
    routing_logits: Tensor

    def __init__(self, config: ModelConfig, user_side: SideWidth, item_side: SideWidth) -> None:
        super().__init__(config)
        if (1 / config.tau) ** config.label_power > _LARGEST:
            raise ValueError(
                f"label_power: expected (1 / tau)^label_power of at most {_LARGEST:g}, got "
                f"{config.label_power} with tau {config.tau}; attention is hard long before"
            )
        self._interests = config.interests
        self._iterations = config.routing_iterations
        self._power = config.label_power
        self._tau = config.tau
        self.register_buffer("routing_logits", torch.randn(config.interests, config.history_length))
        self.shared = nn.Linear(config.id_dim, config.id_dim, bias=False)
        nn.init.eye_(self.shared.weight)
        self.user_tower = user_tower(config, user_side)
        self.item_tower = item_tower(config, item_side)

    def user_vectors(self, inputs: UserInputs) -> Tensor:
        """Vectors u float32[B, K, D], unit length; those beyond the user's own number repeat the first."""
        sequence = self.sequence(inputs)
        capsules_BKE = self.capsules(sequence)
        ids = torch.cat([self.id_inputs(inputs, capsule) for capsule in capsules_BKE.unbind(1)])
        side = inputs.side(self.history_length).repeat(self._interests, 1)
        u_KBD = torch.stack(unit(self.user_tower(ids, side)).chunk(self._interests))
        own_KB1 = self._own_interests(sequence.mask).T.unsqueeze(2)
        return torch.where(own_KB1, u_KBD, u_KBD[:1]).transpose(0, 1)

    def item_vectors(self, inputs: ItemInputs) -> Tensor:
        """Vectors v float32[N, D], unit length."""
        return unit(self.item_tower(inputs.item, inputs.side()))

    def for_target(self, u_BVD: Tensor, v_BD: Tensor) -> Tensor:
        """Label-aware attention: unit([B, D]) of the interests weighted by softmax(max(u.v / tau, 0)^power).

        Power 0 weighs a user's interests alike, a large one takes the interest nearest to the item. Repeats
        of the first interest have no weight. The weights carry no gradient: that of a power has no useful
        bound where two interests are about equally near.
        """
        with torch.no_grad():
            scores_BV = (torch.einsum("bvd,bd->bv", u_BVD, v_BD) / self._tau).clamp_min(0) ** self._power
            repeats_BV = (u_BVD == u_BVD[:, :1]).all(2)
            repeats_BV[:, 0] = False
            weight_BV = scores_BV.masked_fill(repeats_BV, -math.inf).softmax(1)
        return unit(torch.einsum("bv,bvd->bd", weight_BV, u_BVD))

    def capsules(self, sequence: HistorySequence) -> Tensor:
        """[B, K, E]: the interests, zero beyond a user's own number. Every round but the last only finds the
        coupling of items and interests; gradients flow through the last.
        """
        items_BLE: Tensor = self.shared(sequence.rows)
        known_BLE = items_BLE.detach()
        closed_BK1 = ~self._own_interests(sequence.mask).unsqueeze(2)
        is_item_B1L = sequence.mask.unsqueeze(1)
        logits = self.routing_logits[:, self.history_length - items_BLE.shape[1] :]
        logits_BKL = logits.expand(len(items_BLE), -1, -1)
        for _ in range(self._iterations - 1):
            coupling_BKL = logits_BKL.masked_fill(closed_BK1, -math.inf).softmax(1) * is_item_B1L
            logits_BKL = logits_BKL + squash(coupling_BKL @ known_BLE) @ known_BLE.transpose(1, 2)
        coupling_BKL = logits_BKL.masked_fill(closed_BK1, -math.inf).softmax(1) * is_item_B1L
        return squash(coupling_BKL @ items_BLE)

    def _own_interests(self, mask_BL: Tensor) -> Tensor:
        """bool[B, K]: whether an interest is among the user's K_u."""
        floor_log2_B = torch.frexp(mask_BL.sum(1).to(torch.float32)).exponent - 1  # exact; -1 of nothing
        return torch.arange(self._interests) < floor_log2_B.clamp_min(1).unsqueeze(1)


def squash(vectors: Tensor) -> Tensor:
    """[..., E]: the same direction, length n^2 / (1 + n^2)."""
    square = (vectors * vectors).sum(-1, keepdim=True)
    return vectors * ((square + 1e-12).sqrt() / (1 + square))  # the root of 0 has no gradient
