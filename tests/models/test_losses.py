import numpy as np
import pytest
import torch

from models.losses import in_batch_softmax, sampled_softmax
from models.samplers import UnigramSampler


def test_in_batch_softmax_by_hand():
    # u.v/tau = [[1, 0], [0, 2]]; log q = log(.5), log(.25)
    u, v = torch.tensor([[0.5, 0.0], [0.0, 1.0]]), torch.eye(2)
    q = np.array([0.5, 0.25])
    loss = in_batch_softmax(
        u, v, torch.tensor(np.log(q), dtype=torch.float32), torch.tensor([1, 2]), torch.ones(2), 0.5
    )
    first = -np.log((np.e / 0.5) / (np.e / 0.5 + 1 / 0.25))
    second = -np.log((np.e**2 / 0.25) / (np.e**2 / 0.25 + 1 / 0.5))
    assert float(loss) == pytest.approx((first + second) / 2, rel=1e-6)


def test_weights_are_shares():
    torch.manual_seed(0)
    u, v, q, items = torch.randn(3, 4), torch.randn(3, 4), torch.zeros(3), torch.arange(3)
    only = [
        float(in_batch_softmax(u, v, q, items, torch.tensor([float(i == j) for j in range(3)]), 1.0))
        for i in range(3)
    ]
    mixed = float(in_batch_softmax(u, v, q, items, torch.tensor([1.0, 2.0, 5.0]), 1.0))
    assert mixed == pytest.approx((only[0] + 2 * only[1] + 5 * only[2]) / 8, rel=1e-5)


@pytest.mark.parametrize("negatives", [None, 3])
def test_gradient_is_the_numeric_one(negatives):
    generator = torch.Generator().manual_seed(1)
    u, v = (torch.randn(5, 4, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    q = torch.rand(5, generator=generator, dtype=torch.float64).log()
    weight = torch.rand(5, generator=generator, dtype=torch.float64)
    items = torch.tensor([3, 1, 3, 2, 0])
    assert torch.autograd.gradcheck(
        lambda a, b: in_batch_softmax(a, b, q, items, weight, 0.3, negatives), (u, v)
    )


def test_accidental_hits_are_no_negatives():
    torch.manual_seed(0)
    u, v = torch.randn(3, 4), torch.randn(3, 4)
    q = torch.zeros(3)
    v[2] = v[0]
    repeated = in_batch_softmax(u[:1], v[:1], q[:1], torch.tensor([7]), torch.ones(1), 1.0)
    assert float(repeated) == pytest.approx(0.0)  # alone with itself
    weight = torch.tensor([1.0, 0.0, 0.0])
    with_hit = in_batch_softmax(u, v, q, torch.tensor([7, 8, 7]), weight, 1.0)
    without = in_batch_softmax(u[:2], v[:2], q[:2], torch.tensor([7, 8]), weight[:2], 1.0)
    assert float(with_hit) == pytest.approx(float(without), rel=1e-6)


def test_sampled_softmax_with_all_items_and_their_counts_is_the_full_softmax():
    # Every item drawn once with expected count 1: the sampled loss is the full softmax over all items.
    torch.manual_seed(0)
    u, items = torch.randn(4, 8), torch.randn(10, 8)
    positive = torch.tensor([2, 5, 5, 9])
    hits = positive[:, None] == torch.arange(10)[None, :]
    loss = sampled_softmax(u, items[positive], items, torch.zeros(4), torch.zeros(10), hits, torch.ones(4))
    full = torch.nn.functional.cross_entropy(u @ items.T, positive)
    assert float(loss) == pytest.approx(float(full), rel=1e-5)


def test_expected_counts_are_subtracted():
    u, v, negatives = (
        torch.tensor([[1.0, 0.0]]),
        torch.tensor([[2.0, 0.0]]),
        torch.tensor([[1.0, 0.0], [0.5, 0.0]]),
    )
    expected_positive, expected_negatives = np.log([0.2]), np.log([0.5, 3.0])
    loss = sampled_softmax(
        u,
        v,
        negatives,
        torch.tensor(expected_positive, dtype=torch.float32),
        torch.tensor(expected_negatives, dtype=torch.float32),
        torch.zeros(1, 2, dtype=torch.bool),
        torch.ones(1),
    )
    parts = np.exp([2 - expected_positive[0], 1 - expected_negatives[0], 0.5 - expected_negatives[1]])
    assert float(loss) == pytest.approx(-np.log(parts[0] / parts.sum()), rel=1e-5)


def test_unigram_sampler_draws_what_it_says():
    entries, counts = np.array([4, 9, 2]), np.array([1, 16, 81])
    sampler = UnigramSampler(entries, counts, 10, 0.5, seed=3)
    expected = np.exp(sampler.log_expected(entries, 130_000))
    np.testing.assert_allclose(expected, [10_000, 40_000, 90_000] / np.float64(140_000) * 130_000, rtol=1e-5)
    drawn = sampler.draw(130_000, step=1)
    np.testing.assert_allclose([(drawn == entry).sum() for entry in entries], expected, rtol=0.05)
    assert drawn.tolist() == sampler.draw(130_000, step=1).tolist()
    assert drawn.tolist() != sampler.draw(130_000, step=2).tolist()
    with pytest.raises(ValueError, match="no items"):
        UnigramSampler(entries[:0], counts[:0], 10, 1.0, 0)


def test_a_batch_without_weight_teaches_nothing():
    u_BD = torch.randn(4, 4, requires_grad=True)
    loss = in_batch_softmax(u_BD, u_BD, torch.zeros(4), torch.arange(4), torch.zeros(4), 0.07)
    loss.backward()
    assert loss.item() == 0
    assert u_BD.grad.abs().max() == 0
