"""Products in bfloat16 by the processor's instruction, beside NumPy's in float64."""

import numpy as np
import pytest
import torch

from models import half_kernels
from models.products import HalfProduct

ONE_ROUNDING = 2.0**-8
needs_instruction = pytest.mark.skipif(
    not half_kernels.has_instruction(), reason="this processor has no instruction for products in bfloat16"
)
SIZES = [(1, 2, 1), (5, 3, 7), (6, 64, 64), (7, 66, 80), (13, 65, 256), (64, 10, 150)]
"""(rows, inputs, outputs): whole blocks of rows and of outputs, and what is left over of either."""


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def numbers(half):
    return half.double().numpy()


def check(found, expected, scale):
    assert found.dtype == torch.bfloat16
    error = np.abs(numbers(found) - expected)
    assert (error <= ONE_ROUNDING * np.abs(expected) + 1e-6 * scale).all()


@pytest.fixture(params=[pytest.param(True, marks=needs_instruction), False], ids=["compiled", "torch"])
def way(request, monkeypatch):
    """By which of both the products are made."""
    monkeypatch.setattr(half_kernels, "has_instruction", lambda: request.param)


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES)
def test_products_are_rounded_once(rows, inputs, outputs, way):
    x, weight, bias = drawn(rows, inputs), drawn(outputs, inputs, seed=1), drawn(outputs, seed=2)
    scale = np.abs(numbers(x)) @ np.abs(numbers(weight)).T + 1
    expected = numbers(x) @ numbers(weight).T
    check(HalfProduct(weight)(x), expected, scale)
    product = HalfProduct(weight, bias)
    check(product(x), expected + numbers(bias), scale)
    check(product(x, relu=True), np.maximum(expected + numbers(bias), 0), scale)


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES)
def test_the_way_back_is_the_product_with_the_turned_matrix(rows, inputs, outputs, way):
    gradient, weight = drawn(rows, outputs), drawn(outputs, inputs, seed=1)
    came = drawn(rows, inputs, seed=2).relu_()
    came[0, 0] = -0.0
    expected = numbers(gradient) @ numbers(weight)
    scale = np.abs(numbers(gradient)) @ np.abs(numbers(weight)) + 1
    back = HalfProduct(weight, turned=True)
    check(back(gradient), expected, scale)
    check(back(gradient, positive_NO=came), np.where(numbers(came) > 0, expected, 0), scale)


def test_inputs_may_be_columns_of_something_wider(way):
    x, weight = drawn(9, 40), drawn(5, 16, seed=1)
    part = x[:, 8:24]
    assert torch.equal(HalfProduct(weight)(part), HalfProduct(weight)(part.contiguous()))


@needs_instruction
def test_what_a_row_gives_depends_on_no_other():
    x, product = drawn(16, 32), HalfProduct(drawn(64, 32, seed=1))
    for row, expected in enumerate(product(x)):
        assert torch.equal(product(x[row : row + 1])[0], expected)


@pytest.mark.parametrize("turned", [False, True])
def test_pairs_lie_side_by_side(turned):
    weight_IO = np.arange(1, 16, dtype=np.int16).reshape(3, 5) * np.int16(-7)
    pack = half_kernels.packed_turned if turned else half_kernels.packed
    pairs = pack(np.ascontiguousarray(weight_IO.T) if turned else weight_IO)
    assert pairs.shape == (2, 16)
    halves = pairs.view(np.int16).reshape(2, 16, 2)
    np.testing.assert_array_equal(halves[0, :5], weight_IO[:2].T)
    np.testing.assert_array_equal(halves[1, :5, 0], weight_IO[2])
    assert not halves[1, :, 1].any()
    assert not halves[:, 5:].any()


def test_code_for_another_processor_has_no_such_instruction(monkeypatch):
    monkeypatch.setattr(half_kernels.config, "CPU_NAME", "generic")
    assert not half_kernels.has_instruction.__wrapped__()
