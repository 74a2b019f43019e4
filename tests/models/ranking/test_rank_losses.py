"""Losses against hand-derived values and gradients."""

import numpy as np
import pytest
import torch

from models.ranking.losses import (
    log_probabilities,
    loss_weights,
    ordering_score,
    step_losses,
    task_losses,
    watch_loss,
    watched_seconds,
)
from tests.models.ranking.ranking_data import TASKS, config

SEQUENCE = (TASKS[0], {**TASKS[1], "after": "click"}, {**TASKS[2], "after": "long_view"})


def drawn(n=40, heads=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, heads, generator=generator, dtype=torch.float64)
    labels = (torch.rand(n, 3, generator=generator) < 0.4).double()
    seconds = 30 * torch.rand(n, generator=generator, dtype=torch.float64)
    return logits, labels, seconds


def test_cross_entropy_of_every_task():
    logits, labels, _ = drawn()
    p = torch.sigmoid(logits)
    expected = -(labels * p.log() + (1 - labels) * (1 - p).log()).mean(0)
    torch.testing.assert_close(task_losses(config(), logits, labels), expected)


def test_task_sequence_multiplies_probabilities():
    logits, labels, _ = drawn()
    labels = labels.cumprod(1)
    p = torch.sigmoid(logits).cumprod(1)
    made = config(tasks=SEQUENCE)
    torch.testing.assert_close(log_probabilities(made, logits).exp(), p)
    expected = -(labels * p.log() + (1 - labels) * (1 - p).log()).mean(0)
    torch.testing.assert_close(task_losses(made, logits, labels), expected)


def test_weighted_logistic_gradient_by_hand():
    """d/d logit of -(y s log p + (1 - y) log(1 - p)) is p - y (s (1 - p) + p): -s (1 - p), or p."""
    logits, labels, seconds = drawn(heads=1)
    logit, y = logits[:, 0].requires_grad_(), labels[:, 0]
    watch_loss(logit, y, seconds).backward()
    p = torch.sigmoid(logit.detach())
    torch.testing.assert_close(logit.grad, torch.where(y > 0, -seconds * (1 - p), p) / len(y))


def test_odds_are_watch_time_per_negative_and_watch_time_per_impression_follows():
    _, labels, seconds = drawn(400)
    y = labels[:, 0]
    logit = torch.zeros((), dtype=torch.float64, requires_grad=True)
    newton = 0.0
    for _ in range(60):  # to the minimum over one constant logit
        loss = watch_loss(logit.expand(400), y, seconds)
        (gradient,) = torch.autograd.grad(loss, logit, create_graph=True)
        (curvature,) = torch.autograd.grad(gradient, logit)
        newton = float(gradient.detach() / curvature)
        logit = (logit - newton).detach().requires_grad_()
    np.testing.assert_allclose(logit.detach().exp().item(), float((y * seconds).sum() / (1 - y).sum()))
    click = torch.logit(y.mean())  # a click head that knows the rate
    logits = torch.stack([click, logit.detach()]).expand(400, 2)
    made = config("weighted_lr", tasks=TASKS[:1])
    np.testing.assert_allclose(watched_seconds(made, logits)[0].item(), (y * seconds).mean().item())


@pytest.mark.parametrize("tasks", [TASKS, SEQUENCE], ids=["apart", "sequence"])
def test_gradients_are_those_of_finite_differences(tasks):
    made = config("weighted_lr", tasks=tasks)
    logits, labels, seconds = drawn(6, heads=4)
    labels = labels.cumprod(1)

    def loss(x):
        return (step_losses(made, x, labels, seconds) * loss_weights(made).double()).sum()

    assert torch.autograd.gradcheck(loss, logits.requires_grad_())
    assert loss_weights(made).tolist() == [1.0, 0.5, 1.0, pytest.approx(0.02)]


@pytest.mark.parametrize("size", [1e4, -1e4])
@pytest.mark.parametrize("tasks", [TASKS, SEQUENCE], ids=["apart", "sequence"])
def test_wild_logits_stay_finite(size, tasks):
    made = config("weighted_lr", tasks=tasks)
    logits = torch.full((4, 4), size, requires_grad=True)
    labels = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]])
    losses = step_losses(made, logits, labels, torch.tensor([0.0, 1.0, 2.0, 600.0]))
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    assert torch.isfinite(logits.grad).all()
    seconds = watched_seconds(made, logits.detach())
    assert ((seconds >= 0) & (seconds <= 600)).all()


def test_blend_by_sum_and_product():
    p, seconds = torch.tensor([[0.5, 0.2, 0.1], [0.1, 0.1, 0.1]]), torch.tensor([10.0, 0.0])
    tasks = ({**TASKS[0], "blend": 2.0}, {**TASKS[1], "blend": 0.0}, {**TASKS[2], "blend": 1.0})
    watch = {"blend": 0.5}
    made = config("weighted_lr", tasks=tasks, watch=watch)
    torch.testing.assert_close(ordering_score(made, p, seconds), torch.tensor([6.1, 0.3]))
    made = config("weighted_lr", tasks=tasks, watch=watch, blend="product")
    torch.testing.assert_close(ordering_score(made, p, seconds), torch.tensor([0.025 * 10**0.5, 0.0]))


def test_watch_time_needs_its_head():
    with pytest.raises(ValueError, match="section watch"):
        watched_seconds(config("mmoe"), torch.zeros(2, 3))
