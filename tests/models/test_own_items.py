from itertools import combinations

import numpy as np
import pytest

from models.history import HistoryTable
from models.own_items import (
    OWN_FEATURES,
    OwnItems,
    own_features,
    own_hits,
    own_of_lists,
    place_of,
    sampled_own,
)

HOUR_S = 3600.0


def own_of(*rows):
    """Rows of (item, count, last_age_s, first_age_s)."""
    flat = [entry for row in rows for entry in row]
    offsets = np.cumsum([0, *(len(row) for row in rows)])
    columns = np.array(flat, np.float32).reshape(-1, 4).T
    return OwnItems(offsets, columns[0].astype(np.int32), *columns[1:])


def random_own(seed, rows, items, longest):
    generator = np.random.default_rng(seed)
    lists = [generator.choice(items, generator.integers(0, longest + 1), replace=False) for _ in range(rows)]
    return own_of(*[[(item, 1, 0, 0) for item in one] for one in lists]), [one.tolist() for one in lists]


def test_distinct_items_of_lists_by_hand():
    offsets = np.array([0, 5, 5, 8])
    code = np.array([7, 3, -1, 7, 3, 3, 9, 9], np.int32)
    ts_ms = np.array([1_000, 2_500, 3_000, 4_000, 6_900, 1_000, 2_000, 20_000])
    own = own_of_lists(offsets, code, ts_ms, np.array([10_000, 10_000, 10_000]))
    assert own.offsets.tolist() == [0, 2, 2, 4]
    assert own.item.tolist() == [3, 7, 9, 3]
    assert own.count.tolist() == [2, 2, 2, 1]
    assert own.last_age_s.tolist() == [3, 6, 0, 9]  # an entry after the moment has age 0
    assert own.first_age_s.tolist() == [7, 9, 8, 9]
    assert len(own) == 3
    newest = own_of_lists(offsets, code, ts_ms, np.array([10_000, 10_000, 10_000]), length=3)
    assert (newest.offsets.tolist(), newest.item.tolist()) == ([0, 2, 2, 4], [3, 7, 9, 3])
    assert newest.count.tolist() == [1, 1, 2, 1]  # -1 takes a place, so only (-1, 7, 3) of the first list


def test_lists_given_by_a_client_are_the_history_table():
    generator = np.random.default_rng(3)
    n = 3000
    user = generator.integers(0, 12, n).astype(np.int32)
    item = generator.integers(0, 200, n).astype(np.int32)
    ts_ms = np.sort(generator.integers(0, 10**9, n))
    table = HistoryTable(n)
    table.observe(user, item, ts_ms, np.arange(n))
    asked, moment = np.arange(-1, 13, dtype=np.int32), generator.integers(0, 10**9, 14)
    of_table = table.own(asked, moment, np.full(14, -1), 50)
    lists = [np.flatnonzero((user == one) & (ts_ms < at)) for one, at in zip(asked, moment, strict=True)]
    offsets, flat = np.cumsum([0, *map(len, lists)]), np.concatenate(lists)
    of_lists = own_of_lists(offsets, item[flat], ts_ms[flat], moment, length=50)
    assert of_table.offsets[-1] > 100  # more distinct items than the search has slots
    for name in ("offsets", "item", "count", "last_age_s", "first_age_s"):
        assert getattr(of_table, name).tolist() == getattr(of_lists, name).tolist()
        assert getattr(of_table, name).dtype == getattr(of_lists, name).dtype


def test_features_by_hand():
    # bought three times: 100 h, ? and 20 h ago (mean gap 40 h); once an hour ago
    own = own_of([(4, 3, 20 * HOUR_S, 100 * HOUR_S), (9, 1, HOUR_S, HOUR_S)], [(4, 1, 0, 0)])
    features, week, minute = own_features(own), np.log(169.0), 1 / 60
    due = np.log((20 + minute) / (40 + minute)) / 4
    assert (features.shape, features.dtype) == ((3, OWN_FEATURES), np.float32)
    assert features[0].tolist() == pytest.approx(
        [np.log10(4), np.log(21) / week, np.log(101) / week, np.log(41) / week, due, 0, 3 / 4, 1], rel=1e-6
    )
    assert features[1].tolist() == pytest.approx(
        [np.log10(2), np.log(2) / week, np.log(2) / week, 0, 0, 1, 1 / 4, 1 / np.sqrt(2)], rel=1e-6
    )
    assert features[2].tolist() == pytest.approx([np.log10(2), 0, 0, 0, 0, 1, 1, 1], rel=1e-6)


def test_features_are_finite_and_small_for_extremes():
    decade = 10 * 365 * 24 * HOUR_S
    own = own_of(
        [(0, 2, 0, 0), (1, 2, 0, decade), (2, 2, decade, decade), (3, 1e5, 0, decade), (4, 1, decade, decade)]
    )
    features = own_features(own)
    assert np.isfinite(features).all()
    assert np.abs(features).max() <= 5.01
    assert features[1, 4] == -2
    assert features[2, 4] == 2


def test_every_subset_of_own_items_is_drawn_equally_often():
    rows = 20_000
    own = own_of(*[[(item, 1, 0, 0) for item in (5, 6, 7, 8, 9)]] * rows)
    items, places, expected = sampled_own(own, np.full(rows, 7, np.int32), 2, np.arange(rows), 1)
    counts = dict.fromkeys(combinations((5, 6, 8, 9), 2), 0)
    for one in items.tolist():
        counts[tuple(one)] += 1
    # six subsets: mean 3333, standard deviation 53
    assert all(abs(count - rows / 6) < 5 * 53 for count in counts.values())
    assert (own.item[places] == items).all()
    assert (places // 5 == np.arange(rows)[:, None]).all()
    assert (expected == 0.5).all()


def test_draws_are_without_replacement_complete_when_few_and_keyed():
    own, lists = random_own(4, 300, 40, 9)
    exclude = np.array([one[0] if one and row % 2 else 39 for row, one in enumerate(lists)], np.int32)
    keys = np.random.default_rng(0).integers(-(2**62), 2**62, 300)
    items, places, expected = sampled_own(own, exclude, 4, keys, 7)
    for row, one in enumerate(lists):
        allowed = [item for item in one if item != exclude[row]]
        drawn = [item for item in items[row].tolist() if item >= 0]
        assert len(drawn) == min(4, len(allowed)) == len(set(drawn))
        assert set(drawn) <= set(allowed)
        assert (
            items[row, len(drawn) :].tolist() == places[row, len(drawn) :].tolist() == [-1] * (4 - len(drawn))
        )
        assert own.item[places[row, : len(drawn)]].tolist() == drawn
        assert all(own.offsets[row] <= place < own.offsets[row + 1] for place in places[row, : len(drawn)])
        assert expected[row] == pytest.approx(min(1, 4 / len(allowed)) if allowed else 1)
    # The draw belongs to the key, not to the row's position; another salt or key draws otherwise.
    backwards = own_of(*[[(item, 1, 0, 0) for item in one] for one in lists[::-1]])
    again, _, _ = sampled_own(backwards, exclude[::-1], 4, keys[::-1], 7)
    assert again[::-1].tolist() == items.tolist()
    assert sampled_own(own, exclude, 4, keys, 8)[0].tolist() != items.tolist()
    assert sampled_own(own, exclude, 4, keys + 1, 7)[0].tolist() != items.tolist()


def test_hits_and_places_are_brute_force():
    own, lists = random_own(6, 80, 50, 20)
    candidates = np.random.default_rng(1).integers(-1, 60, 130)  # with repeats, -1 and items nobody has
    hits = own_hits(own, candidates)
    assert (hits.dtype, hits.shape) == (np.bool_, (80, 130))
    assert hits.tolist() == [[int(item) in one for item in candidates] for one in lists]
    assert own_hits(own, np.empty(0, np.int64)).shape == (80, 0)
    wanted = np.random.default_rng(2).integers(-1, 50, 80).astype(np.int32)
    expected = [
        own.offsets[row] + one.index(item) if item in one else -1
        for row, (one, item) in enumerate(zip(lists, wanted.tolist(), strict=True))
    ]
    assert place_of(own, wanted).tolist() == expected
    assert any(place >= 0 for place in expected)


def test_nothing_of_nobody():
    none = own_of_lists(
        np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.int64)
    )
    assert len(none) == 0
    assert own_features(none).shape == (0, OWN_FEATURES)
    items, places, expected = sampled_own(none, np.empty(0, np.int32), 3, np.empty(0, np.int64), 0)
    assert (items.shape, places.shape, expected.shape) == ((0, 3), (0, 3), (0,))
    assert own_hits(none, np.array([1])).shape == (0, 1)
