"""One gradient step over a batch of samples: one lookup per table, the loss, and who may move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from models.arrays import Float32Array, Int64Array
from models.features import FeatureColumns
from models.frequency import FrequencyEstimator
from models.item_store import ItemStore
from models.losses import in_batch_softmax, sampled_softmax
from models.model_config import ModelConfig
from models.pooling import history_bags
from models.samplers import UnigramSampler, uniform_by_key
from models.samples import Samples
from models.tables import Tables
from models.towers import ItemInputs, UserInputs


@dataclass(frozen=True)
class StepPlan:
    """How the batches of one training call are stepped.

    trained: tables whose rows move; in_batch: negatives are the batch's own items, else drawn by `sampler`;
    numbers: float32[N, M] standardised request numbers by sample position; item_numbers: float32[items, M']
    by item entry.
    user_dropout / item_dropout: share of rows that use the cold row; salt: varies the dropout between passes.
    """

    trained: frozenset[str]
    in_batch: bool
    sampler: UnigramSampler | None
    numbers: Float32Array
    item_numbers: Float32Array
    user_dropout: float
    item_dropout: float
    salt: int


class Stepper:
    """Runs forward and backward passes; fused row updates happen in backward, dense ones are the caller's."""

    def __init__(
        self,
        config: ModelConfig,
        model: nn.Module,
        tables: Tables,
        features: FeatureColumns,
        items: ItemStore,
        estimator: FrequencyEstimator,
        item_features: FeatureColumns,
    ) -> None:
        self._config = config
        self._model = model
        self._tables = tables
        self._features = features
        self._items = items
        self._estimator = estimator
        self._item_features = item_features

    def step(
        self, batch: Samples, positions: Int64Array | slice, plan: StepPlan, number: int
    ) -> tuple[float, Rows]:
        """Forward and backward over one batch; `positions` are the batch's places in the call's samples.

        Returns the mean loss and the rows read from trained tables.
        """
        targets = batch.item.astype(np.int64)
        self._estimator.observe(targets)
        if plan.in_batch:
            items = targets
        else:
            if plan.sampler is None:
                raise ValueError("step: negatives outside the batch need a sampler")
            items = np.concatenate([targets, plan.sampler.draw(self._config.negatives, number)])
        lookup = _Lookup(self._tables, plan.trained)
        users = self._user_inputs(batch, plan, positions, lookup)
        pooled, item_rows = self._history_and_items(batch, items, plan, lookup)
        u_BD = self._model.user_vectors(users(pooled))  # type: ignore[operator]
        v_ND = self._model.item_vectors(self._item_inputs(item_rows, items, plan, lookup))  # type: ignore[operator]
        loss = self._loss(u_BD, v_ND, items, batch, plan)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach()), lookup.touched

    def encode_items(self, entries: Int64Array, item_numbers: Float32Array) -> Float32Array:
        """Item vectors float32[n, D] of entries; item_numbers: standardised, by item entry."""
        nothing = np.empty((0, 0), np.float32)
        plan = StepPlan(frozenset(), False, None, nothing, item_numbers, 0.0, 0.0, 0)
        lookup = _Lookup(self._tables, plan.trained)
        with torch.no_grad():
            rows = lookup.single("item", self._tables.ids["item"].rows(entries))
            inputs = self._item_inputs(rows, entries, plan, lookup)
            vectors: Float32Array = self._model.item_vectors(inputs).numpy()  # type: ignore[operator]
        return vectors

    def _loss(self, u_BD: Tensor, v_ND: Tensor, items: Int64Array, batch: Samples, plan: StepPlan) -> Tensor:
        config = self._config
        b = len(batch)
        weight_B = torch.from_numpy(batch.weight)
        tau = config.tau if config.kind == "two_tower" else 1.0
        item_N = torch.from_numpy(items)
        if plan.in_batch:
            log_q_B = torch.from_numpy(np.log(self._estimator.probability(items)).astype(np.float32))
            return in_batch_softmax(u_BD, v_ND, log_q_B, item_N, weight_B, tau, config.negatives)
        if plan.sampler is None:
            raise ValueError("step: negatives outside the batch need a sampler")
        log_expected = torch.from_numpy(plan.sampler.log_expected(items, config.negatives))
        hits = item_N[:b, None] == item_N[None, b:]
        return sampled_softmax(
            u_BD, v_ND[:b], v_ND[b:], log_expected[:b], log_expected[b:], hits, weight_B, tau
        )

    def _user_inputs(
        self, batch: Samples, plan: StepPlan, positions: Int64Array | slice, lookup: _Lookup
    ) -> Callable[[tuple[Tensor, Tensor]], UserInputs]:
        rows = self._tables.ids["user"].rows(batch.user)
        if plan.user_dropout > 0:
            rows = np.where(uniform_by_key(batch.sequence, 2 * plan.salt) < plan.user_dropout, 0, rows)
        user = lookup.single("user", rows)
        categories = [
            lookup.single(feature.table, self._tables.ids[feature.table].rows(batch.categories[:, place]))
            for place, feature in enumerate(self._features.categories)
        ]
        numbers = torch.from_numpy(plan.numbers[positions])

        def complete(pooled: tuple[Tensor, Tensor]) -> UserInputs:
            return UserInputs(user, pooled[0], pooled[1], categories, numbers)

        return complete

    def _history_and_items(
        self, batch: Samples, items: Int64Array, plan: StepPlan, lookup: _Lookup
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """((pooled history [B, E], its size [B]), item rows [N, E])."""
        ids = self._tables.ids["item"]
        flat, offsets, weights = history_bags(
            batch.history, batch.history_age_s, self._config.history_half_life_days
        )
        flat = ids.entry_rows[flat]
        size = torch.from_numpy(np.diff(offsets).astype(np.float32))
        rows = ids.rows(items)
        if plan.item_dropout > 0:
            drop = uniform_by_key(batch.sequence, 2 * plan.salt + 1) < plan.item_dropout
            rows[: len(batch)] = np.where(drop, 0, rows[: len(batch)])
        if not self._config.shared_items:
            return (lookup.bags("history_item", flat, offsets, weights), size), lookup.single("item", rows)
        if "item" not in plan.trained:
            return (lookup.bags("item", flat, offsets, weights), size), lookup.single("item", rows)
        both = lookup.bags(
            "item",
            np.concatenate([flat, rows]),
            np.concatenate([offsets, offsets[-1] + np.arange(1, len(rows) + 1)]),
            np.concatenate([weights, np.ones(len(rows), np.float32)]),
        )
        return (both[: len(batch)], size), both[len(batch) :]

    def _item_inputs(
        self, item_rows: Tensor, items: Int64Array, plan: StepPlan, lookup: _Lookup
    ) -> ItemInputs:
        categories = []
        if self._config.kind == "two_tower":
            categories = [
                lookup.single(
                    feature.table, self._tables.ids[feature.table].rows(self._items.categories[items, place])
                )
                for place, feature in enumerate(self._item_features.categories)
            ]
        return ItemInputs(item_rows, categories, torch.from_numpy(plan.item_numbers[items]))


Rows = dict[str, list[Int64Array]]
"""Table -> rows read in a step."""


class _Lookup:
    """Rows by table: through the fused update where a table is trained, plainly where it is frozen."""

    def __init__(self, tables: Tables, trained: frozenset[str]) -> None:
        self._tables = tables
        self._trained = trained
        self.touched: Rows = {}

    def single(self, table: str, rows: Int64Array) -> Tensor:
        """float32[n, E], one row each."""
        if table in self._trained:
            self.touched.setdefault(table, []).append(rows)
            return self._tables.rows[table].trained(torch.from_numpy(rows), torch.arange(len(rows) + 1))
        return self._tables.rows[table].weights[torch.from_numpy(rows)]

    def bags(self, table: str, rows: Int64Array, offsets: Int64Array, weights: Float32Array) -> Tensor:
        """float32[bags, E], weighted sums."""
        embedding = self._tables.rows[table]
        arguments = torch.from_numpy(rows), torch.from_numpy(offsets), torch.from_numpy(weights)
        if table in self._trained:
            self.touched.setdefault(table, []).append(rows)
            return embedding.trained(*arguments)
        return embedding.frozen(*arguments)
