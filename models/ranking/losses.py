"""Losses of a ranker's heads, and what their logits mean."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from models.ranking.rank_config import RankConfig

_SMALLEST = 1e-7
"""Probabilities are kept this far from 1 where they were multiplied: log(1 - p) has a bound then."""


def log_probabilities(config: RankConfig, logits_BH: Tensor) -> Tensor:
    """[B, T] log p of the tasks; of one with `after` that of both: log p(after) + log p(this | after)."""
    found: list[Tensor] = []
    for place, task in enumerate(config.tasks):
        own = logsigmoid(logits_BH[:, place])
        found.append(own + found[config.names.index(task.after)] if task.after else own)
    return torch.stack(found, dim=1)


def task_log_odds(config: RankConfig, logits_BH: Tensor) -> Tensor:
    """[B, T] log(p / (1 - p)) of log_probabilities(): the logit itself of a task without `after`."""
    joint_BT = log_probabilities(config, logits_BH).clamp(max=math.log1p(-_SMALLEST))
    found = [
        joint_BT[:, place] - torch.log1p(-joint_BT[:, place].exp()) if task.after else logits_BH[:, place]
        for place, task in enumerate(config.tasks)
    ]
    return torch.stack(found, dim=1)


def task_losses(config: RankConfig, logits_BH: Tensor, labels_BT: Tensor) -> Tensor:
    """[T] mean binary cross-entropy of each task; through the product of probabilities for one with `after`
    (ESMM's loss over the entire space of impressions).
    """
    joint_BT = log_probabilities(config, logits_BH)
    losses = []
    for place, task in enumerate(config.tasks):
        logits, labels = logits_BH[:, place], labels_BT[:, place]
        if task.after:
            log_p = joint_BT[:, place].clamp(max=math.log1p(-_SMALLEST))
            losses.append(-(labels * log_p + (1 - labels) * torch.log1p(-log_p.exp())).mean())
        else:
            losses.append((softplus(logits) - labels * logits).mean())
    return torch.stack(losses)


def watch_loss(logits_B: Tensor, positive_B: Tensor, seconds_B: Tensor) -> Tensor:
    """Mean over rows of -(y s log p + (1 - y) log(1 - p)), p = sigmoid(logit): a positive weighs its watch
    time s, a negative 1, so that the odds e^logit become the sum of s over the number of negatives.
    """
    return (positive_B * seconds_B * softplus(-logits_B) + (1 - positive_B) * softplus(logits_B)).mean()


def step_losses(config: RankConfig, logits_BH: Tensor, labels_BT: Tensor, seconds_B: Tensor) -> Tensor:
    """[H] loss of every head, the watch time's last."""
    losses = task_losses(config, logits_BH, labels_BT)
    if config.watch is None:
        return losses
    positive_B = labels_BT[:, config.names.index(config.watch.click)]
    return torch.cat([losses, watch_loss(logits_BH[:, -1], positive_B, seconds_B)[None]])


def loss_weights(config: RankConfig) -> Tensor:
    """[H] weights of step_losses() in the loss that is minimised."""
    weights = [task.weight for task in config.tasks]
    return torch.tensor(weights + ([config.watch.weight] if config.watch else []))


def watched_seconds(config: RankConfig, logits_BH: Tensor) -> Tensor:
    """[B] expected watch time of an impression: e^logit * (1 - p_click), at most cap_s.

    The odds are sum of s / negatives; times negatives / impressions that is seconds per impression. (The
    paper leaves the second factor out, as its clicks are rare.) ValueError without a watch head.
    """
    watch = config.watch
    if watch is None:
        raise ValueError("watch time: the ranker has no watch head; give its configuration a section watch")
    log_p = log_probabilities(config, logits_BH)[:, config.names.index(watch.click)]
    # min() before exp(): a wild logit gives the cap, not infinity.
    odds = logits_BH[:, -1].clamp(max=math.log(watch.cap_s) + 30.0).exp()
    return (odds * -torch.expm1(log_p)).clamp(max=watch.cap_s)


def ordering_score(config: RankConfig, p_BT: Tensor, seconds_B: Tensor | None) -> Tensor:
    """[B] what candidates are ordered by: sum of blend * value, or product of value ^ blend; values are the
    tasks' probabilities and, where its blend is not 0, the expected watch time in seconds.
    """
    values = [(p_BT[:, place], task.blend) for place, task in enumerate(config.tasks)]
    if config.watch and config.watch.blend and seconds_B is not None:
        values.append((seconds_B, config.watch.blend))
    if config.blend == "sum":
        return torch.stack([value * blend for value, blend in values if blend]).sum(0)
    return torch.stack([value**blend for value, blend in values if blend]).prod(0)
