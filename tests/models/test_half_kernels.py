"""Products in bfloat16 by the processor's instruction, beside NumPy's in float64."""

import numpy as np
import pytest
import torch

from models import half_kernels

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


def bits(half):
    """Of a contiguous matrix, with a column of zeros behind where it has an odd one."""
    return half_kernels.halves(half.float().numpy())


def product(x, weight_OI, bias=None, turned=False, relu=False, positive=None):
    """x @ weight.T + bias, or with the matrix turned x @ weight, as multiply() makes it; x are bits."""
    pack, outputs = half_kernels.packed_turned, len(weight_OI)
    if turned:
        pack, outputs = half_kernels.packed, weight_OI.shape[1]
    packed = pack(bits(weight_OI))
    bias_O = np.zeros(0 if bias is None else packed.shape[1], np.float32)
    if bias is not None:
        bias_O[: len(bias)] = bias.float()
    positive_NO = np.empty((0, 0), np.int16) if positive is None else bits(positive)
    out = np.full((len(x), outputs), 7, np.int16)
    half_kernels.multiply(x.view(np.int32), packed, bias_O, positive_NO, relu, out)
    return torch.from_numpy(out).view(torch.bfloat16)


@needs_instruction
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES)
def test_products_are_rounded_once(rows, inputs, outputs):
    x, weight, bias = drawn(rows, inputs), drawn(outputs, inputs, seed=1), drawn(outputs, seed=2)
    scale = np.abs(numbers(x)) @ np.abs(numbers(weight)).T + 1
    expected = numbers(x) @ numbers(weight).T
    check(product(bits(x), weight), expected, scale)
    check(product(bits(x), weight, bias), expected + numbers(bias), scale)
    check(product(bits(x), weight, bias, relu=True), np.maximum(expected + numbers(bias), 0), scale)


@needs_instruction
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES)
def test_the_way_back_is_the_product_with_the_turned_matrix(rows, inputs, outputs):
    gradient, weight = drawn(rows, outputs), drawn(outputs, inputs, seed=1)
    came = drawn(rows, inputs, seed=2).relu_()
    came[0, 0] = -0.0
    expected = numbers(gradient) @ numbers(weight)
    scale = np.abs(numbers(gradient)) @ np.abs(numbers(weight)) + 1
    check(product(bits(gradient), weight, turned=True), expected, scale)
    back = product(bits(gradient), weight, turned=True, positive=came)
    check(back, np.where(numbers(came) > 0, expected, 0), scale)


@needs_instruction
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES)
def test_products_that_are_not_rounded(rows, inputs, outputs, turned):
    x, weight = drawn(rows, inputs), drawn(inputs, outputs, seed=1)
    # Pairs of a matrix of inputs side by side are those of its transpose one below the other.
    pairs = half_kernels.packed(bits(x.T.contiguous())).T[:rows] if turned else bits(x).view(np.int32)
    found = np.full((rows, outputs), 7, np.float32)
    half_kernels.multiply_unrounded(pairs, half_kernels.packed(bits(weight)), found)
    scale = np.abs(numbers(x)) @ np.abs(numbers(weight)) + 1
    assert (np.abs(found - numbers(x) @ numbers(weight)) <= 1e-6 * scale).all()


@needs_instruction
def test_inputs_may_be_columns_of_something_wider():
    x, weight = drawn(9, 40), drawn(5, 16, seed=1)
    part = np.ascontiguousarray(bits(x)[:, :16])
    assert torch.equal(product(bits(x), weight), product(part, weight))


@needs_instruction
def test_what_a_row_gives_depends_on_no_other():
    x, weight = bits(drawn(16, 32)), drawn(64, 32, seed=1)
    for row, expected in enumerate(product(x, weight)):
        assert torch.equal(product(x[row : row + 1], weight)[0], expected)


@pytest.mark.parametrize("width", [4, 5])
def test_rounding_is_that_of_torch(width):
    x = torch.randn(7, width, generator=torch.Generator().manual_seed(0))
    found = half_kernels.halves(x.numpy())
    assert found.shape == (7, width + width % 2)
    assert torch.equal(torch.from_numpy(found).view(torch.bfloat16)[:, :width], x.bfloat16())
    assert not found[:, width:].any()


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
