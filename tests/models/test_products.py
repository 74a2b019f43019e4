from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn.functional import linear

from models.half_layers import half_layers
from models.learner import Learner
from models.products import BLOCK, in_bfloat16, in_blocks, similarities
from models.towers import Tower
from tests.models.learning_data import FEW, catalogue, config, contents, events

ROUNDING = 2.0**-8
"""A product that is rounded to bfloat16 once is off by half of this at most, relative to itself."""


def half(values):
    """The values as bfloat16 holds them: float32 with the lower 16 bits rounded away, to even."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32).astype(np.float64)


def drawn(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator).requires_grad_(True) for shape in shapes]


def one_layer(x, weight, bias):
    return half_layers(x, x[:, :0], [(weight, bias)], torch.zeros_like(weight))


def test_products_are_those_of_rounded_factors_rounded_once():
    x, weight, bias = drawn((17, 65), (32, 65), (32,))
    product = one_layer(x, weight, bias)
    expected = half(x.detach()) @ half(weight.detach()).T + half(bias.detach())
    assert product.dtype == torch.float32
    assert torch.equal(product, product.bfloat16().float())
    scale = np.abs(half(x.detach())) @ np.abs(half(weight.detach())).T
    error = np.abs(product.detach().double().numpy() - expected)
    assert (error <= ROUNDING * np.abs(expected) + 1e-6 * scale).all()


def test_gradients_of_a_product_are_products_of_rounded_factors():
    x, weight, bias = drawn((17, 65), (32, 65), (32,))
    (upstream,) = drawn((17, 32), seed=1)
    one_layer(x, weight, bias).backward(upstream.detach())
    g, x_, w = half(upstream.detach()), half(x.detach()), half(weight.detach())
    for found, expected in ((x.grad, g @ w), (weight.grad, g.T @ x_), (bias.grad, g.sum(0))):
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found.double(), expected, rtol=ROUNDING, atol=1e-5)


def composed(known, side, layers, around, blank):
    """The same out of torch's operations, for its own autograd."""
    half_known = known.bfloat16()
    first, *others = layers
    vector = linear(
        torch.cat([known, side], 1).bfloat16(), first[0][:, blank:].bfloat16(), first[1].bfloat16()
    )
    for weight, bias in others:
        vector = linear(vector.relu(), weight.bfloat16(), bias.bfloat16())
    return vector.float() + linear(half_known, around[:, blank:].bfloat16()).float()


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("widths", [(), (24,), (32, 16), (80, 100)])
@pytest.mark.parametrize(("side", "blank"), [(0, 0), (3, 0), (1, 8), (0, 5)])
def test_layers_and_their_gradients_are_those_of_torch(widths, side, blank, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr("models.half_kernels.has_instruction", lambda: False)
    inputs = [(9, 12), (9, side), (10, blank + 12)]
    sizes = [blank + 12 + side, *widths, 10]
    shapes = [shape for into, out in pairwise(sizes) for shape in ((out, into), (out,))]
    (upstream,) = drawn((9, 10), seed=1)
    results = []
    for way in (half_layers, composed):
        known, beside, around, *parts = given = drawn(*inputs, *shapes)
        made = way(known, beside, list(zip(parts[::2], parts[1::2], strict=True)), around, blank)
        made.backward(upstream.detach())
        results.append([made.detach(), *(one.grad for one in given)])
    for number, (found, expected) in enumerate(zip(*results, strict=True)):
        if number > 3 and number % 2:  # torch rounds the sums of biases, which ours does not
            torch.testing.assert_close(found, expected, rtol=0.01, atol=0.02)
        else:
            torch.testing.assert_close(found, expected, rtol=ROUNDING, atol=1e-6)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(("rows", "columns"), [(9, 33), (256, 512)])
def test_similarities_are_float32_with_gradients_in_bfloat16(rows, columns, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr("models.half_kernels.has_instruction", lambda: False)
    u, v = drawn((rows, 64), (columns, 64))
    (upstream,) = drawn((rows, columns), seed=1)
    scores = similarities(u, v)
    assert scores.dtype == torch.float32
    # Of small ones the factors are not rounded at all; never is the product.
    whole, rounded = ((of(u.detach()) @ of(v.detach()).T) for of in (np.asarray, half))
    error = np.abs(scores.detach().numpy()[..., None] - np.stack([whole, rounded], -1)).max((0, 1))
    assert error.min() < 2e-5
    assert torch.backends.mkldnn.matmul.fp32_precision == "none"
    scores.backward(upstream.detach())
    g = half(upstream.detach())
    np.testing.assert_allclose(u.grad.double(), g @ half(v.detach()), rtol=ROUNDING, atol=1e-4)
    np.testing.assert_allclose(v.grad.double(), g.T @ half(u.detach()), rtol=ROUNDING, atol=1e-4)


def test_what_is_frozen_gets_no_gradient():
    x, weight, bias = drawn((4, 8), (5, 8), (5,))
    weight.requires_grad_(False)
    bias.requires_grad_(False)
    one_layer(x, weight, bias).sum().backward()
    assert x.grad is not None
    assert weight.grad is None
    assert bias.grad is None


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_vectors_outside_a_step_are_float32(precision):
    torch.manual_seed(1)
    tower = Tower(2, 8, 3, (16, 16), 8, precision=precision)
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ids, side = (value.detach() for value in drawn((6, 16), (6, 3)))
    with torch.no_grad():
        published = tower(ids, side)
    joined = torch.cat([ids, side], 1)
    first, second, last = (layer for layer in tower.layers if isinstance(layer, torch.nn.Linear))
    expected = last(second(first(joined).relu()).relu()) + tower.around(ids)
    torch.testing.assert_close(published, expected.detach(), rtol=1e-5, atol=1e-6)
    in_a_step = tower(ids, side)
    assert in_a_step.dtype == torch.float32
    exact = torch.allclose(in_a_step, published, rtol=1e-5, atol=1e-6)
    assert exact == (precision == "float32")
    torch.testing.assert_close(in_a_step, published, rtol=0.02, atol=0.02 * float(published.abs().max()))


def test_auto_goes_by_the_instructions_of_the_processor(monkeypatch):
    for avx, amx, expected in ((True, False, True), (False, True, True), (False, False, False)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda avx=avx: avx)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        assert in_bfloat16("auto") == expected
        assert in_bfloat16("bfloat16")
        assert not in_bfloat16("float32")


def test_a_model_learns_the_same_in_both_and_is_kept_in_float32():
    kept, losses = [], []
    for precision in ("float32", "bfloat16"):
        learner = Learner.fresh(config("two_tower", precision=precision), FEW)
        samples = learner.prepare(events(), catalogue())
        losses.append([learner.train_full(samples) for _ in range(4)])
        kept.append(contents(learner))
    exact, rounded = kept
    assert {name: value[:2] for name, value in exact.items()} == {
        name: value[:2] for name, value in rounded.items()
    }
    assert exact != rounded
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.01)
    assert losses[1][-1] < 0.9 * losses[1][0]


@pytest.mark.parametrize("kind", ["two_tower", "dssm"])
def test_items_that_fill_a_block_change_nothing(kind, monkeypatch):
    learners = []
    for blocks in (True, False):
        if not blocks:
            monkeypatch.setattr("models.steps.in_blocks", lambda of_items: of_items)
        learner = Learner.fresh(config(kind, precision="bfloat16"), FEW)
        learner.train_full(learner.prepare(events(), catalogue()))
        learner.train_incremental(learner.prepare(events(60, seed=1), catalogue()))
        learners.append(learner.save())
    filled, bare = learners
    for part, arrays in bare.items():
        for name, array in arrays.items():
            # Blocks of another height may add up in another order.
            np.testing.assert_allclose(
                filled[part][name], array, rtol=1e-4, atol=1e-5, err_msg=f"{part} {name}"
            )


@pytest.mark.parametrize("n", [1, 63, 64, 65, 200])
def test_blocks_are_whole_and_hold_what_was_given(n):
    given = np.arange(n) * 3
    filled = in_blocks(given)
    assert len(filled) % BLOCK == 0
    assert 0 <= len(filled) - n < BLOCK
    np.testing.assert_array_equal(filled[:n], given)
    assert (filled[n:] == given[-1]).all()
