import numpy as np
import pytest

from models.frequency import FrequencyEstimator


def oracle(items, alpha, prior):
    """Algorithm 2 of Yi et al. with one cell per item; the mean of the gaps until there are 1/alpha."""
    last, gap, gaps = {}, {}, {}
    for t, item in enumerate(items, start=1):
        gaps[item] = gaps.get(item, -1) + 1
        if item not in last:
            gap[item] = prior
        elif gaps[item] <= 1 / alpha:
            gap[item] += (t - last[item] - gap[item]) / gaps[item]
        else:
            gap[item] = (1 - alpha) * gap[item] + alpha * (t - last[item])
        last[item] = t
    return {item: min(1.0, 1 / gap[item]) for item in last}


def test_equals_the_plain_algorithm():
    rng = np.random.default_rng(0)
    items = rng.zipf(1.5, 5000) % 200
    estimator = FrequencyEstimator(cells=1 << 16, arrays=3, alpha=0.05, prior_gap=100)
    for start in range(0, 5000, 333):  # batches cut the stream anywhere
        estimator.observe(items[start : start + 333])
    expected = oracle(items.tolist(), 0.05, 100)
    keys = np.array(sorted(expected))
    np.testing.assert_allclose(estimator.probability(keys), [expected[key] for key in keys], rtol=1e-12)


def test_hand_value():
    # item 7 at examples 1, 3, 4: the prior 10, then the first gap 2, then the mean of 2 and 1
    estimator = FrequencyEstimator(alpha=0.2, prior_gap=10)
    estimator.observe(np.array([7, 8, 7, 7]))
    assert estimator.probability(np.array([7, 99])).tolist() == pytest.approx([1 / 1.5, 1 / 10])


def test_never_above_one_and_collisions_only_lower_the_gap_estimate_of_the_worst_array():
    estimator = FrequencyEstimator(cells=2, arrays=4, alpha=0.9, prior_gap=1)
    estimator.observe(np.arange(1000) % 7)
    assert (estimator.probability(np.arange(10)) <= 1).all()


def test_follows_drift_and_survives_a_restart():
    estimator = FrequencyEstimator(alpha=0.1, prior_gap=50)
    estimator.observe(np.arange(1000) % 10)
    assert estimator.probability(np.array([3]))[0] == pytest.approx(0.1, rel=0.05)
    restored = FrequencyEstimator.from_state(estimator.state())
    for each in (estimator, restored):
        each.observe(np.arange(2000) % 2 + 2)
    assert estimator.probability(np.array([3]))[0] == pytest.approx(0.5, rel=0.05)
    for name, array in estimator.state().items():
        assert restored.state()[name].tobytes() == array.tobytes()


def test_refuses_a_width_that_is_no_power_of_two():
    with pytest.raises(ValueError, match="power of two"):
        FrequencyEstimator(cells=100)
