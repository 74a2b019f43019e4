import numpy as np
import pytest

from models.layer_kernels import packed, perceptron

WIDTHS = [(5, 3), (129, 256, 128, 64), (33, 100, 64), (40, 16, 17), (20, 1), (70, 65, 130)]


def layers_of(widths, known, rng):
    """(weight, bias) of every layer, and the linear way around them from the first `known` inputs."""
    shapes = list(zip(widths[1:], widths[:-1], strict=True))
    layers = [(rng.normal(size=shape).astype(np.float32), rng.normal(size=shape[0]).astype(np.float32))
              for shape in shapes]  # fmt: skip
    return [*layers, (rng.normal(size=(widths[-1], known)).astype(np.float32), None)]


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 5, 7, 8, 13])
def test_the_layers_are_those_of_brute_force(widths, rows):
    rng = np.random.default_rng(rows)
    known = widths[0] // 2
    layers = layers_of(widths, known, rng)
    x = rng.normal(size=(rows, widths[0])).astype(np.float32)
    before = x.copy()
    expected = x.astype(np.float64)
    for number, (weight, bias) in enumerate(layers[:-1]):
        expected = expected @ weight.T.astype(np.float64) + bias
        if number < len(layers) - 2:
            expected = np.maximum(expected, 0)
    expected += x[:, :known].astype(np.float64) @ layers[-1][0].T
    found = perceptron(x, *packed(layers))
    assert found.dtype == np.float32
    scale = np.abs(expected).max(initial=1.0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * scale)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("widths", WIDTHS)
def test_a_row_comes_out_alike_whoever_is_beside_it(widths):
    rng = np.random.default_rng(1)
    layers = packed(layers_of(widths, widths[0] - 1, rng))
    x = rng.normal(size=(11, widths[0])).astype(np.float32)
    together = perceptron(x, *layers)
    for rows in (1, 2, 3, 5, 6, 7):
        for first in range(0, 11 - rows):
            some = perceptron(x[first : first + rows].copy(), *layers)
            np.testing.assert_array_equal(some, together[first : first + rows])


def test_packed_layers_begin_with_cache_lines():
    layers = layers_of((5, 3, 9), 2, np.random.default_rng(2))
    weights, places = packed(layers)
    assert places[:, 1:].tolist() == [[5, 3], [3, 9], [2, 9]]
    for begin, (weight, bias) in zip(places[:, 0].tolist(), layers, strict=True):
        assert (weights.ctypes.data + 4 * begin) % 64 == 0
        end = begin + weight.size
        np.testing.assert_array_equal(weights[begin:end].reshape(weight.T.shape), weight.T)
        np.testing.assert_array_equal(weights[end : end + len(weight)], 0 if bias is None else bias)
