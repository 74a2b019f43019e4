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
        vectors = (torch.from_numpy(side.vectors) for side in (user, item))
        candidates = self._with_online(batch, candidates, trues_BT, *vectors)
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
        u_BD, v_UD = user.vectors / np.float32(tau), item.vectors
        v_KD = v_UD[places_Bn.size :] if candidates.in_order else v_UD.take(candidates.shared, axis=0)
        similarities = Similarities(u_BD, v_KD)
        of_alone, of_shared = np.empty(places_Bn.shape, np.float32), similarities.scores
        alone_scores(u_BD, v_UD, places_Bn, of_alone)
        if candidates.own is not None or self._parts.config.popularity:
            of_both = torch.from_numpy(of_alone), torch.from_numpy(of_shared)
            headed = self._with_head(batch, candidates, inputs, places_Bn, *of_both, tau)
            of_alone, of_shared = (of.numpy() for of in headed)
        gradient_BK = np.empty(of_shared.shape, np.int16)
        loss = softmax_gradients(
            of_alone,
            of_shared,
            candidates.log_expected_alone,
            candidates.log_expected_shared,
            candidates.missing_alone,
            candidates.shared_hit,
            batch.weight,
            gradient_BK,
        )
        if candidates.own is not None:
            of_alone = self._own_similarity(candidates.own_alone, torch.from_numpy(of_alone)).numpy()
        of_v_KD = None
        if item.gradient is not None:
            item.gradient[:] = 0
            of_v_KD = item.gradient[places_Bn.size :] if candidates.in_order else np.empty_like(v_KD)
        similarities.backward(gradient_BK, user.gradient, of_v_KD)
        if user.gradient is not None:
            add_gradients_of_u(of_alone, v_UD, places_Bn, user.gradient)
            np.divide(user.gradient, np.float32(tau), out=user.gradient)
        if item.gradient is not None and of_v_KD is not None:
            if not candidates.in_order:
                add_at(candidates.shared, of_v_KD, item.gradient)
            add_gradients_of_v(of_alone, u_BD, places_Bn, item.gradient)
        return loss
