"""The hour's steps without autograd: kernels against NumPy and torch, whole hours against autograd's."""

import numpy as np
import pytest
import torch

from models import step_kernels as kernels
from models.frozen_step import FrozenStepper, frozen_stepper
from models.learner import Learner
from models.losses import corrected_softmax
from models.towers import SHORTEST, unit
from tests.models.learning_data import DAY_MS, FEW, OPTIONS, START_MS, catalogue, config, contents, events

HALF = 2.0**-8
"""What rounding to bfloat16 leaves, relative to the number."""
EVERY_ID = ("user", "item", "history_item")
OTHERS = {
    "in_batch": {"negative_source": "in_batch", "negatives": 16},
    "online": {"hard_negatives": ("online",)},
    "uncorrected": {"logq": False, "tau": 0.5},
}


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def hour_of(kind, moving, autograd, monkeypatch, **changes):
    """(mean loss, steppers that were used, what the learner holds) after a day and an hour on top of it."""
    used = []

    def stepper(parts, trained):
        made = None if autograd else frozen_stepper(parts, trained)
        used.append(made)
        return made

    monkeypatch.setattr("models.training.frozen_stepper", stepper)
    tables = {"trained_tables": moving, "published_tables": moving}
    learner = Learner.fresh(config(kind, precision="bfloat16", **tables, **changes), FEW)
    learner.train_full(learner.prepare(events(), catalogue()))
    before = contents(learner)
    hour = events(100, seed=1, start_ms=START_MS + DAY_MS)
    loss = learner.train_incremental(learner.prepare(hour, catalogue()))
    assert contents(learner) != before
    return loss, used, learner.save()


def check_same_hour(kind, moving, monkeypatch, **changes):
    """The hour is the same with and without autograd; None where it is autograd's anyway."""
    loss, used, found = hour_of(kind, moving, False, monkeypatch, **changes)
    if used == [None]:
        return None
    expected_loss, _, expected = hour_of(kind, moving, True, monkeypatch, **changes)
    assert loss == pytest.approx(expected_loss, rel=1e-4)
    for part, arrays in expected.items():
        for name, array in arrays.items():
            if part.startswith("table.") and name in ("weights", "momentum"):
                # A sum that lies between two numbers of bfloat16 goes to either, and later steps begin there.
                off = np.abs(found[part][name] - array)
                assert off.max() <= 4 * HALF * np.abs(array).max(), f"{part} {name}"
                assert (off > 1e-5).mean() < 0.1, f"{part} {name}"
            else:
                assert found[part][name].tobytes() == array.tobytes(), f"{part} {name}"
    return used


@pytest.mark.parametrize("moving", [("user",), ("item",), EVERY_ID], ids="-".join)
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", ["two_tower", "youtube_dnn"])
def test_an_hour_is_the_same_without_autograd(kind, option, moving, monkeypatch):
    options = OPTIONS[option]
    moving = tuple(name for name in moving if name != "history_item" or not options.get("shared_items"))
    (used,) = check_same_hour(kind, moving, monkeypatch, **options)
    assert isinstance(used, FrozenStepper)


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("kind", ["two_tower", "youtube_dnn"])
def test_so_is_one_with_other_negatives(kind, other, monkeypatch):
    assert check_same_hour(kind, EVERY_ID, monkeypatch, **OTHERS[other]) is not None


def test_an_item_tower_without_a_softmax_over_own_negatives(monkeypatch):
    changes = {"loss": "softmax", "negative_source": "unigram", "hidden": (16, 8)}
    assert check_same_hour("dssm", EVERY_ID, monkeypatch, **changes) is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "mind"},
        {"kind": "fm"},
        {"kind": "sequence"},
        {"kind": "dssm"},
        {"loss": "nce"},
        {"num_true": 2},
        {"cross_layers": 1},
        {"precision": "float32"},
        {"trained_tables": ("user", "user.town")},
    ],
    ids=str,
)
def test_other_models_leave_it_to_autograd(changes):
    learner = Learner.fresh(config(**{"precision": "bfloat16", **changes}), FEW)
    parts = learner._training.stepper._parts
    assert frozen_stepper(parts, frozenset(learner.config.trained_tables)) is None


def test_everything_that_moves_is_left_to_autograd(monkeypatch):
    def refused(*_):
        raise AssertionError

    monkeypatch.setattr("models.training.frozen_stepper", refused)
    learner = Learner.fresh(config(precision="bfloat16"), FEW)
    learner.train_incremental(learner.prepare(events(), catalogue()), everything=True)


def test_dense_weights_of_now_are_taken_every_time():
    learner = Learner.fresh(config("youtube_dnn", precision="bfloat16"), FEW)
    samples = learner.prepare(events(), catalogue())
    learner.train_incremental(samples)
    with torch.no_grad():
        for weight in learner._model.parameters():
            weight.fill_(float("nan"))
    assert np.isnan(learner.train_incremental(samples))


@pytest.mark.parametrize(("rows", "shared", "alone"), [(5, 7, 1), (33, 70, 4), (256, 512, 1)])
def test_the_softmax_and_its_gradients_are_those_of_torch(rows, shared, alone):
    rng = np.random.default_rng(1)
    alone_Bn, shared_BK = 4 * drawn(rows, alone), 4 * drawn(rows, shared, seed=1)
    expected_Bn, expected_K = drawn(rows, alone, seed=2), drawn(shared, seed=3)
    hit_Bn, hit_BK = rng.random((rows, alone)) < 0.3, rng.random((rows, shared)) < 0.1
    hit_Bn[:, 0] = False
    hit_BK[0] = True  # of whom nothing is left but its positive
    hit_Bn[0] = False
    weight_B = rng.random(rows).astype(np.float32)
    of_alone, of_shared = (torch.from_numpy(one.copy()).requires_grad_() for one in (alone_Bn, shared_BK))
    corrected = of_alone - torch.from_numpy(expected_Bn)
    negative = torch.cat([of_shared - torch.from_numpy(expected_K), corrected[:, 1:]], 1)
    hit = torch.from_numpy(np.concatenate([hit_BK, hit_Bn[:, 1:]], 1))
    loss = corrected_softmax(corrected[:, 0], negative, hit, torch.from_numpy(weight_B))
    loss.backward()
    half_BK = np.empty(shared_BK.shape, np.int16)
    found = kernels.softmax_gradients(
        alone_Bn, shared_BK, expected_Bn, expected_K, hit_Bn, hit_BK, weight_B, half_BK
    )
    assert found == pytest.approx(float(loss.detach()), rel=1e-6)
    np.testing.assert_allclose(alone_Bn, of_alone.grad, rtol=1e-5, atol=1e-8)
    half = torch.from_numpy(half_BK).view(torch.bfloat16).float()
    np.testing.assert_allclose(half, of_shared.grad, rtol=HALF, atol=1e-12)
    exact = of_shared.grad.bfloat16().float()
    assert (half == exact).float().mean() > 0.99


def test_scores_that_lie_far_apart_or_weigh_nothing():
    shared_BK = np.array([[-500.0, 90.0, -1e30], [80.0, 81.0, 60.0], [1.0, 2.0, 3.0]], np.float32)
    alone_Bn = np.array([[0.0], [1e4], [2.0]], np.float32)
    logits = np.concatenate([alone_Bn, shared_BK], 1).astype(np.float64)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    weight_B, half_BK = np.array([1.0, 1.0, 0.0], np.float32), np.empty((3, 3), np.int16)
    nothing_Bn, nothing_K = np.zeros((3, 1), np.float32), np.zeros(3, np.float32)
    hit_Bn, hit_BK = np.zeros((3, 1), np.bool_), np.zeros((3, 3), np.bool_)
    given = nothing_Bn, nothing_K, hit_Bn, hit_BK
    loss = kernels.softmax_gradients(alone_Bn, shared_BK, *given, weight_B, half_BK)
    assert loss == pytest.approx(45.0, rel=1e-6)  # 90 of the first row, nothing of the second
    half = torch.from_numpy(half_BK).view(torch.bfloat16).float()
    np.testing.assert_allclose(half, shares[:, 1:] * weight_B[:, None] / 2, rtol=HALF, atol=1e-30)
    np.testing.assert_allclose(alone_Bn[:, 0], (shares[:, 0] - 1) * weight_B / 2, atol=1e-7)
    none = np.zeros(3, np.float32)  # a batch that weighs nothing teaches nothing
    assert kernels.softmax_gradients(alone_Bn, shared_BK, *given, none, half_BK) == 0
    assert not half_BK.any()


def test_scores_of_what_a_row_has_alone_and_their_gradients():
    u_BD, v_UD, gradient_Bn = drawn(6, 12), drawn(9, 12, seed=1), drawn(6, 3, seed=2)
    places_Bn = np.random.default_rng(3).integers(0, 9, (6, 3))
    scores_Bn = np.empty((6, 3), np.float32)
    kernels.alone_scores(u_BD, v_UD, places_Bn, scores_Bn)
    np.testing.assert_allclose(scores_Bn, np.einsum("bd,bnd->bn", u_BD, v_UD[places_Bn]), rtol=1e-5)
    of_u_BD, of_v_UD = np.ones((6, 12), np.float32), np.ones((9, 12), np.float32)
    kernels.add_gradients_of_u(gradient_Bn, v_UD, places_Bn, of_u_BD)
    kernels.add_gradients_of_v(gradient_Bn, u_BD, places_Bn, of_v_UD)
    np.testing.assert_allclose(
        of_u_BD, 1 + np.einsum("bn,bnd->bd", gradient_Bn, v_UD[places_Bn]), rtol=1e-4, atol=1e-5
    )
    expected = np.ones((9, 12))
    np.add.at(expected, places_Bn.ravel(), (gradient_Bn[:, :, None] * u_BD[:, None]).reshape(-1, 12))
    np.testing.assert_allclose(of_v_UD, expected, rtol=1e-4, atol=1e-5)
    kernels.add_at(places_Bn[:, 0].copy(), u_BD, of_v_UD)
    np.add.at(expected, places_Bn[:, 0], u_BD)
    np.testing.assert_allclose(of_v_UD, expected, rtol=1e-4, atol=1e-5)


def test_length_one_and_back_is_that_of_torch():
    given = drawn(7, 12)
    given[2] *= 1e-3  # shorter than SHORTEST
    given[3] = 0
    upstream = drawn(7, 12, seed=1)
    vectors = torch.from_numpy(given.copy()).requires_grad_()
    made = unit(vectors)
    made.backward(torch.from_numpy(upstream))
    lengths = np.empty(7, np.float32)
    kernels.to_length_one(given, SHORTEST, lengths)
    np.testing.assert_allclose(given, made.detach(), rtol=1e-6, atol=1e-7)
    kernels.through_length_one(given, lengths, upstream)
    np.testing.assert_allclose(upstream, vectors.grad, rtol=1e-5, atol=1e-6)
