"""Candidates of a training row, for every source of negatives and every loss, against brute force."""

from typing import get_args

import numpy as np
import pytest

from models.candidates import Negatives, _among, _distinct, draw_candidates, with_others
from models.frequency import FrequencyEstimator
from models.hard_negatives import HardNegatives
from models.model_config import PER_ROW_LOSSES, Loss, ModelConfig, NegativeSource
from models.own_items import OwnItems
from models.request_targets import companions
from models.samplers import LearnedUnigramSampler, LogUniformSampler, UnigramSampler, frequency_ranks
from models.samples import Samples

ITEMS, B, T = 30, 40, 3
COUNTS = np.arange(ITEMS, 0, -1) ** 2
LOSSES, SOURCES = get_args(Loss), get_args(NegativeSource)
CASES = [
    (loss, source)
    for loss in LOSSES
    for source in SOURCES
    if not (loss in PER_ROW_LOSSES and source == "in_batch")
]


def batch_of(seed=0, users=8, items=ITEMS):
    generator = np.random.default_rng(seed)
    return Samples(
        sequence=np.arange(100, 100 + B),
        ts_ms=np.full(B, 1000),
        user=generator.integers(-1, users, B).astype(np.int32),
        item=generator.integers(0, items, B).astype(np.int32),
        weight=np.ones(B, np.float32),
        request=generator.integers(0, 9, B),
        categories=np.empty((B, 0), np.int32),
        numbers=np.empty((B, 0), np.float32),
    )


def own_of(seed=1, most=9):
    """Up to `most` distinct own items a row, none for some."""
    generator = np.random.default_rng(seed)
    rows = [generator.choice(ITEMS, generator.integers(0, most + 1), replace=False) for _ in range(B)]
    flat = np.concatenate(rows).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    ones = np.ones(len(flat), np.float32)
    return OwnItems(offsets, flat, ones, ones, ones), [set(row.tolist()) for row in rows]


def shares(source, estimator, power):
    """Probability of every item by the definition of its sampler."""
    entries = np.arange(ITEMS)
    if source == "log_uniform":  # counts fall with the entry: it is its rank
        return np.log((entries + 2) / (entries + 1)) / np.log(ITEMS + 1)
    if source in ("learned_unigram", "in_batch"):
        p = estimator.probability(entries)
        return p if source == "in_batch" else p**power / (p**power).sum()
    return (
        COUNTS ** (power if source == "unigram" else 0)
        / (COUNTS ** (power if source == "unigram" else 0)).sum()
    )


def sampler_of(source, estimator, power):
    entries, live = np.arange(ITEMS), np.ones(ITEMS, np.bool_)
    if source == "in_batch":
        return None
    if source == "log_uniform":
        return LogUniformSampler(entries, frequency_ranks(COUNTS), ITEMS, 0)
    if source == "learned_unigram":
        return LearnedUnigramSampler(live, estimator.probability(entries), power, 0)
    return UnigramSampler(live, COUNTS, 0.0 if source == "uniform" else power, 0)


def estimator_of():
    estimator = FrequencyEstimator(prior_gap=50.0)
    estimator.observe(np.random.default_rng(3).integers(0, ITEMS, 500) ** 2 // ITEMS)
    return estimator


def drawn(loss, source, own=None, trues_BT=None, offline=None, rejects=None, batch=None, step=5, **changes):
    given = {"negatives": 24, "negatives_per_row": 5 if loss == "pointwise" else 7, "own_negatives": 4}
    config = ModelConfig(loss=loss, negative_source=source, **{**given, **changes})
    batch, estimator = batch_of() if batch is None else batch, estimator_of()
    trues_BT = batch.item.astype(np.int64)[:, None] if trues_BT is None else trues_BT
    negatives = Negatives(sampler_of(source, estimator, config.negative_power), rejects, 2)
    found = draw_candidates(config, batch, trues_BT, own, offline, negatives, estimator, step)
    return config, batch, trues_BT, estimator, found


def check_places(found, trues_BT):
    """Positives are where they should be, and no negative that counts is a positive of its row."""
    assert len(np.unique(found.entries)) == len(found.entries)
    known = trues_BT >= 0
    np.testing.assert_array_equal(found.known, known)
    np.testing.assert_array_equal(found.entries[found.positive][known], trues_BT[known])
    for row in range(len(trues_BT)):
        positives = set(trues_BT[row])
        shared, alone = found.entries[found.shared], found.entries[found.rows[row]]
        assert not positives & set(shared[~found.shared_hit[row]])
        assert not positives & set(alone[~found.rows_hit[row]])
    assert found.rows.shape == found.rows_hit.shape == found.log_expected_rows.shape == found.own_rows.shape


@pytest.mark.parametrize(("loss", "source"), CASES)
def test_no_negative_is_a_positive_and_expected_counts_are_right(loss, source):
    config, batch, trues_BT, estimator, found = drawn(loss, source)
    check_places(found, trues_BT)
    if loss in PER_ROW_LOSSES:
        assert len(found.shared) == 0
        assert found.rows.shape == (B, config.negatives_per_row)
        assert not found.rows_hit.any()  # drawn again until it is another item
        assert not found.log_expected_positive.any()
        assert not found.log_expected_rows.any()
        return
    assert found.rows.shape == (B, 0)
    shared = found.entries[found.shared]
    assert len(shared) == 24
    if source == "in_batch":
        assert shared.tolist() == batch.item[:24].tolist()
    # Exactly the own positive is a hit, for all rows and columns.
    np.testing.assert_array_equal(found.shared_hit, batch.item[:, None] == shared[None, :])
    share = shares(source, estimator, config.negative_power)
    np.testing.assert_allclose(found.log_expected_shared, np.log(24 * share[shared]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        found.log_expected_positive[:, 0], np.log(24 * share[batch.item]), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("source", SOURCES)
def test_without_correction_nothing_is_subtracted(source):
    _, _, _, _, found = drawn("softmax", source, logq=False, own=own_of()[0])
    for part in (found.log_expected_positive, found.log_expected_shared, found.log_expected_rows):
        assert part.size
        assert not part.any()


@pytest.mark.parametrize("source", ["unigram", "uniform", "log_uniform", "learned_unigram"])
def test_draws_come_as_often_as_expected(source):
    counts, n = np.zeros(ITEMS), 0
    for step in range(60):
        _, _, _, estimator, found = drawn("softmax", source, step=step, negatives=200)
        counts += np.bincount(found.entries[found.shared], minlength=ITEMS)
        n += 200
    expected = n * shares(source, estimator, 0.75)
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected) + 3).all()


def subtracted(loss, source, log_own, item, config, estimator):
    """What the logit of an own item has subtracted, by hand."""
    if loss in ("softmax", "nce"):
        return log_own
    if loss in ("listwise", "pointwise"):  # as if the sampler had drawn it, like the row's other negatives
        share = shares(source, estimator, config.negative_power)[item]
        return log_own - np.log(config.negatives_per_row * share)
    return 0.0


@pytest.mark.parametrize(("loss", "source"), CASES)
def test_own_items_are_drawn_apart(loss, source):
    own, sets = own_of()
    config, batch, trues_BT, _, found = drawn(loss, source, own=own)
    check_places(found, trues_BT)
    shared = found.entries[found.shared] if len(found.shared) else np.empty(0, np.int64)
    _, _, _, estimator, plain = drawn(loss, source)
    n = config.own_negatives
    for row in range(B):
        # A shared candidate that is an own item is masked: it is among the own ones, or was not drawn there.
        masked = {*sets[row], int(batch.item[row])}
        np.testing.assert_array_equal(found.shared_hit[row], [item in masked for item in shared])
        others = sets[row] - {int(batch.item[row])}
        items, hit, place = found.entries[found.rows[row]], found.rows_hit[row], found.own_rows[row]
        part = slice(found.rows.shape[1] - n, None)
        taken = items[part][~hit[part]].tolist()
        assert len(taken) == len(set(taken)) == min(n, len(others))
        assert set(taken) <= others
        assert not set(items[:-n][~hit[:-n]]) & sets[row]
        for at in np.flatnonzero(~hit):
            if items[at] in sets[row]:
                assert own.offsets[row] <= place[at] < own.offsets[row + 1]
                assert own.item[place[at]] == items[at]
            else:
                assert place[at] == -1
        is_own = int(batch.item[row]) in sets[row]
        assert (found.own_positive[row, 0] >= 0) == is_own
        log_own = np.log(min(1, n / len(others))) if others else 0.0
        expected = {
            item: subtracted(loss, source, log_own, item, config, estimator)
            for item in {*others, int(batch.item[row])}
        }
        wanted = [expected[item] for item in taken]
        np.testing.assert_allclose(found.log_expected_rows[row, part][~hit[part]], wanted, atol=1e-5)
        if is_own:
            target = int(batch.item[row])
            assert own.item[found.own_positive[row, 0]] == target
            np.testing.assert_allclose(found.log_expected_positive[row, 0], expected[target], atol=1e-5)
        else:
            assert found.log_expected_positive[row, 0] == plain.log_expected_positive[row, 0]


def pool(batch, items=5):
    """Rejects of every known user before the moment, and one after it."""
    rejects = HardNegatives()
    users = np.unique(batch.user[batch.user >= 0])
    for at in range(items + 1):
        n = len(users)
        rejects.observe(
            users, ((users + 3 * at) % ITEMS).astype(np.int32), np.full(n, at % 2, np.uint8),
            np.zeros(n, np.int32), np.full(n, 5000 if at == items else at),
        )  # fmt: skip
    return rejects


@pytest.mark.parametrize("loss", LOSSES)
def test_rejects_and_offline_ones_are_mixed_in(loss):
    batch, generator = batch_of(), np.random.default_rng(5)
    config = ModelConfig(loss=loss, negative_source="unigram")
    per_row = loss in PER_ROW_LOSSES
    n = (5 if loss == "pointwise" else 7) if per_row else config.hard_per_row
    offline = generator.integers(0, ITEMS, (B, n))
    offline[::3] = -1
    rejected = {user: {(user + 3 * at) % ITEMS for at in range(5)} for user in range(8)}
    both = ("rejects", "offline")
    _, _, trues_BT, _, found = drawn(
        loss, "unigram", batch=batch, rejects=pool(batch), offline=offline, hard_negatives=both
    )
    check_places(found, trues_BT)
    _, _, _, _, easy = drawn(loss, "unigram", batch=batch)
    for row in range(B):
        allowed = rejected.get(int(batch.user[row]), set()) | set(offline[row][offline[row] >= 0].tolist())
        items, hit = found.entries[found.rows[row]], found.rows_hit[row]
        if not per_row:  # all that there are, beside the shared ones
            assert found.rows.shape[1] == 2 * n
            assert set(items[~hit]) <= allowed - {int(batch.item[row])}
            assert (hit[n:] == ((offline[row] < 0) | (offline[row] == batch.item[row]))).all()
            continue
        drawn_easy = easy.entries[easy.rows[row]]
        hard = items != drawn_easy
        assert set(items[hard]) <= allowed
        assert hard.sum() <= int(np.ceil(n / 2))  # one to one, the fraction by the row's key
        if not allowed:
            assert not hard.any()
    assert not found.log_expected_rows.any()


def test_published_mix_has_one_hard_one_in_a_hundred_and_one():
    batch = batch_of()
    offline = np.full((B, 7), 29)
    changes = {"hard_negatives": ("offline",), "hard_mix": (100, 1), "batch": batch}
    _, _, _, _, found = drawn("pairwise_hinge", "uniform", offline=offline, **changes)
    _, _, _, _, easy = drawn("pairwise_hinge", "uniform", batch=batch)
    replaced = (found.entries[found.rows] != easy.entries[easy.rows]).sum()
    assert 0 <= replaced <= 10  # 7 / 101 of 40 rows


def test_a_loss_row_by_row_needs_a_sampler():
    batch = batch_of()
    with pytest.raises(ValueError, match="loss listwise: expected a sampler"):
        draw_candidates(
            ModelConfig(loss="listwise", negative_source="uniform"), batch,
            batch.item.astype(np.int64)[:, None], None, None, Negatives(None, None, 0), estimator_of(), 0,
        )  # fmt: skip


def test_companions_are_the_other_targets_of_the_request():
    batch = batch_of()
    found = companions(batch, T - 1)
    for row in range(B):
        same = (batch.user == batch.user[row]) & (batch.request == batch.request[row])
        group = np.flatnonzero(same)
        place = int(np.flatnonzero(group == row)[0])
        ring = [*group[place + 1 :], *group[:place]][: T - 1]
        expected = batch.item[ring].tolist()
        assert found[row].tolist() == expected + [-1] * (T - 1 - len(expected))
    assert (found >= 0).any()
    assert companions(batch, 0).shape == (B, 0)


@pytest.mark.parametrize("with_own", [False, True])
@pytest.mark.parametrize("source", SOURCES)
def test_several_positives_of_a_row(source, with_own):
    batch = batch_of()
    trues_BT = np.concatenate([batch.item.astype(np.int64)[:, None], companions(batch, T - 1)], axis=1)
    own, sets = own_of() if with_own else (None, [set()] * B)
    config, _, _, estimator, found = drawn(
        "softmax", source, own=own, trues_BT=trues_BT, batch=batch, num_true=T
    )
    check_places(found, trues_BT)
    share = shares(source, estimator, config.negative_power)
    for row, at in np.ndindex(B, T):
        item = int(trues_BT[row, at])
        if item >= 0 and item not in sets[row]:
            expected = np.log(24 * share[item])
            np.testing.assert_allclose(found.log_expected_positive[row, at], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("with_own", [False, True])
def test_other_rows_targets_as_hard_ones(with_own):
    batch = batch_of()
    own, sets = own_of() if with_own else (None, [set()] * B)
    _, _, trues_BT, _, before = drawn("softmax", "unigram", own=own, batch=batch)
    others = np.random.default_rng(8).integers(-1, B, (B, 3))
    found = with_others(before, others, trues_BT)
    check_places(found, trues_BT)
    n = before.rows.shape[1]
    for row, at in np.ndindex(B, 3):
        other = others[row, at]
        expected_hit = other < 0 or batch.item[other] == batch.item[row]
        assert found.rows_hit[row, n + at] == expected_hit
        if other >= 0:
            item = int(batch.item[other])
            assert found.entries[found.rows[row, n + at]] == item
            place = found.own_rows[row, n + at]
            assert (place >= 0) == (item in sets[row])
            assert place < 0 or own.item[place] == item
    np.testing.assert_array_equal(found.rows[:, :n], before.rows)
    assert not found.log_expected_rows[:, n:].any()


def test_draws_are_a_function_of_step_and_salt():
    left, again, later = (drawn("softmax", "unigram", step=step)[4] for step in (5, 5, 6))
    assert left.entries[left.shared].tolist() == again.entries[again.shared].tolist()
    assert left.entries[left.shared].tolist() != later.entries[later.shared].tolist()


@pytest.mark.parametrize("items", [1, 5, 300, 2**31 - 1])
@pytest.mark.parametrize(("rows", "trues", "shared"), [(0, 1, 3), (7, 1, 0), (40, 1, 64), (50, 3, 257)])
def test_hits_are_those_of_comparing_all_with_all(items, rows, trues, shared):
    rng = np.random.default_rng(items)
    drawn = rng.integers(0, items, shared)
    trues_BT = rng.integers(-1, items, (rows, trues))
    if shared and rows:
        trues_BT[::3, -1] = drawn[rng.integers(0, shared, len(trues_BT[::3]))]
    expected = (trues_BT[:, :, None] == drawn).any(1)
    np.testing.assert_array_equal(_among(drawn, trues_BT), expected)


@pytest.mark.parametrize(("n", "items"), [(0, 1), (1, 1), (500, 40), (5000, 10**9)])
def test_distinct_items_are_in_the_order_in_which_they_come_first(n, items):
    entries = np.random.default_rng(n).integers(0, items, n)
    distinct, places = _distinct(entries)
    assert distinct.tolist() == list(dict.fromkeys(entries.tolist()))
    assert distinct[places].tolist() == entries.tolist()
