from itertools import pairwise

import numpy as np
import pytest
import torch

from models.embedding import EmbeddingTable


def adagrad(weights, momentum, indices, offsets, factors, gradient, lr, eps=1e-8):
    """Row-wise Adagrad on the sum of a row's gradients, in NumPy."""
    weights, momentum = weights.astype(np.float64), momentum.astype(np.float64)
    total = np.zeros_like(weights)
    for bag in range(len(offsets) - 1):
        for place in range(offsets[bag], offsets[bag + 1]):
            total[indices[place]] += factors[place] * gradient[bag]
    for row in set(indices.tolist()):
        momentum[row] += (total[row] ** 2).mean()
        weights[row] -= lr * total[row] / (np.sqrt(momentum[row]) + eps)
    return weights, momentum


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dim", [1, 8, 64, 84])
def test_update_is_row_wise_adagrad(weighted, dim):
    rng = np.random.default_rng(0)
    table = EmbeddingTable(dim=dim, lr=0.1)
    table.reserve(30)
    table.weights[:] = torch.from_numpy(rng.normal(size=(30, dim)).astype(np.float32))
    table.momentum[:] = torch.from_numpy(rng.random(30).astype(np.float32))
    for _ in range(3):
        indices = rng.integers(0, 10, 40)  # duplicates within bags and across them
        offsets = np.array([0, 0, 5, 25, 40])
        factors = rng.random(40).astype(np.float32) if weighted else np.ones(40, np.float32)
        gradient = rng.normal(size=(4, dim)).astype(np.float32)
        before = table.weights.numpy().copy()
        weights, momentum = adagrad(before, table.momentum.numpy(), indices, offsets, factors, gradient, 0.1)
        pooled = table.trained(
            torch.from_numpy(indices),
            torch.from_numpy(offsets),
            torch.from_numpy(factors) if weighted else None,
        )
        sums = np.stack([(before[indices[a:b]] * factors[a:b, None]).sum(0) for a, b in pairwise(offsets)])
        np.testing.assert_allclose(pooled.detach().numpy(), sums, atol=1e-5)
        pooled.backward(torch.from_numpy(gradient))
        np.testing.assert_allclose(table.weights.numpy(), weights, atol=1e-5)
        np.testing.assert_allclose(table.momentum.numpy(), momentum, rtol=1e-5)
        untouched = np.setdiff1d(np.arange(30), indices)
        assert table.weights.numpy()[untouched].tobytes() == before[untouched].tobytes()


def test_an_update_tells_the_rows_that_moved_once_each():
    table = EmbeddingTable(dim=4, lr=0.1)
    table.reserve(10)
    rows, offsets = torch.tensor([7, 2, 7, 7, 9, 2]), torch.tensor([0, 2, 5, 6])
    moved = table.update(rows, offsets, torch.ones(6), torch.ones(3, 4))
    assert moved.tolist() == [7, 2, 9]
    assert np.flatnonzero(table.momentum.numpy()).tolist() == [2, 7, 9]


def test_rows_begin_where_a_cache_line_does():
    table = EmbeddingTable(dim=16, lr=0.1)
    for rows in (1, 100, 1000):
        table.reserve(rows)
        assert table.weights.data_ptr() % 64 == 0


def test_growth_keeps_rows_and_momentum_and_starts_new_rows_from_the_cold_row():
    table = EmbeddingTable(dim=4, lr=0.1, rows=2)
    table.reserve(2)
    table.weights[:] = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]])
    table.momentum[:] = torch.tensor([0.5, 0.25])
    table.reserve(1000)
    assert table.weights[:2].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert table.momentum[:2].tolist() == [0.5, 0.25]
    assert (table.weights[2:] == torch.tensor([1.0, 2, 3, 4])).all()
    assert (table.momentum[2:] == 0).all()
    table.trained(torch.tensor([999]), torch.tensor([0, 1])).backward(torch.ones(1, 4))
    assert table.weights[999].tolist() == pytest.approx([0.9, 1.9, 2.9, 3.9])


def test_frozen_lookup_equals_the_trained_one_and_changes_nothing():
    table = EmbeddingTable(dim=4, lr=0.1)
    table.reserve(10)
    table.weights[:] = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    before = table.weights.clone()
    indices, offsets, weights = (
        torch.tensor([1, 2, 2, 3]),
        torch.tensor([0, 3, 3, 4]),
        torch.tensor([0.5, 1, 2, 3]),
    )
    frozen = table.frozen(indices, offsets, weights)
    assert torch.allclose(frozen, table.trained(indices, offsets, weights).detach())
    assert torch.equal(before, table.weights)
    assert not frozen.requires_grad


def test_state_round_trip_and_step_size():
    table = EmbeddingTable(dim=4, lr=0.1)
    table.reserve(5)
    table.trained(torch.tensor([3]), torch.tensor([0, 1])).backward(torch.ones(1, 4))
    restored = EmbeddingTable.from_state(table.state(), lr=0.1)
    for name, array in table.state().items():
        assert restored.state()[name].tobytes() == array.tobytes()
    for each in (table, restored):
        each.set_lr(0.01)
        each.trained(torch.tensor([4]), torch.tensor([0, 1])).backward(torch.ones(1, 4))
    assert table.weights[4].tolist() == pytest.approx([-0.01] * 4)
    assert torch.equal(table.weights, restored.weights)


def test_a_step_that_reads_nothing_moves_nothing():
    table = EmbeddingTable(dim=4, lr=0.1)
    table.reserve(5)
    pooled = table.trained(torch.empty(0, dtype=torch.int64), torch.tensor([0, 0, 0]))
    assert pooled.tolist() == [[0.0] * 4] * 2
    pooled.sum().backward()
    assert not table.weights.any()
    assert not table.momentum.any()


def test_rows_of_colliding_numbers_are_told_apart():
    """Every row many times over, in an order that mixes them: one move each, by its own sum."""
    n, times = 3000, 7
    table = EmbeddingTable(dim=4, lr=1.0)
    table.reserve(n << 4)
    rows = np.tile(np.arange(n, dtype=np.int64) << 4, times)
    np.random.default_rng(0).shuffle(rows)
    pooled = table.trained(torch.from_numpy(rows), torch.arange(len(rows) + 1))
    pooled.backward(torch.from_numpy(np.repeat(rows[:, None] + 1, 4, axis=1).astype(np.float32)))
    moved = np.flatnonzero(table.momentum.numpy())
    assert moved.tolist() == [row << 4 for row in range(n)]
    expected = (times * (moved + 1.0)) ** 2
    np.testing.assert_allclose(table.momentum.numpy()[moved], expected, rtol=1e-5)
    np.testing.assert_allclose(table.weights.numpy()[moved], -1.0, rtol=1e-5)
