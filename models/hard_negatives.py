"""Hard negatives: what later stages turned down, the batch's most similar others, the model's middle ranks.

Never items that were shown and not clicked: they were retrieved because they fit (Huang et al., KDD 2020).

Shapes: B rows, D width, n negatives of a row.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models import reject_kernels
from models.arrays import BoolArray, Float32Array, Int32Array, Int64Array, Tensors, UInt8Array
from models.samplers import uniform_by_key

STAGES = ("prerank", "rank")
"""Who turned an item down, by code: 0 pre-ranking (hard), 1 ranking (harder)."""


class HardNegatives:
    """Rejected (user, item) pairs with stage, rank and time, sorted by user, stage and time.

    User and item are entries of one Learner's ID tables. One writer; reads never change it.
    """

    def __init__(self) -> None:
        self._group = np.empty(0, np.int64)  # 2 * user + stage
        self._ts_ms = np.empty(0, np.int64)
        self._item = np.empty(0, np.int32)
        self._rank = np.empty(0, np.int32)

    def __len__(self) -> int:
        return len(self._ts_ms)

    def observe(
        self,
        user: Int32Array,
        item: Int32Array,
        stage: UInt8Array,
        rank: Int32Array,
        ts_ms: Int64Array,
    ) -> None:
        """Take in rejects of N pairs in any order; stage: a place in STAGES. Unknown IDs (-1) are skipped.

        ValueError for another stage.
        """
        if len(stage) and stage.max() >= len(STAGES):
            raise ValueError(f"rejects: stage {stage.max()}: expected 0 ({STAGES[0]}) or 1 ({STAGES[1]})")
        known = (user >= 0) & (item >= 0)
        group: Int64Array = 2 * user[known].astype(np.int64) + stage[known]
        order = np.lexsort((ts_ms[known], group))
        merged = np.empty(len(self) + len(order), np.int64)
        reject_kernels.merge(self._group, self._ts_ms, group[order], ts_ms[known][order], merged)
        self._group = np.concatenate([self._group, group[order]])[merged]
        self._ts_ms = np.concatenate([self._ts_ms, ts_ms[known][order]])[merged]
        self._item = np.concatenate([self._item, item[known][order].astype(np.int32)])[merged]
        self._rank = np.concatenate([self._rank, rank[known][order].astype(np.int32)])[merged]

    def remove(self, user: Int32Array, item: Int32Array) -> None:
        """Forget pairs int32[N] that turned out positive, at both stages.

        Call it after observe() of the same stretch, or the rejects that preceded the action come in again.
        """
        acted = np.unique(_pair(user.astype(np.int64), item))
        self._keep(~np.isin(_pair(self._group >> 1, self._item), acted))

    def drop_users(self, entries: Int64Array) -> None:
        """Forget the rejects of expired users."""
        self._keep(~np.isin(self._group >> 1, entries))

    def drop_items(self, entries: Int64Array) -> None:
        """Forget the rejects of expired items."""
        self._keep(~np.isin(self._item, entries))

    def trim(self, before_ms: int) -> None:
        """Forget rejects older than `before_ms`."""
        self._keep(self._ts_ms >= before_ms)

    def draw(
        self,
        user: Int32Array,
        n: int,
        before_ms: Int64Array,
        keys: Int64Array,
        salt: int,
        harder_share: float,
    ) -> Int64Array:
        """Items of n rejects of every row's user older than before_ms int64[B]: int64[B, n], -1 = none.

        Without repeating a reject; `harder_share` of them from ranking, the rest from pre-ranking, and from
        the other stage where one has too few. A pure function of the pool and (key, salt).
        """
        drawn = np.full((len(user), n), -1, np.int64)
        reject_kernels.draw(
            self._group, self._ts_ms, self._item, user.astype(np.int64), before_ms, keys, salt, harder_share,
            drawn,
        )  # fmt: skip
        return drawn

    def state(self) -> Tensors:
        """Everything from_state() needs."""
        return {
            "group": self._group.copy(),
            "ts_ms": self._ts_ms.copy(),
            "item": self._item.copy(),
            "rank": self._rank.copy(),
        }

    @classmethod
    def from_state(cls, state: Tensors) -> HardNegatives:
        """The pool that state() described."""
        pool = cls()
        pool._group, pool._ts_ms = np.array(state["group"], np.int64), np.array(state["ts_ms"], np.int64)
        pool._item, pool._rank = np.array(state["item"], np.int32), np.array(state["rank"], np.int32)
        return pool

    def _keep(self, kept: BoolArray) -> None:
        self._group, self._ts_ms = self._group[kept], self._ts_ms[kept]
        self._item, self._rank = self._item[kept], self._rank[kept]


def online_hard(
    u_BD: Tensor, v_BD: Tensor, item_B: Int64Array, n: int = 2, user_B: Int64Array | None = None
) -> Int64Array:
    """The n most similar other positives of the batch: places int64[B, n] in it, -1 = none left.

    v_BD: the rows' own items; item_B: their identities, so that neither the row's item nor one item twice is
    taken; user_B: with it, nor is another positive of the same user (Huang et al., KDD 2020, section 6.1: at
    most two).
    """
    with torch.no_grad():
        score_BB = u_BD @ v_BD.T
    barred = item_B[:, None] == item_B[None, :]
    if user_B is not None:
        # Not only the user's other rows: their items, wherever in the batch they stand.
        users, row = np.unique(user_B, return_inverse=True)
        items, column = np.unique(item_B, return_inverse=True)
        acted = np.zeros((len(users), len(items)), np.bool_)
        acted[row, column] = True
        acted[users < 0] = False  # nobody known: not one user
        barred |= acted[row][:, column]
    again = np.ones(len(item_B), np.bool_)
    again[np.unique(item_B, return_index=True)[1]] = False
    score_BB.masked_fill_(torch.from_numpy(barred | again), float("-inf"))
    best, place_Bn = torch.topk(score_BB, min(n, len(item_B)), dim=1)
    places = np.full((len(item_B), n), -1, np.int64)
    places[:, : best.shape[1]] = torch.where(torch.isfinite(best), place_Bn, -1).numpy()
    return places


def offline_hard(
    scores: Float32Array,
    target: Int64Array,
    ranks: tuple[int, int],
    n: int,
    keys: Int64Array,
    salt: int,
) -> Int64Array:
    """Items at `ranks` (first, last; from 1) of each row's own results: int64[N, n], -1 = none.

    scores: float32[N, items] of the model, -inf for what it cannot answer. Never the row's target int64[N];
    drawn without replacement, a pure function of scores and (key, salt). Ranks 101 to 500 were best (Huang
    et al., KDD 2020, section 6.1).
    """
    first, last = ranks
    best, items = torch.topk(torch.from_numpy(scores), min(last, scores.shape[1]), dim=1)
    band = items[:, first - 1 :].numpy()
    possible = np.isfinite(best[:, first - 1 :].numpy()) & (band != target[:, None])
    ticket = uniform_by_key(keys[:, None] * last + np.arange(band.shape[1]), salt)
    order = np.argsort(np.where(possible, ticket, 2.0), axis=1, kind="stable")[:, :n]
    picks = np.full((len(scores), n), -1, np.int64)
    chosen = np.where(
        np.take_along_axis(possible, order, axis=1), np.take_along_axis(band, order, axis=1), -1
    )
    picks[:, : chosen.shape[1]] = chosen
    return picks


def mixed(
    easy_Bn: Int64Array, hard_Bm: Int64Array, mix: tuple[int, int], keys: Int64Array, salt: int
) -> tuple[Int64Array, BoolArray]:
    """Negatives of which easy:hard = mix on average: (items int64[B, n], bool[B, n] True where hard).

    n * hard / (easy + hard) of a row's places are hard, the fraction by (key, salt); a row with too few hard
    ones (-1) keeps easy ones. hard_Bm: at least that many columns, or ValueError.
    """
    n = easy_Bn.shape[1]
    share = mix[1] / (mix[0] + mix[1])
    wanted_B = np.floor(n * share + uniform_by_key(keys, salt)).astype(np.int64)
    if hard_Bm.shape[1] < min(n, np.ceil(n * share)):
        raise ValueError(
            f"mix {mix[0]}:{mix[1]} of {n}: expected {int(np.ceil(n * share))} hard negatives a row to take "
            f"from, got {hard_Bm.shape[1]}"
        )
    hard = np.zeros(easy_Bn.shape, np.bool_)
    items = easy_Bn.copy()
    # The hard ones that exist come first, in their order.
    offered = np.take_along_axis(hard_Bm, np.argsort(hard_Bm < 0, axis=1, kind="stable"), axis=1)[:, :n]
    m = offered.shape[1]
    hard[:, :m] = (np.arange(m) < wanted_B[:, None]) & (offered >= 0)
    items[:, :m] = np.where(hard[:, :m], offered, items[:, :m])
    return items, hard


def _pair(user: Int64Array, item: Int32Array) -> Int64Array:
    return user << 32 | item.astype(np.int64)
