import numpy as np
import pytest

from models.frequency import FrequencyEstimator
from models.samplers import (
    LearnedUnigramSampler,
    LogUniformSampler,
    UnigramSampler,
    frequency_ranks,
    per_row,
    per_row_others,
    uniform_by_key,
)

ENTRIES, COUNTS = np.array([4, 9, 2, 7]), np.array([5, 40, 1, 14])
DRAWS = 60_000


def by_entry(entries, values, capacity=12):
    """(live, values), both by entry; what is not live has the largest value, which must not matter."""
    live, held = np.zeros(capacity, np.bool_), np.full(capacity, values.max(initial=0))
    live[entries], held[entries] = True, values
    return live, held


def samplers():
    return {
        "uniform": UnigramSampler(*by_entry(ENTRIES, COUNTS), 0.0, seed=3),
        "unigram": UnigramSampler(*by_entry(ENTRIES, COUNTS), 0.75, seed=3),
        "log_uniform": LogUniformSampler.of_counts(ENTRIES, COUNTS, 12, seed=3),
        "learned": LearnedUnigramSampler(*by_entry(ENTRIES, COUNTS / COUNTS.sum()), 1.0, seed=3),
    }


SHARES = {
    "uniform": np.full(4, 0.25),
    "unigram": COUNTS**0.75 / (COUNTS**0.75).sum(),
    # ranks of 9, 7, 4, 2 are 0, 1, 2, 3: log((r+2)/(r+1)) / log 5
    "log_uniform": np.log([4 / 3, 2 / 1, 5 / 4, 3 / 2]) / np.log(5),
    "learned": COUNTS / COUNTS.sum(),
}


@pytest.mark.parametrize("name", SHARES)
def test_draws_follow_the_shares(name):
    sampler = samplers()[name]
    drawn = sampler.draw(DRAWS, step=5)
    counted = np.array([(drawn == entry).sum() for entry in ENTRIES])
    assert counted.sum() == DRAWS
    # Within five standard deviations of the binomial.
    spread = np.sqrt(DRAWS * SHARES[name] * (1 - SHARES[name]))
    assert (np.abs(counted - DRAWS * SHARES[name]) < 5 * spread).all()


@pytest.mark.parametrize("name", SHARES)
def test_expected_counts_are_the_shares(name):
    sampler = samplers()[name]
    np.testing.assert_allclose(np.exp(sampler.log_expected(ENTRIES, 7)), 7 * SHARES[name], rtol=1e-5)
    unknown = sampler.log_expected(np.array([0, 11]), 7)  # a target that the sampler never draws
    rarest = sampler.log_expected(ENTRIES, 7).min()
    np.testing.assert_allclose(unknown, rarest, rtol=1e-6)


@pytest.mark.parametrize("name", SHARES)
def test_draws_are_a_function_of_seed_and_step(name):
    first, again = samplers()[name], samplers()[name]
    assert first.draw(100, 1).tolist() == again.draw(100, 1).tolist()
    assert first.draw(100, 1).tolist() != first.draw(100, 2).tolist()


def test_half_power():
    sampler = UnigramSampler(*by_entry(np.array([4, 9, 2]), np.array([1, 16, 81])), 0.5, seed=3)
    expected = np.exp(sampler.log_expected(np.array([4, 9, 2]), 140))
    np.testing.assert_allclose(expected, [10, 40, 90], rtol=1e-5)


def test_importance_weights_undo_the_sampler():
    # Sum over draws of exp(s) / expected count estimates the sum over the corpus: what the correction is for.
    score = np.linspace(-1, 1, 12)
    for sampler in samplers().values():
        drawn = sampler.draw(DRAWS, 9)
        estimate = np.exp(score[drawn] - sampler.log_expected(drawn, DRAWS)).sum()
        assert estimate == pytest.approx(np.exp(score[ENTRIES]).sum(), rel=0.05)


def test_log_uniform_takes_ranks_only():
    for ranks in ([4, 9, 2, 7], [0, 1, 1, 2], [0, 1, 2], [1, 2, 3, 4]):
        with pytest.raises(ValueError, match="frequency ranks"):
            LogUniformSampler(ENTRIES, np.array(ranks), 12, seed=0)


def test_frequency_ranks_by_hand():
    assert frequency_ranks(np.array([5, 40, 5, 14])).tolist() == [2, 0, 3, 1]


def test_no_items_no_negatives():
    nothing = np.empty(0, np.int64)
    with pytest.raises(ValueError, match="no items"):
        UnigramSampler(*by_entry(nothing, nothing), 1.0, 0)
    with pytest.raises(ValueError, match="no items"):
        LogUniformSampler(nothing, nothing, 10, 0)
    with pytest.raises(ValueError, match="no items"):
        LearnedUnigramSampler(*by_entry(nothing, nothing.astype(float)), 1.0, 0)


def test_learned_shares_follow_the_stream():
    # Items 0..9 half of all targets as item 0; later item 9 takes its place.
    generator = np.random.default_rng(0)
    estimator, entries = FrequencyEstimator(prior_gap=100.0), np.arange(10)
    for favourite in (0, 9):
        targets = np.where(generator.random(5000) < 0.5, favourite, generator.integers(0, 10, 5000))
        estimator.observe(targets)
        p = estimator.probability(entries)
        sampler = LearnedUnigramSampler(*by_entry(entries, p), 1.0, seed=1)
        expected = np.exp(sampler.log_expected(entries, 1000))
        np.testing.assert_allclose(expected, 1000 * p / p.sum(), rtol=1e-4)
        assert 450 < expected[favourite] < 650
        assert np.delete(expected, favourite).max() < 120
    with pytest.raises(ValueError, match="shares"):
        LearnedUnigramSampler(*by_entry(entries, np.arange(10.0)), 1.0, seed=1)


def test_per_row_is_row_major():
    # Viewed as (n, rows), as a known library once did, the negatives would belong to other users.
    class Counting:
        def draw(self, n, step):
            return np.arange(n)

        def log_expected(self, entries, n):
            return np.zeros(len(entries), np.float32)

    drawn = per_row(Counting(), 3, 2, step=0)
    assert drawn.tolist() == [[0, 1], [2, 3], [4, 5]]
    users = np.array([70, 80, 90])
    assert dict(zip(drawn.ravel().tolist(), np.repeat(users, 2).tolist(), strict=True)) == {
        0: 70, 1: 70, 2: 80, 3: 80, 4: 90, 5: 90,
    }  # fmt: skip


@pytest.mark.parametrize("name", SHARES)
def test_others_are_never_the_positive(name):
    sampler = samplers()[name]
    positives = np.tile(ENTRIES, 500)
    drawn = per_row_others(sampler, positives, 6, step=2)
    assert drawn.shape == (2000, 6)
    assert (drawn != positives[:, None]).all()
    kept = per_row(sampler, 2000, 6, step=2)
    untouched = kept != positives[:, None]
    assert (drawn[untouched] == kept[untouched]).all()  # only hits are drawn again
    # Of a row's others, each comes by its share among the others.
    rows = positives == 9
    share = {e: s for e, s in zip(ENTRIES.tolist(), SHARES[name], strict=True) if e != 9}
    for entry, s in share.items():
        assert (drawn[rows] == entry).mean() == pytest.approx(s / sum(share.values()), abs=0.05)


def test_a_corpus_of_one_item_has_no_others():
    sampler = UnigramSampler(*by_entry(np.array([3]), np.array([8])), 1.0, seed=0)
    with pytest.raises(ValueError, match="at least two items"):
        per_row_others(sampler, np.array([3]), 2, step=0)
    assert per_row_others(sampler, np.array([5]), 2, step=0).tolist() == [[3, 3]]


def test_uniform_by_key_is_uniform_and_keyed():
    keys = np.arange(100_000, dtype=np.int64)
    drawn = uniform_by_key(keys, 0)
    np.testing.assert_allclose(np.histogram(drawn, 10, (0, 1))[0], 10_000, rtol=0.05)
    assert drawn[::-1].tolist() == uniform_by_key(keys[::-1], 0).tolist()
    assert abs(np.corrcoef(drawn, uniform_by_key(keys, 1))[0, 1]) < 0.02


@pytest.mark.parametrize("power", [0.0, 0.75, 1.0])
@pytest.mark.parametrize("n", [1, 3, 5000])
def test_draws_are_the_places_that_a_search_of_the_cumulative_shares_finds(n, power):
    generator = np.random.default_rng(n)
    entries = np.sort(generator.permutation(2 * n)[:n])
    for counts in (generator.zipf(1.2, n) % 100_000, generator.random(n) * 1e6):
        shares = np.maximum(counts, 1).astype(np.float64) ** power
        cumulative = np.cumsum(shares)
        sampler = UnigramSampler(*by_entry(entries, counts, 2 * n), power, seed=5)
        for step in range(20):
            uniform = np.random.Generator(np.random.Philox(key=[5, step])).random(500)
            places = np.searchsorted(cumulative, uniform * cumulative[-1], side="right")
            assert sampler.draw(500, step).tolist() == entries[np.minimum(places, n - 1)].tolist()
