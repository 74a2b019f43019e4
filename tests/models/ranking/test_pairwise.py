"""Pairs within a user against plain loops, and what a training makes of them."""

import numpy as np
import pytest
import torch

from models.ranking import rank_training
from models.ranking.losses import log_probabilities, task_log_odds
from models.ranking.pairwise import group_pairs, groups_shuffled, pair_losses
from models.ranking.rank_learner import RankLearner
from tests.models.learning_data import DAY_MS, catalogue
from tests.models.ranking.ranking_data import TASKS, config, joined

SEQUENCE = (TASKS[0], {**TASKS[1], "after": "click"}, {**TASKS[2], "after": "long_view"})
GROUPS = torch.tensor([4, 4, 4, 4, -1, -1, 9, 2, 2, 2, 0, 0])


def drawn(seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(GROUPS), 3, generator=generator, dtype=torch.float64)
    labels = (torch.rand(len(GROUPS), 3, generator=generator) < 0.5).double()
    return logits, labels


def plain(scores, labels, group):
    """Every user's mean over pairs, positive and negative, times the user's rows, by definition."""
    total = 0.0
    for one in set(group) - {-1}:
        rows = [at for at, of in enumerate(group) if of == one]
        losses = [
            np.log1p(np.exp(scores[b] - scores[a])) for a in rows for b in rows if labels[a] > labels[b]
        ]
        total += len(rows) * sum(losses) / max(len(losses), 1)
    return total / len(group)


def test_pairs_are_those_of_one_group():
    first, second = group_pairs(GROUPS)
    group = GROUPS.tolist()
    expected = [(a, b) for a in range(12) for b in range(a + 1, 12) if group[a] == group[b] and group[a] >= 0]
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == expected
    assert len(group_pairs(torch.full((3,), -1))[0]) == 0


@pytest.mark.parametrize("tasks", [TASKS, SEQUENCE], ids=["apart", "sequence"])
@pytest.mark.parametrize("seed", range(4))
def test_loss_is_that_of_plain_loops(tasks, seed):
    logits, labels = drawn(seed)
    made = config(tasks=tasks)
    p = log_probabilities(made, logits).exp()
    expected = [
        plain(torch.logit(p[:, task]).numpy(), labels[:, task].numpy(), GROUPS.tolist()) for task in range(3)
    ]
    found = pair_losses(made, logits, labels, GROUPS)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    assert (found > 0).all()


@pytest.mark.parametrize("tasks", [TASKS, SEQUENCE], ids=["apart", "sequence"])
def test_gradient_is_that_of_finite_differences(tasks):
    logits, labels = drawn()
    made = config(tasks=tasks)
    assert torch.autograd.gradcheck(
        lambda x: pair_losses(made, x, labels, GROUPS).sum(), logits.requires_grad_()
    )


def test_what_all_rows_of_a_user_share_does_not_matter():
    logits, labels = drawn()
    shift = torch.randn(10, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    moved = pair_losses(config(), logits + shift[GROUPS], labels, GROUPS)
    torch.testing.assert_close(moved, pair_losses(config(), logits, labels, GROUPS))


def test_users_of_one_class_have_no_loss():
    logits, _ = drawn()
    assert pair_losses(config(), logits, torch.ones(12, 3), GROUPS).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_wild_logits_stay_finite(size):
    logits = (size * torch.tensor([1.0, -1, 0]).repeat(4, 1).T.flatten()[:, None].expand(12, 3)).clone()
    logits.requires_grad_()
    made, labels = config(tasks=SEQUENCE), drawn()[1].float()
    pair_losses(made, logits, labels, GROUPS).sum().backward()
    assert torch.isfinite(task_log_odds(made, logits)).all()
    assert torch.isfinite(logits.grad).all()


def test_shuffled_groups_stay_together_by_four():
    group = np.r_[np.random.default_rng(0).integers(-1, 60, 300), np.full(50, 99)]
    orders = [groups_shuffled(np.random.default_rng(seed), group) for seed in (1, 2)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(350))
        told = group[order]
        starts = np.flatnonzero(np.r_[True, np.diff(told) != 0])
        runs = told[starts]
        for one in set(group) - {-1}:
            size = (group == one).sum()
            assert (runs == one).sum() <= -(-size // 4)
        assert (runs == 99).sum() > 8
        assert (np.diff(np.flatnonzero(told < 0)) > 1).any()  # no group of their own
    inside = [order[group[order] == 99].tolist() for order in orders]
    assert inside[0] != inside[1]
    assert groups_shuffled(np.random.default_rng(0), group[:0]).shape == (0,)


def test_pairs_of_a_training_are_of_one_user_and_stretch(monkeypatch):
    learner = RankLearner.fresh(config("mmoe", pairwise=0.5, batch_size=10_000, author=""), ())
    table = joined(400, users=400, span_ms=3 * DAY_MS)  # so many that nobody has more than four rows a day
    samples = learner.prepare(table, catalogue())
    seen = []

    def kept(made, logits, labels, group):
        seen.append((labels.numpy(), group.numpy()))
        return pair_losses(made, logits, labels, group)

    monkeypatch.setattr(rank_training, "pair_losses", kept)
    learner.train(samples)
    user, day = samples.request[:, 0], samples.emitted_ms // DAY_MS
    expected = {}
    for at in range(400):
        key = (user[at], day[at]) if user[at] >= 0 else (-1, -1)
        expected.setdefault(key, []).append(samples.labels[at].tolist())
    labels, group = seen[0]
    found = [sorted(labels[group == one].tolist()) for one in set(group)]
    assert sorted(found) == sorted(sorted(rows) for rows in expected.values())
    assert sorted(labels[group < 0].tolist()) == sorted(expected[-1, -1])
    assert len({key[1] for key in expected}) > 3


def test_pairs_order_a_user_better():
    """The more they weigh, the better is what was trained on ordered within a user."""
    table, ordered = joined(900, users=10, items=12), []
    for pairwise in (0.0, 1.0, 4.0):
        learner = RankLearner.fresh(config("logistic", pairwise=pairwise, epochs_first=4, author=""), ())
        samples = learner.prepare(table, catalogue())
        learner.train(samples)
        p = learner.predict(table, catalogue())["click"].astype(np.float64)
        scores = np.log(p / (1 - p))
        ordered.append(plain(scores, samples.labels[:, 0], samples.request[:, 0].tolist()))
    assert ordered == sorted(ordered, reverse=True)
