"""All reads of one table in a step are one exact update: row-wise Adagrad with the summed gradient."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.lookup import Lookup
from models.model_config import FeatureConfig, ModelConfig
from models.tables import Tables

WIDTH, LR = 8, 0.2
FEATURE = FeatureConfig(name="town", source="user", dim=WIDTH)


def tables():
    made = Tables(ModelConfig(dim=WIDTH, id_dim=WIDTH, lr_rows=LR), (FEATURE,))
    for name in ("item", "user", "user.town"):
        made.observe(name, pa.array([f"k{at}" for at in range(6)]), np.zeros(6, np.int64))
        generator = torch.Generator().manual_seed(1)
        rows = made.rows[name]
        rows.weights[:] = torch.randn(rows.weights.shape, generator=generator)
        rows.momentum[:] = torch.rand(rows.momentum.shape, generator=generator)
    return made


def asked(lookup):
    """Reads of one table in several ways, overlapping; the answers' factors of every row."""
    single = lookup.single("item", np.array([1, 3, 3, 0]))
    bags = lookup.bags(
        "item", np.array([3, 2, 1, 1]), np.array([0, 2, 2, 4]), np.array([0.5, 2, 1, 0.25], np.float32)
    )
    again = lookup.single("item", np.array([3]))
    factors = np.zeros((8, 7))  # answers x rows
    for place, row in enumerate((1, 3, 3, 0)):
        factors[place, row] = 1
    factors[4, [3, 2]] = 0.5, 2
    factors[6, 1] = 1.25
    factors[7, 3] = 1
    return (single, bags, again), factors


@pytest.mark.parametrize("autograd", [True, False])
@pytest.mark.parametrize("steps", [1, 3])
def test_reads_of_one_table_are_one_update_of_the_summed_gradient(steps, autograd):
    made = tables()
    weights = made.rows["item"].weights.numpy().astype(np.float64)
    momentum = made.rows["item"].momentum.numpy().astype(np.float64)
    generator = np.random.default_rng(0)
    for _ in range(steps):
        lookup = Lookup(made, frozenset({"item"}))
        wanted, factors = asked(lookup)
        lookup.run() if autograd else lookup.read()
        values = torch.cat([one.value for one in wanted])
        np.testing.assert_allclose(values.detach(), factors @ weights, atol=1e-5)
        gradient = generator.normal(size=values.shape)
        upstream = torch.from_numpy(gradient.astype(np.float32))
        if autograd:
            (values * upstream).sum().backward()
        else:
            for one, of_one in zip(wanted, upstream.split([one.bags for one in wanted]), strict=True):
                one.value.grad.copy_(of_one)
            lookup.move()
        summed = factors.T @ gradient
        read = factors.any(0)
        momentum[read] += (summed[read] ** 2).mean(1)
        weights[read] -= LR * summed[read] / (np.sqrt(momentum[read]) + 1e-8)[:, None]
        np.testing.assert_allclose(made.rows["item"].weights, weights, atol=1e-5)
        np.testing.assert_allclose(made.rows["item"].momentum, momentum, atol=1e-5)
        assert set(lookup.touched) == {"item"}
        touched = np.concatenate(lookup.touched["item"])
        assert sorted(set(touched)) == np.flatnonzero(read).tolist()
        assert autograd or len(set(touched)) == len(touched)


def test_frozen_tables_give_the_same_and_stay():
    made = tables()
    before = {name: rows.weights.clone() for name, rows in made.rows.items()}
    lookup = Lookup(made, frozenset({"user"}))
    wanted, factors = asked(lookup)
    user = lookup.single("user", np.array([2]))
    lookup.run()
    values = torch.cat([one.value for one in wanted])
    np.testing.assert_allclose(values, factors @ before["item"].numpy(), atol=1e-5)
    assert not values.requires_grad
    again = Lookup(made, frozenset({"user"}))
    frozen, moving = again.single("item", np.array([1])), again.single("user", np.array([1]))
    again.read()
    assert frozen.value.grad is None
    assert moving.value.grad.shape == moving.value.shape
    user.value.sum().backward()
    assert torch.equal(made.rows["item"].weights, before["item"])
    assert (made.rows["user"].weights != before["user"]).any(1).tolist() == [row == 2 for row in range(7)]
    assert set(lookup.touched) == {"user"}


def test_slots_are_the_mean_of_what_is_known_and_else_the_cold_row():
    made = tables()
    weights = made.rows["user.town"].weights.numpy()
    rows = made.ids["user.town"].rows(np.arange(6))
    lookup = Lookup(made, frozenset())
    several = lookup.slots("user.town", np.array([[0, 4], [-1, 2], [-1, -1]], np.int32))
    one = lookup.slots("user.town", np.array([[5], [-1]], np.int32))
    lookup.run()
    expected = [(weights[rows[0]] + weights[rows[4]]) / 2, weights[rows[2]], weights[0]]
    np.testing.assert_allclose(several.value, expected, atol=1e-6)
    np.testing.assert_allclose(one.value, [weights[rows[5]], weights[0]], atol=1e-6)
    assert lookup.touched == {}
