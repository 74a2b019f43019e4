import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.item_popularity import ItemPopularity

HOUR_MS = 3_600_000
HALF_LIVES_H = (12.0, 168.0)
ITEMS = np.array([3, 0, -1, 1, 2, 99, 0])
# item, hour
EVENT = st.tuples(st.integers(0, 3), st.integers(0, 20))


def brute_force(events, items, as_of_ms, anchor_ms, half_lives_h=HALF_LIVES_H, floor=2.0):
    event_item, ts = np.array(events, np.int64).reshape(-1, 2).T
    expected = np.zeros((len(as_of_ms), len(items), len(half_lives_h)))
    for t, (as_of, anchor) in enumerate(zip(as_of_ms, anchor_ms, strict=True)):
        for p, hours in enumerate(half_lives_h):
            half_life = hours * HOUR_MS
            for k, item in enumerate(items):
                ages = as_of - ts[(event_item == item) & (ts < as_of)]
                decayed = np.sum(2.0 ** (-ages / half_life))
                expected[t, k, p] = np.log(1 + decayed * 2 ** ((as_of - anchor) / half_life) / floor)
    return expected


def observe(popularity, events):
    popularity.observe(
        np.array([item for item, _ in events], np.int64), np.array([ts for _, ts in events], np.int64)
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(EVENT, max_size=15), max_size=4), st.lists(st.integers(0, 21), max_size=4))
def test_is_the_brute_force_sum_however_late_events_come(calls, trims):
    popularity, events = ItemPopularity(HALF_LIVES_H, 2.0), []
    trims = [*trims, *[0] * len(calls)]
    trimmed = 0
    for call, trim in zip(calls, trims, strict=False):
        # half hours, so that moments lie on events and between them
        part = [(item, hour * HOUR_MS // 2) for item, hour in call]
        observe(popularity, part)
        events += part
        popularity.trim(trim * HOUR_MS // 2)
        trimmed = max(trimmed, trim * HOUR_MS // 2)
        popularity = ItemPopularity.from_state(popularity.state())
        as_of = np.arange(trimmed, 12 * HOUR_MS, HOUR_MS * 3 // 4)
        anchor = as_of - as_of % HOUR_MS
        values = popularity.values(ITEMS, as_of, anchor)
        assert (values.dtype, values.shape) == (np.float32, (len(as_of), len(ITEMS), 2))
        np.testing.assert_allclose(values, brute_force(events, ITEMS, as_of, anchor), rtol=1e-6, atol=1e-7)
        t, k = np.divmod(np.arange(values[:, :, 0].size), len(ITEMS))
        pairs = popularity.values_at(ITEMS[k], as_of[t], anchor[t])
        assert pairs.tobytes() == values.tobytes()  # row-major: pair after pair


def test_by_hand():
    popularity = ItemPopularity((1.0,), 0.5)
    popularity.observe(np.array([5, 5]), np.array([0, HOUR_MS]))
    one = np.array([5])
    # after two hours: 1/4 + 1/2; the frame of hour 1 doubles it
    as_of, anchor = np.array([2 * HOUR_MS] * 2), np.array([2 * HOUR_MS, HOUR_MS])
    expected = [np.log(1 + 0.75 / 0.5), np.log(1 + 1.5 / 0.5)]
    assert popularity.values(one, as_of, anchor).ravel().tolist() == pytest.approx(expected)
    # an event of the moment itself is not seen
    now = np.array([HOUR_MS, 0])
    assert popularity.values(one, now, now).ravel().tolist() == pytest.approx([np.log(2), 0])


def test_between_two_anchors_only_items_with_new_events_change():
    generator = np.random.default_rng(0)
    popularity = ItemPopularity(HALF_LIVES_H, 1.0)
    popularity.observe(generator.integers(0, 50, 500), generator.integers(0, 24 * HOUR_MS, 500))
    items, anchor = np.arange(50), np.array([24 * HOUR_MS])
    before = popularity.values(items, anchor, anchor)
    popularity.observe(np.array([3, 8]), np.array([24 * HOUR_MS + 5, 24 * HOUR_MS + 9]))
    after = popularity.values(items, anchor + 3 * HOUR_MS, anchor)
    changed = (before != after).all(axis=(0, 2))
    assert np.flatnonzero(changed).tolist() == [3, 8]
    assert (before == after)[:, ~changed].all()
    # far above the floor another anchor shifts all items by the same amount
    many = ItemPopularity((12.0,), 1e-6)
    many.observe(np.repeat(items, 1 + items), np.full(50 * 51 // 2, HOUR_MS))
    moment = np.array([2 * HOUR_MS] * 2)
    values = many.values(items, moment, np.array([0, 6 * HOUR_MS]))[:, :, 0]
    np.testing.assert_allclose(values[0] - values[1], np.log(2) / 2, atol=1e-5)


def test_many_events_and_long_gaps_stay_exact():
    # 5000 events of one item, a minute apart: a geometric series; then ten years of nothing
    popularity = ItemPopularity((1.0,), 1.0)
    minutes = np.arange(5000)
    popularity.observe(np.zeros(5000, np.int64), minutes[::-1] * 60_000)
    last, ratio = 4999 * 60_000, 2 ** (-1 / 60)
    total = (1 - ratio**5000) / (1 - ratio)
    late = 10 * 365 * 24 * HOUR_MS
    as_of, anchor = np.array([last + 1, late, last + 1]), np.array([last, late, last - 5000 * HOUR_MS])
    values = popularity.values(np.array([0]), as_of, anchor).ravel()
    assert values.tolist() == pytest.approx([np.log1p(total), 0.0, np.log(total) + 5000 * np.log(2)])


def test_state_does_not_depend_on_how_events_were_cut():
    generator = np.random.default_rng(2)
    items, ts = generator.integers(0, 20, 300), generator.integers(0, 100, 300)
    whole, single = ItemPopularity(HALF_LIVES_H, 1.0), ItemPopularity(HALF_LIVES_H, 1.0)
    whole.observe(items, ts)
    for at in range(300):
        single.observe(items[at : at + 1], ts[at : at + 1])
    again = ItemPopularity.from_state(single.state())
    for name, array in whole.state().items():
        assert single.state()[name].tolist() == array.tolist()
        assert (again.state()[name].dtype, again.state()[name].tolist()) == (array.dtype, array.tolist())


def test_trim_keeps_one_entry_per_quiet_item_and_later_moments():
    popularity = ItemPopularity(HALF_LIVES_H, 1.0)
    events = [(item, hour * HOUR_MS) for hour in range(40) for item in range(3)]
    observe(popularity, events)
    popularity.trim(30 * HOUR_MS)
    assert popularity.state()["lengths"].tolist() == [11, 11, 11]  # hours 29 (folded) .. 39
    events += [(1, 2 * HOUR_MS), (1, 29 * HOUR_MS), (2, 29 * HOUR_MS + 1), (0, 35 * HOUR_MS)]
    observe(popularity, events[-4:])
    as_of = np.array([30, 31, 36, 50]) * HOUR_MS
    expected = brute_force(events, range(3), as_of, as_of, floor=1.0)
    np.testing.assert_allclose(popularity.values(np.arange(3), as_of, as_of), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="before 108000000 ms have been folded"):
        popularity.values(np.arange(3), as_of - 1, as_of)


def test_removed_items_leave():
    popularity = ItemPopularity((1.0,), 1.0)
    events = [(0, 0), (1, 0), (1, 5)]
    observe(popularity, events)
    popularity.trim(6)
    popularity.drop_items(np.array([1, 500]))
    now = np.array([HOUR_MS])
    assert popularity.values(np.array([0, 1]), now, now).ravel().tolist() == pytest.approx([np.log(1.5), 0])
    observe(popularity, [(1, 4), (1, HOUR_MS - 1), (-1, 3)])  # the entry is another item's now
    events = [(0, 0), (1, 4), (1, HOUR_MS - 1)]
    expected = brute_force(events, [0, 1], now, now, (1.0,), 1.0)
    np.testing.assert_allclose(popularity.values(np.array([0, 1]), now, now), expected, rtol=1e-6)


def test_no_half_lives_and_refused_ones():
    popularity = ItemPopularity((), 1.0)
    observe(popularity, [(0, 1)])
    now = np.array([5, 6])
    assert popularity.values(np.array([0]), now, now).shape == (2, 1, 0)
    for half_lives_h, floor in (((12.0, 0.0), 1.0), ((12.0,), 0.0)):
        with pytest.raises(ValueError, match="must be above 0"):
            ItemPopularity(half_lives_h, floor)
