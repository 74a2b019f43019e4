"""Losses of the recall models, all on logits and all weighted means over the rows of a batch.

Logits are scores already divided by the temperature, with any sampling correction (logQ, log expected count)
already subtracted, so that a loss knows nothing of towers or samplers. Each loss takes

    positive_B or positive_BT: logits of the row's own item(s);
    negative_BK: logits of its negatives, shared by the batch or its own;
    hit_BK: bool, True where a "negative" is one of the row's own items (left out);
    weight_B: weight of the row.

Hierarchical softmax is not offered: its tree has to hold every item before training (items arrive every
hour), its probability is a product along a path and not an inner product that an index can search, and its
nodes tell apart sets of unrelated items (Covington et al., RecSys 2016, section 3.1: less accurate than
sampling).

Shapes: B rows, T positives of a row, K negatives.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus


def weighted_mean(loss_B: Tensor, weight_B: Tensor) -> Tensor:
    """Sum of loss * weight by sum of weights; zero (and no gradient) for a batch that weighs nothing."""
    return (loss_B * weight_B).sum() / weight_B.sum().clamp_min(1e-12)


def corrected_softmax(
    positive: Tensor, negative_BK: Tensor, hit_BK: Tensor, weight_B: Tensor, true_BT: Tensor | None = None
) -> Tensor:
    """Cross-entropy of the positives, 1/T of the label each, among themselves and the negatives.

    positive: [B] or [B, T]; true_BT: bool, False where a row has fewer than T positives (the label is then
    shared by those it has; a row without any teaches nothing). Sampled softmax (Jean et al., 2015) with
    corrected logits; in-batch softmax with logQ (Yi et al., RecSys 2019) when the negatives are the batch's
    own items.
    """
    positive_BT, known_BT, weight_B = _positives(positive, true_BT, weight_B)
    if positive.dim() == 1:
        target_B, logit_BT = positive_BT[:, 0], positive_BT
    else:
        label_BT = known_BT / known_BT.sum(1, keepdim=True).clamp_min(1)
        logit_BT = positive_BT.masked_fill(~known_BT, 0.0)
        target_B = (logit_BT * label_BT).sum(1)
        # A row without positives keeps one finite logit: without any its gradient would be nan.
        logit_BT = logit_BT.masked_fill(~known_BT & known_BT.any(1, keepdim=True), float("-inf"))
    call: Any = _LogPartition.apply  # untyped
    log_partition_B: Tensor = call(logit_BT, negative_BK, hit_BK)
    return weighted_mean(log_partition_B - target_B, weight_B)


_TINY = 1e-30
"""A smaller share may have lost digits, or be none at all."""


class _LogPartition(torch.autograd.Function):
    """logsumexp over a row's positives and negatives, [B], without the hits.

    Its gradient, the softmax, is what the forward pass made. Written out because the logits are the largest
    thing of a step: every pass over them costs as much as a layer of a tower.
    """

    @staticmethod
    def forward(ctx: Any, positive_BT: Tensor, negative_BK: Tensor, hit_BK: Tensor) -> Tensor:
        t, k = positive_BT.shape[1], max(1, hit_BK.shape[1])
        logits = torch.cat([positive_BT, negative_BK], dim=1)
        row, place = np.divmod(np.flatnonzero(hit_BK.numpy()), k)  # few, and a mask would be two more passes
        logits[torch.from_numpy(row), torch.from_numpy(place + t)] = float("-inf")
        share = torch.softmax(logits, dim=1)
        ctx.positives = t
        ctx.save_for_backward(share)
        likely = share[:, 0]
        if likely.min() > _TINY:  # any item's logit less the log of its share
            return logits[:, 0] - likely.log()
        return logits.amax(1) - share.amax(1).log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_B: Tensor) -> tuple[Tensor | None, ...]:
        (share,) = ctx.saved_tensors
        gradient = share * gradient_B[:, None]
        return gradient[:, : ctx.positives], gradient[:, ctx.positives :], None


def listwise(positive_B: Tensor, negative_BK: Tensor, hit_BK: Tensor, weight_B: Tensor) -> Tensor:
    """Cross-entropy over one positive and its n negatives, uncorrected (Huang et al., CIKM 2013)."""
    return corrected_softmax(positive_B, negative_BK, hit_BK, weight_B)


def nce_loss(
    positive: Tensor, negative_BK: Tensor, hit_BK: Tensor, weight_B: Tensor, true_BT: Tensor | None = None
) -> Tensor:
    """Noise-contrastive estimation: target or drawn by the sampler? Summed over a row's items.

    Logits have log expected counts subtracted. positive: [B] or [B, T], 1/T of the label each; true_BT as in
    corrected_softmax (Gutmann and Hyvärinen, 2010; Mnih and Teh, 2012).
    """
    positive_BT, true_BT, weight_B = _positives(positive, true_BT, weight_B)
    label_BT = true_BT / true_BT.sum(1, keepdim=True).clamp_min(1)
    true_loss_BT = softplus(positive_BT) - label_BT * positive_BT
    loss_B = true_loss_BT.masked_fill(~true_BT, 0.0).sum(1)
    return weighted_mean(loss_B + softplus(negative_BK).masked_fill(hit_BK, 0.0).sum(1), weight_B)


def pointwise_bce(
    positive_B: Tensor, negative_BK: Tensor, hit_BK: Tensor, weight_B: Tensor, bias: Tensor | float = 0.0
) -> Tensor:
    """Binary cross-entropy of sigmoid(logit + bias), mean over a row's positive and its negatives.

    The logits must be scaled similarities (gamma * cos): sigmoid(cos) never exceeds 0.73, so that a raw
    cosine cannot fit a positive. bias: the shift c, learned or fixed. Take 2 or 3 negatives per row.
    """
    negative_loss_BK = softplus(negative_BK + bias).masked_fill(hit_BK, 0.0)
    examples_B = 1 + (~hit_BK).sum(1)
    return weighted_mean((softplus(-(positive_B + bias)) + negative_loss_BK.sum(1)) / examples_B, weight_B)


def pairwise_hinge(
    positive_B: Tensor, negative_BK: Tensor, hit_BK: Tensor, weight_B: Tensor, margin: float
) -> Tensor:
    """max(0, negative - positive + margin), mean over a row's negatives (Huang et al., KDD 2020).

    margin: in units of the logits; give cosines themselves as logits for the published margins.
    """
    return _pairwise((negative_BK - positive_B[:, None] + margin).clamp_min(0.0), hit_BK, weight_B)


def pairwise_logistic(
    positive_B: Tensor, negative_BK: Tensor, hit_BK: Tensor, weight_B: Tensor, sigma: float = 1.0
) -> Tensor:
    """log(1 + exp(sigma * (negative - positive))), mean over a row's negatives (BPR with a scale)."""
    return _pairwise(softplus(sigma * (negative_BK - positive_B[:, None])), hit_BK, weight_B)


def _pairwise(loss_BK: Tensor, hit_BK: Tensor, weight_B: Tensor) -> Tensor:
    pairs_B = (~hit_BK).sum(1).clamp_min(1)
    return weighted_mean(loss_BK.masked_fill(hit_BK, 0.0).sum(1) / pairs_B, weight_B)


def _positives(positive: Tensor, true_BT: Tensor | None, weight_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(positives [B, T], which of them are real, weights with rows that have none at zero)."""
    positive_BT = positive.unsqueeze(1) if positive.dim() == 1 else positive
    if true_BT is None:
        return positive_BT, torch.ones_like(positive_BT, dtype=torch.bool), weight_B
    return positive_BT, true_BT, weight_B * true_BT.any(1)
