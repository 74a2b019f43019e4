"""One gradient step over a batch of samples: the rows it reads, the scores of its candidates, the loss.

Shapes: B rows, T positives of a row, K shared negatives, n negatives of a row alone, U distinct items,
V user vectors, D their width, C popularity counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.architecture import RecallModel
from models.arrays import Float32Array, Int32Array, Int64Array
from models.candidates import Candidates, Negatives, draw_candidates, with_others
from models.features import FeatureColumns
from models.frequency import FrequencyEstimator
from models.hard_negatives import online_hard
from models.history import HistoryTable
from models.item_store import ItemStore
from models.lookup import Lookup, Rows
from models.losses import (
    corrected_softmax,
    listwise,
    nce_loss,
    pairwise_hinge,
    pairwise_logistic,
    pointwise_bce,
)
from models.model_config import DAY_MS, ModelConfig
from models.own_items import OwnItems, own_features
from models.pooling import bag_sizes
from models.popularity_dims import PopularityDims
from models.products import in_bfloat16, in_blocks, similarities
from models.samplers import uniform_by_key
from models.samples import Samples
from models.tables import Tables
from models.target_counts import TargetCounts
from models.time_features import local_ms
from models.towers import HistorySequence, ItemInputs, UserInputs, sequence_inputs


@dataclass(frozen=True)
class StepPlan:
    """How the batches of one training call are stepped.

    trained: tables whose rows move; numbers: float32[N, M] standardised request numbers by sample position;
    item_numbers: float32[items, M'] by item entry; companions: int64[N, T-1] further positives (item
    entries, -1 = none) by sample position; offline: int64[N, n] offline hard negatives by sample position,
    or None. user_dropout / item_dropout: share of rows that use the cold row.
    """

    trained: frozenset[str]
    negatives: Negatives
    numbers: Float32Array
    item_numbers: Float32Array
    companions: Int64Array
    offline: Int64Array | None
    user_dropout: float
    item_dropout: float


@dataclass(frozen=True)
class ModelParts:
    """What a step works on, all of one model."""

    config: ModelConfig
    model: RecallModel
    tables: Tables
    features: FeatureColumns
    item_features: FeatureColumns
    items: ItemStore
    history: HistoryTable
    histories: Mapping[str, HistoryTable]
    estimator: FrequencyEstimator
    popularity: PopularityDims
    targets: TargetCounts


class Stepper:
    """Runs forward and backward passes; fused row updates happen in backward, dense ones are the caller's."""

    def __init__(self, parts: ModelParts) -> None:
        self._parts = parts
        self._half = in_bfloat16(parts.config.precision)

    def step(
        self, batch: Samples, positions: Int64Array | slice, plan: StepPlan, number: int
    ) -> tuple[float, Rows]:
        """Forward and backward over one batch; `positions` are the batch's places in the call's samples.

        Returns the mean loss and the rows read from trained tables.
        """
        parts, config = self._parts, self._parts.config
        targets = batch.item.astype(np.int64)
        parts.estimator.observe(targets)
        trues_BT = targets[:, None]
        if config.num_true > 1:
            trues_BT = np.concatenate([trues_BT, plan.companions[positions]], axis=1)
        candidates = self._drawn(batch, positions, trues_BT, self._own(batch), plan, number)
        lookup = Lookup(parts.tables, plan.trained)
        users = self._users(batch, positions, plan, lookup)
        items = self._items(candidates.entries, plan, lookup, number, self._half and config.has_item_tower)
        return self._learn(batch, candidates, trues_BT, users, items, lookup), lookup.touched

    def _learn(
        self,
        batch: Samples,
        candidates: Candidates,
        trues_BT: Int64Array,
        users: Callable[[], UserInputs],
        items: Callable[[], ItemInputs],
        lookup: Lookup,
    ) -> float:
        """Look up what was asked for, forward and backward: the mean loss."""
        towers = self._parts.model.towers
        lookup.run()
        inputs = users()
        v_UD = towers.item_vectors(items())
        u_BVD = towers.user_vectors(inputs)
        v_BD = v_UD.index_select(0, torch.from_numpy(candidates.positive[:, 0]))
        u_BD = towers.for_target(u_BVD, v_BD)
        candidates = self._with_online(batch, candidates, trues_BT, u_BD, v_UD)
        loss = self._loss(batch, candidates, inputs, u_BD, v_UD)
        if loss.requires_grad:  # an hour may have nothing to move: its tables are not read by this model
            loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def _with_online(
        self, batch: Samples, candidates: Candidates, trues_BT: Int64Array, u_BD: Tensor, v_UD: Tensor
    ) -> Candidates:
        """The candidates with online hard negatives, where there are any."""
        config = self._parts.config
        if "online" not in config.hard_negatives:
            return candidates
        v_BD = v_UD.index_select(0, torch.from_numpy(candidates.positive[:, 0]))
        others_Bn = online_hard(u_BD, v_BD, trues_BT[:, 0], config.hard_per_row, batch.user.astype(np.int64))
        return with_others(candidates, others_Bn, trues_BT)

    def encode_items(self, entries: Int64Array, item_numbers: Float32Array) -> Float32Array:
        """Item vectors float32[n, D] of entries; item_numbers: standardised, by item entry."""
        nothing = np.empty((0, 0), np.float32)
        plan = StepPlan(
            frozenset(), Negatives(None, None, 0), nothing, item_numbers, np.empty((0, 0), np.int64), None,
            0.0, 0.0,
        )  # fmt: skip
        lookup = Lookup(self._parts.tables, plan.trained)
        with torch.no_grad():
            items = self._items(entries, plan, lookup, 0)
            lookup.run()
            vectors: Float32Array = self._parts.model.towers.item_vectors(items()).numpy()
        return vectors

    def _drawn(
        self,
        batch: Samples,
        positions: Int64Array | slice,
        trues_BT: Int64Array,
        own: OwnItems | None,
        plan: StepPlan,
        number: int,
    ) -> Candidates:
        offline = None if plan.offline is None else plan.offline[positions]
        parts = self._parts
        return draw_candidates(
            parts.config, batch, trues_BT, own, offline, plan.negatives, parts.estimator, number
        )

    def _read(self, history: HistoryTable, batch: Samples, length: int) -> tuple[Int32Array, Int32Array]:
        """(items [B, L], ages in seconds) of a history as of the batch's moments."""
        return history.read(batch.user, batch.ts_ms, batch.request, length)

    def _bags(
        self, history: HistoryTable, batch: Samples, length: int
    ) -> tuple[Int64Array, Int64Array, Float32Array]:
        """The same as weighted bags of rows: int64[n], offsets int64[B+1], weights float32[n]."""
        parts = self._parts
        return history.bags(
            batch.user, batch.ts_ms, batch.request, length, parts.config.history_half_life_days,
            parts.tables.ids["item"].entry_rows,
        )  # fmt: skip

    def _attributes(self, entries: Int64Array, plan: StepPlan) -> tuple[Int32Array, Float32Array]:
        """(categories int32[U, C], standardised numbers float32[U, M]) of items."""
        return self._parts.items.categories[entries], plan.item_numbers[entries]

    def _own(self, batch: Samples) -> OwnItems | None:
        if not self._parts.config.own_items:
            return None
        return self._parts.history.own(batch.user, batch.ts_ms, batch.request, self._parts.config.own_items)

    def _users(
        self, batch: Samples, positions: Int64Array | slice, plan: StepPlan, lookup: Lookup
    ) -> Callable[[], UserInputs]:
        """Ask for the rows of the user side; the answer builds the tower's inputs once they are there."""
        parts, config = self._parts, self._parts.config
        user = None
        if config.user_row:
            rows = parts.tables.ids["user"].rows(batch.user)
            if plan.user_dropout > 0:
                dropped = uniform_by_key(batch.sequence, 2 * plan.negatives.salt) < plan.user_dropout
                rows = np.where(dropped, 0, rows)
            user = lookup.single("user", rows)
        history = self._history(batch, parts.history, config.history_length, lookup, config.use_history)
        pooled = {
            name: self._history(batch, parts.histories[name], kinds.length, lookup, True, sequence=False)
            for name, kinds in config.histories.items()
        }
        categories = [
            lookup.slots(feature.table, batch.categories[:, parts.features.layout[feature.table]])
            for feature in parts.features.categories
        ]
        # Where there are none, to choose rows of them is still a call that takes its time.
        held = plan.numbers[positions] if plan.numbers.shape[1] else plan.numbers[: len(batch)]
        numbers = torch.from_numpy(held)

        def complete() -> UserInputs:
            vector, size, sequence = history()
            return UserInputs(
                user=torch.zeros(len(batch), config.id_dim) if user is None else user.value,
                history=vector,
                history_size=size,
                pooled={name: bags()[0] for name, bags in pooled.items()},
                categories=[wanted.value for wanted in categories],
                numbers=numbers,
                sequence=sequence,
            )

        return complete

    def _history(
        self,
        batch: Samples,
        history: HistoryTable,
        length: int,
        lookup: Lookup,
        used: bool,
        sequence: bool = True,
    ) -> Callable[[], tuple[Tensor, Tensor, HistorySequence | None]]:
        """(pooled rows [B, E], items pooled [B], the rows one by one where the towers want them)."""
        parts, config = self._parts, self._parts.config
        b = len(batch)
        if not used:
            nothing = torch.zeros(b, config.id_dim), torch.zeros(b), None
            return lambda: nothing
        table = "item" if config.shared_items else "history_item"
        if sequence and parts.model.towers.needs_sequence:
            items_BL, age_s_BL = self._read(history, batch, length)
            mask_BL = items_BL >= 0
            single = lookup.single(table, parts.tables.ids["item"].rows(items_BL[mask_BL]))
            return lambda: sequence_inputs(single.value, mask_BL, age_s_BL)
        rows, offsets, weights = self._bags(history, batch, length)
        bags = lookup.bags(table, rows, offsets, weights)
        size = torch.from_numpy(bag_sizes(offsets))
        return lambda: (bags.value, size, None)

    def _items(
        self, entries: Int64Array, plan: StepPlan, lookup: Lookup, number: int, whole_blocks: bool = False
    ) -> Callable[[], ItemInputs]:
        """Ask for the rows of items. whole_blocks: some at the end are added that nobody asks for, so that
        their gradient is zero.
        """
        parts = self._parts
        rows = parts.tables.ids["item"].rows(entries)
        if not parts.config.has_item_tower:
            row = lookup.single("item", rows)
            return lambda: ItemInputs(row.value, [], row.value[:, :0])
        if plan.item_dropout > 0:
            rows = np.where(uniform_by_key(entries, number) < plan.item_dropout, 0, rows)
        entries_UC, numbers_UM = self._attributes(entries, plan)
        if whole_blocks:
            rows = in_blocks(rows)
            entries_UC, numbers_UM = in_blocks(entries_UC), in_blocks(numbers_UM)
        item = lookup.single("item", rows)
        categories = [
            lookup.slots(feature.table, entries_UC[:, parts.item_features.layout[feature.table]])
            for feature in parts.item_features.categories
        ]
        numbers = torch.from_numpy(numbers_UM)
        return lambda: ItemInputs(item.value, [wanted.value for wanted in categories], numbers)

    def _loss(
        self, batch: Samples, candidates: Candidates, inputs: UserInputs, u_BD: Tensor, v_UD: Tensor
    ) -> Tensor:
        config = self._parts.config
        in_pairs = config.loss in ("pairwise_hinge", "pairwise_logistic")
        scores = self._scores(batch, candidates, inputs, u_BD, v_UD, 1.0 if in_pairs else config.tau)
        weight_B = torch.from_numpy(batch.weight)
        rows_hit = torch.from_numpy(candidates.rows_hit)
        if config.loss == "pairwise_hinge":
            return pairwise_hinge(scores.positive[:, 0], scores.rows, rows_hit, weight_B, config.margin)
        if config.loss == "pairwise_logistic":
            return pairwise_logistic(scores.positive[:, 0], scores.rows, rows_hit, weight_B, config.sigma)
        corrected = scores.positive - torch.from_numpy(candidates.log_expected_positive)
        rows = scores.rows - torch.from_numpy(candidates.log_expected_rows)
        if config.loss == "pointwise":
            return pointwise_bce(corrected[:, 0], rows, rows_hit, weight_B, self._parts.model.head.offset)
        if config.loss == "listwise":
            return listwise(corrected[:, 0], rows, rows_hit, weight_B)
        negative = scores.shared.sub_(
            torch.from_numpy(candidates.log_expected_shared)
        )  # large, and not read again
        hit = torch.from_numpy(candidates.shared_hit)
        if rows.shape[1]:
            negative, hit = torch.cat([negative, rows], dim=1), torch.cat([hit, rows_hit], dim=1)
        if config.loss == "nce":
            offset = self._normaliser(negative, hit)
            return nce_loss(corrected[:, 0] + offset, negative + offset, hit, weight_B)
        known = torch.from_numpy(candidates.known) if config.num_true > 1 else None
        return corrected_softmax(
            corrected if known is not None else corrected[:, 0], negative, hit, weight_B, known
        )

    def _normaliser(self, negative_BK: Tensor, hit_BK: Tensor) -> Tensor:
        """The constant c [1] of NCE's log p = s + c, which only training reads.

        It starts at minus the log partition as the first batch estimates it (sum of exp(s) / expected count):
        from 0 a bounded similarity could not come down to a log p, and popularity would be unlearned instead.
        """
        offset: Tensor = self._parts.model.head.offset
        if not offset.any():
            with torch.no_grad():
                log_partition_B = negative_BK.masked_fill(hit_BK, float("-inf")).logsumexp(1)
                there = log_partition_B.isfinite()
                if there.any():
                    offset.copy_(-log_partition_B[there].mean())
        return offset

    def _scores(
        self,
        batch: Samples,
        candidates: Candidates,
        inputs: UserInputs,
        u_BD: Tensor,
        v_UD: Tensor,
        unit: float = 1.0,
    ) -> _Scores:
        """Scores of all candidates, divided by `unit`."""
        # What a row has alone, T positives and n negatives, is scored in one piece.
        t, alone = candidates.positive.shape[1], candidates.alone
        u_BD = u_BD / unit
        of_alone = torch.linalg.vecdot(u_BD[:, None], candidates.alone_vectors(v_UD, alone))
        v_KD = candidates.shared_vectors(v_UD)
        of_shared = similarities(u_BD, v_KD) if self._half else u_BD @ v_KD.T
        of_alone, of_shared = self._with_head(batch, candidates, inputs, alone, of_alone, of_shared, unit)
        return _Scores(of_alone[:, :t], of_shared, of_alone[:, t:])

    def _with_head(
        self,
        batch: Samples,
        candidates: Candidates,
        inputs: UserInputs,
        alone: Int64Array,
        of_alone: Tensor,
        of_shared: Tensor,
        unit: float,
    ) -> tuple[Tensor, Tensor]:
        """Scores of what each row has `alone` and of shared items from their similarities, all divided by
        `unit`: the head's part of them, and with it own items and popularity.
        """
        config, head = self._parts.config, self._parts.model.head
        logit, own_places = config.tau / unit, candidates.own_alone
        if candidates.own is not None:
            of_alone = self._own_similarity(own_places, of_alone)
            of_alone = of_alone + logit * self._own_scores(candidates.own, own_places)
        if config.popularity:
            is_own = torch.from_numpy(own_places >= 0)
            side = inputs.side(config.history_length)
            w_BC = logit * head.popularity_weights(side)
            w_own_BC = logit * head.own_popularity_weights(side)
            w_BnC = torch.where(is_own[:, :, None], w_own_BC[:, None], w_BC[:, None])
            codes = self._codes(batch)
            as_of, anchor = self._as_of(batch.ts_ms)
            dims, entries, n = self._parts.popularity, candidates.entries, alone.shape[1]
            each = {name: np.repeat(code, n) for name, code in codes.items()}
            flat = dims.pairs(entries[alone].ravel(), each, np.repeat(as_of, n), np.repeat(anchor, n))
            of_alone = of_alone + (torch.from_numpy(flat.reshape(*alone.shape, flat.shape[1])) * w_BnC).sum(2)
            if len(candidates.shared):
                b_BCK = torch.from_numpy(dims.shared(entries[candidates.shared], codes, as_of, anchor))
                of_shared = of_shared + torch.bmm(w_BC[:, None], b_BCK)[:, 0]
        return of_alone, of_shared

    def _own_similarity(self, places_Bn: Int64Array, similarity_Bn: Tensor) -> Tensor:
        """What the similarity of an item counts, which is own where its place is not -1."""
        factor = self._parts.model.head.own_similarity
        return torch.where(torch.from_numpy(places_Bn >= 0), factor * similarity_Bn, similarity_Bn)

    def _own_scores(self, own: OwnItems, places_Bn: Int64Array) -> Tensor:
        """[B, n] own score at places in `own`, 0 where there is none (-1)."""
        held = places_Bn >= 0
        scores = torch.zeros(places_Bn.shape)
        features = torch.from_numpy(own_features(own, places_Bn[held]))
        return scores.masked_scatter(torch.from_numpy(held), self._parts.model.head.own_scores(features))

    def _as_of(self, ts_ms: Int64Array) -> tuple[Int64Array, Int64Array]:
        """(moment of the counts that a server would have had, midnight before it), int64[n] each."""
        config = self._parts.config
        step_ms = 1000 * config.popularity_every_s
        # A late event finds the counts of its time folded: it reads what is left of them.
        as_of = np.maximum(ts_ms // step_ms * step_ms, self._parts.popularity.trimmed_ms)
        local = local_ms(as_of, config.day_timezone)
        return as_of, as_of - local % DAY_MS

    def _codes(self, batch: Samples) -> dict[str, Int64Array]:
        """The rows' values of the features that popularity is counted by."""
        features = self._parts.features
        return {
            name: batch.categories[:, features.layout[features.named(name).table].start].astype(np.int64)
            for name in self._parts.popularity.by
        }


@dataclass(frozen=True)
class _Scores:
    """positive [B, T], shared [B, K], rows [B, n]."""

    positive: Tensor
    shared: Tensor
    rows: Tensor
