"""Losses of the recall models: in-batch softmax with logQ correction, and sampled softmax.

Shapes: B rows, K negatives, D width.
"""

import torch
from torch import Tensor


def corrected_softmax(positive_B: Tensor, negative_BK: Tensor, hit_BK: Tensor, weight_B: Tensor) -> Tensor:
    """Weighted mean of -log softmax of the positive among itself and its negatives.

    positive_B, negative_BK: corrected logits; hit_BK: bool, True where a negative is the row's own item
    (left out).
    """
    negative_BK = negative_BK.masked_fill(hit_BK, float("-inf"))
    logits = torch.cat([positive_B.unsqueeze(1), negative_BK], dim=1)
    loss_B = torch.logsumexp(logits, dim=1) - positive_B
    # A batch in which nothing weighs anything teaches nothing.
    return (loss_B * weight_B).sum() / weight_B.sum().clamp_min(1e-12)


def in_batch_softmax(
    u_BD: Tensor,
    v_BD: Tensor,
    log_q_B: Tensor,
    item_B: Tensor,
    weight_B: Tensor,
    tau: float,
    negatives: int | None = None,
) -> Tensor:
    """In-batch softmax, s = u.v/tau - log q(item), accidental hits masked (Yi et al., RecSys 2019, section
    3).

    u_BD, v_BD: the row's user and its own item; log_q_B: log of the item's share of targets; item_B: int64
    identities.
    negatives: only the first so many rows' items serve as negatives (None = all): B x B is slow for a large
    B.
    """
    v_KD, q_K, item_K = v_BD[:negatives], log_q_B[:negatives], item_B[:negatives]
    positive_B = (u_BD * v_BD).sum(1) / tau - log_q_B
    negative_BK = u_BD @ v_KD.T / tau - q_K
    return corrected_softmax(positive_B, negative_BK, item_B[:, None] == item_K[None, :], weight_B)


def sampled_softmax(
    u_BD: Tensor,
    v_BD: Tensor,
    v_KD: Tensor,
    log_expected_B: Tensor,
    log_expected_K: Tensor,
    hit_BK: Tensor,
    weight_B: Tensor,
    tau: float = 1.0,
) -> Tensor:
    """Sampled softmax with K shared negatives; log expected counts under the sampler are subtracted (Jean et
    al., 2015).

    log_expected_B / _K: log of how often the sampler is expected to draw the positive / the negative.
    """
    positive_B = (u_BD * v_BD).sum(1) / tau - log_expected_B
    negative_BK = u_BD @ v_KD.T / tau - log_expected_K
    return corrected_softmax(positive_B, negative_BK, hit_BK, weight_B)
