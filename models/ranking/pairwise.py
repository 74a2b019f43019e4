"""Ranking within a user: a loss over pairs of impressions, and passes that have them in one batch.

A group is a user's rows of one stretch. In a pair over two stretches the user's counts of the later row hold
the label of the earlier one, so the pair would teach to distrust them: the row that follows a click is the
one without. Candidates of a request read the same counts of their user.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from models.arrays import Int64Array
from models.ranking.losses import task_log_odds
from models.ranking.rank_config import RankConfig

_TOGETHER = 4
"""Rows of a group that stand side by side: of a user with many, all at once would be batches of one user."""


def groups_shuffled(random: np.random.Generator, group: Int64Array) -> Int64Array:
    """int64[N] positions of rows by group (int64[N], -1 = none) in random order: drawn from a group up to
    _TOGETHER rows at a time, which stay side by side; a row without a group stands alone.
    """
    rows = random.permutation(len(group))
    rows = rows[np.argsort(group[rows], kind="stable")]
    of = group[rows]
    begins = np.r_[True, of[1:] != of[:-1]][: len(of)]
    starts = np.flatnonzero(begins)
    place = np.arange(len(of)) - starts[np.cumsum(begins) - 1]
    piece = np.cumsum((place % _TOGETHER == 0) | (of < 0)) - 1
    order: Int64Array = rows[np.argsort(random.permutation(len(of))[piece], kind="stable")]
    return order


def group_pairs(group_B: Tensor) -> tuple[Tensor, Tensor]:
    """Places (int64[P], int64[P]) of all pairs, first < second, of rows of one group. group_B: int64[B], the
    rows of a group side by side; -1 = none, which has no pairs.
    """
    n = len(group_B)
    rows = torch.unique_consecutive(group_B, return_counts=True)[1]
    ends = rows.cumsum(0).repeat_interleave(rows)
    following = torch.where(group_B >= 0, ends - torch.arange(n) - 1, 0)
    first = torch.arange(n).repeat_interleave(following)
    before = (following.cumsum(0) - following).repeat_interleave(following)
    return first, first + 1 + torch.arange(len(first)) - before


def pair_losses(config: RankConfig, logits_BH: Tensor, labels_BT: Tensor, group_B: Tensor) -> Tensor:
    """[T] how badly each task orders positives before negatives of their group: of every group with both, the
    mean over those pairs of softplus(negative's log-odds - positive's), times the group's rows; the sum of
    these over B. Groups weigh as users do in GAUC (the loss of a pair: Rendle et al., BPR, UAI 2009).
    group_B: as for group_pairs().
    """
    first, second = group_pairs(group_B)
    _, number, rows = torch.unique_consecutive(group_B, return_inverse=True, return_counts=True)
    losses = []
    for log_odds, labels in zip(task_log_odds(config, logits_BH).T, labels_BT.T, strict=True):
        way = labels[first] - labels[second]
        told = way != 0
        a, b, way = first[told], second[told], way[told]
        of = number[a]
        pairs = torch.bincount(of, minlength=len(rows))
        weights = rows[of].to(log_odds.dtype) / pairs[of]
        losses.append((weights * softplus(way * (log_odds[b] - log_odds[a]))).sum() / len(labels))
    return torch.stack(losses)
