import numpy as np
import pytest

from models.model_config import ModelConfig
from models.resampling import copies, keep_probability, newest_of_users, resampled
from models.samples import Samples


def samples_of(user, item, ts_ms=None):
    n = len(item)
    return Samples(
        sequence=np.arange(n),
        ts_ms=np.arange(n) if ts_ms is None else np.asarray(ts_ms),
        user=np.asarray(user, np.int32),
        item=np.asarray(item, np.int32),
        weight=np.ones(n, np.float32),
        request=np.arange(n),
        categories=np.empty((n, 0), np.int32),
        numbers=np.empty((n, 0), np.float32),
    )


def test_keep_probability_by_hand():
    # f = .64, .32, .04, t = .04: sqrt(1/16), sqrt(1/8), 1
    keep = keep_probability(np.array([64, 32, 4, 0]), 100, 0.04)
    np.testing.assert_allclose(keep, [0.25, 0.125**0.5, 1, 1])
    assert keep_probability(np.array([64, 32]), 96, 0.0).tolist() == [1, 1]
    counts = np.arange(1, 1000)
    assert (np.diff(keep_probability(counts, 10_000, 0.01)) <= 0).all()  # drops grow with the count


def test_copies_are_by_sequence():
    counts, keep = np.array([3, 100, 100]), np.array([1.0, 1.0, 0.0])
    assert copies(counts, keep, np.arange(3), 0, cold_below=5, cold_repeats=4).tolist() == [4, 1, 0]
    sequence, half = np.arange(1000), np.full(1000, 0.5)
    first = copies(np.full(1000, 100), half, sequence, 0, 5, 4)
    assert 430 < first.sum() < 570
    shuffle = np.random.default_rng(0).permutation(1000)
    assert copies(np.full(1000, 100), half, sequence[shuffle], 0, 5, 4).tolist() == first[shuffle].tolist()
    assert copies(np.full(1000, 100), half, sequence, 1, 5, 4).tolist() != first.tolist()


def test_newest_of_users_is_brute_force():
    generator = np.random.default_rng(0)
    user, ts = generator.integers(-1, 6, 200).astype(np.int32), generator.integers(0, 50, 200)
    sequence = np.arange(200)
    kept = newest_of_users(user, ts, sequence, 4)
    for at in range(200):
        newer = ((user == user[at]) & ((ts > ts[at]) | ((ts == ts[at]) & (sequence > at)))).sum()
        assert kept[at] == (user[at] < 0 or newer < 4)
    assert newest_of_users(user[:0], ts[:0], sequence[:0], 4).tolist() == []


def test_resampling_counts_what_it_changed():
    generator = np.random.default_rng(1)
    item = np.concatenate([np.zeros(6000, int), np.ones(300, int), generator.integers(2, 300, 300)])
    samples = samples_of(np.zeros(len(item)), item)
    order = generator.permutation(len(item))
    config = ModelConfig(popular_threshold=0.01, cold_below=5, cold_repeats=3)
    seen, changed = resampled(config, samples, order)
    counted = np.bincount(samples.item[seen], minlength=300)
    share = 6000 / len(item)
    assert counted[0] == pytest.approx(6000 * np.sqrt(0.01 / share), rel=0.1)
    original = np.bincount(item, minlength=300)
    cold = (original < 5) & (original > 0)
    assert (counted[cold] == 3 * original[cold]).all()
    assert changed == {
        "capped": 0,
        "dropped": original[:2].sum() - counted[:2].sum(),
        "repeated": 2 * original[cold].sum(),
    }
    assert len(seen) == len(order) - changed["dropped"] + changed["repeated"]
    # In the order given: the first places of the survivors are a subsequence of it.
    first = seen[np.append(True, np.diff(seen) != 0)]
    assert first.tolist() == order[np.isin(order, seen)].tolist()
    assert resampled(config, samples, order, salt=1)[0].tolist() != seen.tolist()
    whole = np.full(300, 1000)  # counts of a longer past: nothing is cold, nothing is popular
    everything, nothing = resampled(config, samples, order, counts=whole)
    assert everything.tolist() == order.tolist()
    assert sum(nothing.values()) == 0


def test_active_users_are_capped():
    samples = samples_of([1, 1, 1, 2, -1, -1, -1, 1], [0] * 8, ts_ms=[5, 1, 9, 1, 1, 2, 3, 7])
    order = np.array([7, 6, 5, 4, 3, 2, 1, 0])
    seen, changed = resampled(ModelConfig(samples_per_user=2), samples, order)
    assert seen.tolist() == [7, 6, 5, 4, 3, 2]
    assert changed == {"capped": 2, "dropped": 0, "repeated": 0}
    assert resampled(ModelConfig(), samples, order)[0].tolist() == order.tolist()
