"""The items one training step scores: each row's positives, the negatives that all rows share, and those of
each row alone (its own items, hard ones, or all of them where a loss compares row by row).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from models.arrays import BoolArray, Float32Array, Index, Int32Array, Int64Array
from models.frequency import FrequencyEstimator
from models.hard_negatives import HardNegatives, mixed
from models.model_config import PER_ROW_LOSSES, ModelConfig
from models.native import compiled, compiled_into
from models.own_items import OwnItems, own_hits, place_of, sampled_own
from models.samplers import Sampler, per_row_others
from models.samples import Samples


@dataclass(frozen=True)
class Candidates:
    """Candidates of B rows. Places refer to `entries`; log expected counts are 0 where nothing is corrected.

    entries: int64[U], distinct where a tower encodes them; in_order: they are the positives, then the shared
    ones, as they lie. positive: int64[B, T] places, known: bool[B, T] (a row may have fewer than
    T). shared: int64[K]; shared_hit: bool[B, K], True where a shared negative is no negative of the row (a
    positive of it, or one of its own items, which are drawn apart). rows: int64[B, n]; rows_hit: bool[B, n],
    the same of them.
    own_positive: int64[B, T] and own_rows: int64[B, n] are places in `own`, -1 for an item that is none.
    """

    entries: Int64Array
    positive: Int64Array
    known: BoolArray
    shared: Int64Array
    shared_hit: BoolArray
    rows: Int64Array
    rows_hit: BoolArray
    log_expected_positive: Float32Array
    log_expected_shared: Float32Array
    log_expected_rows: Float32Array
    own: OwnItems | None
    own_positive: Int64Array
    own_rows: Int64Array
    in_order: bool = False

    @property
    def alone(self) -> Int64Array:
        """int64[B, T + n]: the places that each row has alone, its positives first."""
        return np.concatenate([self.positive, self.rows], axis=1) if self.rows.size else self.positive

    @property
    def own_alone(self) -> Int64Array:
        """int64[B, T + n]: the places in `own` of what each row has alone, -1 for an item that is none."""
        return np.concatenate([self.own_positive, self.own_rows], axis=1)

    @property
    def log_expected_alone(self) -> Float32Array:
        """float32[B, T + n]: the log of how often what each row has alone is expected."""
        if not self.rows.size:
            return self.log_expected_positive
        return np.concatenate([self.log_expected_positive, self.log_expected_rows], axis=1)

    @property
    def missing_alone(self) -> BoolArray:
        """bool[B, T + n]: whether what each row has alone does not count: positives that it has fewer than T
        of, hits.
        """
        return np.concatenate([~self.known, self.rows_hit], axis=1) if self.rows.size else ~self.known

    def alone_vectors(self, v_UD: Tensor, alone_Bn: Int64Array) -> Tensor:
        """[B, T + n, D], of the places `alone`."""
        if self.in_order:
            return v_UD[: self.positive.size].view(*alone_Bn.shape, -1)
        return v_UD.index_select(0, torch.from_numpy(alone_Bn.ravel())).view(*alone_Bn.shape, -1)

    def shared_vectors(self, v_UD: Tensor) -> Tensor:
        """[K, D], of the places `shared`."""
        if self.in_order:
            return v_UD[self.positive.size :]
        return v_UD.index_select(0, torch.from_numpy(self.shared))


@dataclass(frozen=True)
class Negatives:
    """Where the negatives of one training call come from.

    sampler: over the corpus; None = the batch's own items. rejects: what later stages turned down.
    salt: varies the draws between passes.
    """

    sampler: Sampler | None
    rejects: HardNegatives | None
    salt: int


def draw_candidates(
    config: ModelConfig,
    batch: Samples,
    trues_BT: Int64Array,
    own: OwnItems | None,
    offline_Bn: Int64Array | None,
    negatives: Negatives,
    estimator: FrequencyEstimator,
    step: int,
) -> Candidates:
    """Candidates of a batch. trues_BT: item entries, the target first, -1 = fewer than T.

    offline_Bn: entries of offline hard negatives, or None. `step` keys the draws.
    """
    targets = trues_BT[:, 0]
    shared = _shared(config, targets, negatives, step)
    t, k = trues_BT.size, len(shared)
    known, entries = _laid_out(trues_BT, shared)
    log_q = _log_expected(config, entries, k, negatives.sampler, estimator)
    log_q_BT = log_q[:t].reshape(trues_BT.shape)
    hit = _among(shared, trues_BT)

    parts: list[Int64Array] = []
    own_parts: list[Int64Array] = []
    expected_parts: list[Float32Array] = []
    hard = _hard(config, batch, offline_Bn, negatives)
    if config.loss in PER_ROW_LOSSES:
        if negatives.sampler is None:
            raise ValueError(f"loss {config.loss}: expected a sampler of negatives, got none")
        easy = per_row_others(negatives.sampler, targets, config.negatives_per_row, step)
        if own is not None:  # own items are drawn apart
            easy = np.where(_places_of(own, easy) >= 0, -1, easy)
        if hard.shape[1]:
            easy, _ = mixed(easy, hard, config.hard_mix, batch.sequence, negatives.salt)
        _add(parts, own_parts, expected_parts, easy)
    elif hard.shape[1]:
        _add(parts, own_parts, expected_parts, hard)
    own_positive = np.empty(trues_BT.shape, np.int64)
    if own is None:
        own_positive.fill(-1)
    else:
        own_positive = _places_of(own, trues_BT)
        drawn, places, expected_B = sampled_own(
            own, targets.astype(np.int32), config.own_negatives, batch.sequence, negatives.salt
        )
        log_own_B1 = np.log(expected_B)[:, None]
        log_own_Bn = _own_correction(config, negatives.sampler, log_own_B1, drawn.astype(np.int64))
        log_own_BT = _own_correction(config, negatives.sampler, log_own_B1, trues_BT)
        _add(parts, own_parts, expected_parts, drawn.astype(np.int64), places, log_own_Bn)
        log_q_BT = np.where(own_positive >= 0, log_own_BT, log_q_BT)
        if len(shared):
            hit |= own_hits(own, shared)
    none = (len(batch), 0)
    rows, own_rows, rows_hit = np.empty(none, np.int64), np.empty(none, np.int64), np.empty(none, np.bool_)
    log_expected_rows = np.empty(none, np.float32)
    if parts:
        rows, own_rows = np.concatenate(parts, axis=1), np.concatenate(own_parts, axis=1)
        log_expected_rows = np.concatenate(expected_parts, axis=1)
        if own is not None:
            # An easy or hard negative that is an own item carries the own items' score, like everywhere else.
            own_rows = np.where(own_rows < 0, _places_of(own, rows), own_rows)
        rows_hit = (rows < 0) | (rows[:, :, None] == trues_BT[:, None, :]).any(2)
        rows = np.where(rows < 0, targets[:, None], rows)
        entries = np.concatenate([entries, rows.ravel()])
    places = np.arange(len(entries))
    if config.has_item_tower:  # which is worth encoding nothing twice
        entries, places = _distinct(entries)
    return Candidates(
        entries=entries,
        positive=places[:t].reshape(trues_BT.shape),
        known=known,
        shared=places[t : t + k],
        shared_hit=hit,
        rows=places[t + k :].reshape(rows.shape),
        rows_hit=rows_hit,
        log_expected_positive=log_q_BT.astype(np.float32, copy=False),
        log_expected_shared=log_q[t:],
        log_expected_rows=log_expected_rows,
        own=own,
        own_positive=own_positive,
        own_rows=own_rows,
        in_order=not config.has_item_tower and rows.shape[1] == 0,
    )


def _laid_out(trues_BT: Int64Array, shared: Int64Array) -> tuple[BoolArray, Int64Array]:
    """(bool[B, T] which positives there are, int64[B * T + K] all entries: positives, the row's first in
    place of one that is not there, then the shared ones).
    """
    known, entries = np.empty(trues_BT.shape, np.bool_), np.empty(trues_BT.size + len(shared), np.int64)
    _lay_out(trues_BT, shared, known, entries)
    return known, entries


@compiled
def _lay_out(trues_BT: Int64Array, shared: Int64Array, known: BoolArray, entries: Int64Array) -> None:
    place = 0
    for row in range(trues_BT.shape[0]):
        for true in range(trues_BT.shape[1]):
            known[row, true] = trues_BT[row, true] >= 0
            entries[place] = trues_BT[row, true] if known[row, true] else trues_BT[row, 0]
            place += 1
    for at in range(len(shared)):
        entries[place + at] = shared[at]


def _among(shared: Int64Array, trues_BT: Int64Array) -> BoolArray:
    """bool[B, K]: whether a shared negative is one of the row's positives."""
    hit = np.zeros((len(trues_BT), len(shared)), np.bool_)
    _mark(shared, trues_BT, hit)
    return hit


@compiled_into
def _slot(slots: Int32Array, shared: Int64Array, item: Index) -> Index:
    """Where the item's chain begins in the hash table `slots`, or would begin."""
    mask = len(slots) - 1
    slot = np.int64(np.uint64(item) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)) & mask
    while slots[slot] >= 0 and shared[slots[slot]] != item:
        slot = (slot + 1) & mask
    return slot


@compiled_into
def _no_slots(items: Index) -> Int32Array:
    """A hash table of places that holds none, with room for so many items."""
    size = 64
    while size < 2 * items:
        size *= 2
    return np.full(size, -1, np.int32)


@compiled
def _mark(shared: Int64Array, trues_BT: Int64Array, hit: BoolArray) -> None:
    slots = _no_slots(len(shared))
    following = np.empty(len(shared), np.int32)  # the next place of the same item, -1 = none
    for place in range(len(shared)):
        slot = _slot(slots, shared, shared[place])
        following[place] = slots[slot]
        slots[slot] = place
    for row in range(trues_BT.shape[0]):
        for true in range(trues_BT.shape[1]):
            place = slots[_slot(slots, shared, trues_BT[row, true])]
            while place >= 0:
                hit[row, place] = True
                place = following[place]


def _distinct(entries: Int64Array) -> tuple[Int64Array, Int64Array]:
    """(int64[U] the entries in the order in which they come first, int64[N] the place of each among them)."""
    distinct, places = np.empty_like(entries), np.empty_like(entries)
    return distinct[: _fill_distinct(entries, distinct, places)], places


@compiled
def _fill_distinct(entries: Int64Array, distinct: Int64Array, places: Int64Array) -> Index:
    slots, found = _no_slots(len(entries)), 0
    for at in range(len(entries)):
        slot = _slot(slots, distinct, entries[at])
        if slots[slot] < 0:
            slots[slot], distinct[found] = found, entries[at]
            found += 1
        places[at] = slots[slot]
    return found


def _log_expected(
    config: ModelConfig, entries: Int64Array, n: int, sampler: Sampler | None, estimator: FrequencyEstimator
) -> Float32Array:
    """What the logits of entries have subtracted where n negatives are shared, float32[N]."""
    if not config.logq or config.loss not in ("softmax", "nce"):
        return np.zeros(len(entries), np.float32)
    if sampler is not None:
        return sampler.log_expected(entries, n)
    expected: Float32Array = np.log(estimator.probability(entries) * max(n, 1)).astype(np.float32)
    return expected


def _own_correction(
    config: ModelConfig, sampler: Sampler | None, log_own_B1: Float32Array, items_Bn: Int64Array
) -> Float32Array:
    """What the logits of own items (-1 = none) have subtracted, float32[B, n].

    log_own_B1: log of how often one is expected among the row's own negatives. A loss without correction of
    the others compares them as if the sampler had drawn all: own items, drawn far more often, are put back
    into its terms. Pairs have no such terms: a pair teaches an order, however often it is drawn.
    """
    if config.loss in ("listwise", "pointwise") and sampler is not None:
        log_q = sampler.log_expected(np.maximum(items_Bn, 0).ravel(), config.negatives_per_row)
        return (log_own_B1 - log_q.reshape(items_Bn.shape)).astype(np.float32)
    correct = config.logq and config.loss in ("softmax", "nce")
    corrections = np.broadcast_to(log_own_B1 if correct else np.float32(0), items_Bn.shape)
    return corrections.astype(np.float32)


def with_others(candidates: Candidates, others_Bn: Int64Array, trues_BT: Int64Array) -> Candidates:
    """The candidates, and as further negatives of each row the targets of other rows: places in the batch,
    int64[B, n], -1 = none. trues_BT: as in draw_candidates; an other that is one of them is a hit.
    """
    places = candidates.positive[np.maximum(others_Bn, 0), 0]
    items = candidates.entries[places]
    hit = (others_Bn < 0) | (items[:, :, None] == trues_BT[:, None, :]).any(2)
    own_rows = np.full(others_Bn.shape, -1, np.int64)
    if candidates.own is not None:
        own_rows = _places_of(candidates.own, items)
    nothing = np.zeros(others_Bn.shape, np.float32)
    return replace(
        candidates,
        rows=np.concatenate([candidates.rows, places], axis=1),
        rows_hit=np.concatenate([candidates.rows_hit, hit], axis=1),
        log_expected_rows=np.concatenate([candidates.log_expected_rows, nothing], axis=1),
        own_rows=np.concatenate([candidates.own_rows, own_rows], axis=1),
        in_order=False,
    )


def _places_of(own: OwnItems, items_Bn: Int64Array) -> Int64Array:
    """int64[B, n] places in `own` of items of its rows, -1 for an item that is none."""
    if not items_Bn.shape[1]:
        return np.empty(items_Bn.shape, np.int64)
    return np.stack([place_of(own, column) for column in items_Bn.T.astype(np.int32)], axis=1)


def _hard(
    config: ModelConfig, batch: Samples, offline_Bn: Int64Array | None, negatives: Negatives
) -> Int64Array:
    """Hard negatives of every row, int64[B, n] entries, -1 = none."""
    parts: list[Int64Array] = []
    # Where a loss mixes them in, there have to be enough for any row's share.
    n = config.negatives_per_row if config.loss in PER_ROW_LOSSES else config.hard_per_row
    if negatives.rejects is not None:
        parts.append(
            negatives.rejects.draw(
                batch.user, n, batch.ts_ms, batch.sequence, negatives.salt, config.harder_share
            )
        )
    if offline_Bn is not None:
        parts.append(offline_Bn)
    return np.concatenate(parts, axis=1) if parts else np.empty((len(batch), 0), np.int64)


def _shared(config: ModelConfig, targets: Int64Array, negatives: Negatives, step: int) -> Int64Array:
    """Shared negatives int64[K]."""
    if config.loss in PER_ROW_LOSSES:
        return np.empty(0, np.int64)
    if negatives.sampler is None:
        return targets[: config.negatives]
    return negatives.sampler.draw(config.negatives, step)


def _add(
    parts: list[Int64Array],
    own_parts: list[Int64Array],
    expected_parts: list[Float32Array],
    entries_Bn: Int64Array,
    own_Bn: Int64Array | None = None,
    log_expected_Bn: Float32Array | None = None,
) -> None:
    """Append one source of negatives of each row."""
    parts.append(entries_Bn)
    own_parts.append(np.full(entries_Bn.shape, -1, np.int64) if own_Bn is None else own_Bn)
    expected_parts.append(
        np.zeros(entries_Bn.shape, np.float32) if log_expected_Bn is None else log_expected_Bn
    )
