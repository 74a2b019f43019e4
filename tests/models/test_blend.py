"""The blend against hand-derived features, a numeric gradient, and data whose right weights are known."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models.blend import Blend, blend_features, with_counts
from models.blend_fit import BlendRows, fit_blend
from models.item_signals import NAMES, SIGNALS

INF = float("inf")


def test_features_by_hand():
    scores = np.array([[1.0, 3.0, -INF], [0.5, 0.5, 0.5], [-INF] * 3], np.float32)
    found = blend_features(scores)
    assert found.shape == (3, 6)
    # Channel 0: 1, 3, 1 (what it does not know is like its worst), mean 5/3, deviation sqrt(8)/3.
    z = np.array([-2 / 3, 4 / 3, -2 / 3]) / (np.sqrt(8) / 3)
    np.testing.assert_allclose(found[:, 0], z, rtol=1e-6)
    np.testing.assert_allclose(found[:, 3], -np.log1p([1, 0, 2]), rtol=1e-6)
    assert not found[:, [1, 2, 4, 5]].any()  # a channel that says the same of all moves nobody


def test_a_lone_peak_is_bounded():
    scores = np.zeros((1, 1000), np.float32)
    scores[0, 7] = 1e6
    found = blend_features(scores)
    assert found[7, 0] == 8.0
    assert np.abs(found).max() < 8.1


@example(scores=[0.0, 1e-12], power=1)
@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=30, unique=True), st.integers(0, 5))
def test_scale_and_shift_of_a_channel_do_not_matter(scores, power):
    one = np.array([scores], np.float32)
    before, after = blend_features(one), blend_features(one * np.float32(2.0**power))
    np.testing.assert_allclose(before, after, atol=1e-5)


def test_fresh_is_the_mean_of_standardised_scores():
    scores = np.random.default_rng(0).normal(size=(3, 9)).astype(np.float32)
    blend = Blend.fresh(("a", "b", "c"))
    np.testing.assert_allclose(blend.values(scores), blend_features(scores)[:, :3].mean(1), rtol=1e-5)


def test_channels_may_come_and_go():
    blend = Blend(("a", "b"), np.array([1, 2, 3, 4], np.float32))
    other = blend.over(("c", "b"))
    assert other.channels == ("c", "b")
    assert other.weights.tolist() == [0, 2, 0, 4]
    assert blend.over(["a", "b"]) is blend
    assert Blend.fresh(()).over(("a",)).weights.tolist() == [0, 0]


def test_counts_are_channels_behind_the_others():
    scores = np.array([[1.0, 2.0, 3.0], [0.0, -INF, 1.0]], np.float32)
    signals = np.arange(3 * (SIGNALS + 2), dtype=np.float32).reshape(3, -1)  # two signals more than counts
    found = with_counts(scores, signals)
    assert found.shape == (2 + SIGNALS, 3)
    assert found[:2].tobytes() == scores.tobytes()
    for count in range(SIGNALS):
        assert found[2 + count].tolist() == [count, SIGNALS + 2 + count, 2 * (SIGNALS + 2) + count]
    assert Blend.fresh(("a", *NAMES)).reads_counts
    assert not Blend.fresh(("a", "b")).reads_counts


@given(st.integers(0, 99), st.integers(1, 20), st.floats(0, 9, width=32))
def test_counts_that_are_the_same_of_all_move_nobody(seed, n, count):
    rng = np.random.default_rng(seed)
    blend = Blend(("a", "b", *NAMES), rng.normal(size=2 * (2 + SIGNALS)).astype(np.float32))
    scores = rng.normal(size=(2, n)).astype(np.float32)
    found = blend.values(with_counts(scores, np.full((n, SIGNALS), count, np.float32)))
    np.testing.assert_allclose(found, blend.over(("a", "b")).values(scores), atol=1e-5)


def test_fit_finds_the_counts_that_know():
    """One count is high for targets, the channel knows nothing; the first weights know no counts."""

    def counted(targets, seed):
        rng = np.random.default_rng(seed)
        rows = BlendRows(("a", *NAMES))
        for _ in range(targets):
            signals, place = rng.exponential(size=(40, SIGNALS)).astype(np.float32), int(rng.integers(40))
            signals[place, 4] += 2.5
            rows.add(with_counts(rng.normal(size=(1, 40)).astype(np.float32), signals), place)
        return rows

    fitted, test = fit_blend(Blend.fresh(("a",)), counted(800, 0), seed=0), counted(300, 1)
    assert fitted.channels == ("a", *NAMES)
    by_count = Blend(("a", *NAMES), np.eye(2 * (1 + SIGNALS), dtype=np.float32)[1 + 4])
    assert mean_rank(fitted, test) < 1.15 * mean_rank(by_count, test)
    assert mean_rank(fitted, test) < 0.5 * mean_rank(Blend.fresh(("a",)).over(("a", *NAMES)), test)


@pytest.mark.parametrize("channels", [(), ("a",), ("zwei", "türme"), ("a", *NAMES)])
def test_round_trip(channels):
    blend = Blend(channels, np.arange(2 * len(channels), dtype=np.float32))
    again = Blend.from_tensors(blend.tensors())
    assert again.channels == channels
    assert again.weights.tobytes() == blend.weights.tobytes()
    with pytest.raises(ValueError, match="finite weights"):
        Blend.from_tensors({**blend.tensors(), "weights": np.full(2 * len(channels) + 2, 1, np.float32)})


def rows_of(targets, seed, informed=0, channels=3, candidates=40):
    """Targets that channel `informed` tends to score high; the others are noise."""
    rng = np.random.default_rng(seed)
    rows = BlendRows(tuple("abcdef"[:channels]))
    for _ in range(targets):
        scores = rng.normal(size=(channels, candidates)).astype(np.float32)
        place = int(rng.integers(candidates))
        scores[informed, place] += 2.5
        rows.add(scores, place)
    return rows


def mean_rank(blend, rows):
    ranks = [
        int((features @ blend.weights > (features @ blend.weights)[place]).sum())
        for features, place in zip(rows.features, rows.place, strict=True)
    ]
    return np.mean(ranks)


def test_fit_finds_the_channel_that_knows():
    fresh, test = Blend.fresh(tuple("abc")), rows_of(400, 1)
    fitted = fit_blend(fresh, rows_of(1500, 0), seed=0)
    alone = Blend(tuple("abc"), np.array([1, 0, 0, 0, 0, 0], np.float32))
    assert mean_rank(fitted, test) < 0.5 * mean_rank(fresh, test)
    assert mean_rank(fitted, test) < 1.1 * mean_rank(alone, test)
    again = fit_blend(fresh, rows_of(1500, 0), seed=0)
    assert again.weights.tobytes() == fitted.weights.tobytes()
    assert fit_blend(fresh, rows_of(1500, 0), seed=1).weights.tobytes() != fitted.weights.tobytes()


def test_fit_goes_on_from_the_weights_before():
    first = fit_blend(Blend.fresh(tuple("abc")), rows_of(1500, 0), seed=0)
    few = rows_of(30, 2)
    test = rows_of(400, 1)
    assert mean_rank(fit_blend(first, few, 0), test) < mean_rank(fit_blend(Blend.fresh("abc"), few, 0), test)


def test_targets_nobody_brought_up_are_counted_and_teach_nothing():
    rows = BlendRows(("a",))
    rows.add(np.ones((1, 4), np.float32), -1)
    assert (len(rows), rows.lost) == (0, 1)
    blend = Blend.fresh(("a",))
    assert fit_blend(blend, rows, 0) is blend
