"""A step that moves ID rows under dense weights that stay as they are, without autograd: the hour's.

B rows, n items of a row alone, K shared negatives, U items, D width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from models.arrays import Int64Array
from models.candidates import Candidates
from models.frozen_tower import Passed
from models.lookup import Lookup
from models.products import Similarities
from models.samples import Samples
from models.step_kernels import (
    add_at,
    add_gradients_of_u,
    add_gradients_of_v,
    alone_scores,
    softmax_gradients,
)
from models.steps import ModelParts, Stepper
from models.towers import FrozenTowers, ItemInputs, UserInputs

_ID_TABLES = frozenset({"user", "item", "history_item"})


def frozen_stepper(parts: ModelParts, trained: frozenset[str]) -> FrozenStepper | None:
    """Steps with the dense weights of now, until they change, that move the tables `trained`; None where
    such steps are autograd's: losses and towers that have no other way, rows of features that move.
    """
    config = parts.config
    if config.loss != "softmax" or config.num_true > 1 or not trained <= _ID_TABLES:
        return None
    towers = parts.model.towers.frozen()
    return None if towers is None else FrozenStepper(parts, towers)


class FrozenStepper(Stepper):
    """The steps of Stepper, to what rounding leaves, for a softmax over one positive."""

    def __init__(self, parts: ModelParts, towers: FrozenTowers) -> None:
        super().__init__(parts)
        self._towers = towers

    @torch.no_grad()
    def _learn(
        self,
        batch: Samples,
        candidates: Candidates,
        trues_BT: Int64Array,
        users: Callable[[], UserInputs],
        items: Callable[[], ItemInputs],
        lookup: Lookup,
    ) -> float:
        lookup.read()
        inputs = users()
        user, item = self._towers.users(inputs), self._towers.items(items())
        candidates = self._with_online(batch, candidates, trues_BT, user.vectors, item.vectors)
        loss = self._loss_and_gradients(batch, candidates, inputs, user, item)
        user.backward()
        item.backward()
        lookup.move()
        return loss

    def _loss_and_gradients(
        self, batch: Samples, candidates: Candidates, inputs: UserInputs, user: Passed, item: Passed
    ) -> float:
        """The loss; fills in the gradients of both sides' vectors."""
        tau, places_Bn = self._parts.config.tau, candidates.alone
        u_BD, v_UD = user.vectors / tau, item.vectors
        similarities = Similarities(u_BD, candidates.shared_vectors(v_UD))
        of_alone = torch.empty(places_Bn.shape)
        alone_scores(u_BD.numpy(), v_UD.numpy(), places_Bn, of_alone.numpy())
        of_alone, of_shared = self._with_head(
            batch, candidates, inputs, places_Bn, of_alone, similarities.scores, tau
        )
        gradient_BK = torch.empty(of_shared.shape, dtype=torch.int16)
        loss = softmax_gradients(
            of_alone.numpy(),
            of_shared.numpy(),
            np.concatenate([candidates.log_expected_positive, candidates.log_expected_rows], axis=1),
            candidates.log_expected_shared,
            np.concatenate([~candidates.known, candidates.rows_hit], axis=1),
            candidates.shared_hit,
            batch.weight,
            gradient_BK.numpy(),
        )
        if candidates.own is not None:
            of_alone = self._own_similarity(candidates.own_alone, of_alone)
        of_v_KD = None if item.gradient is None else torch.empty(len(candidates.shared), v_UD.shape[1])
        similarities.backward(gradient_BK.view(torch.bfloat16), user.gradient, of_v_KD)
        if user.gradient is not None:
            add_gradients_of_u(of_alone.numpy(), v_UD.numpy(), places_Bn, user.gradient.numpy())
            user.gradient.div_(tau)
        if item.gradient is not None and of_v_KD is not None:
            if candidates.in_order:
                item.gradient[: -len(of_v_KD)] = 0
                item.gradient[-len(of_v_KD) :] = of_v_KD
            else:
                item.gradient.zero_()
                add_at(candidates.shared, of_v_KD.numpy(), item.gradient.numpy())
            add_gradients_of_v(of_alone.numpy(), u_BD.numpy(), places_Bn, item.gradient.numpy())
        return loss
