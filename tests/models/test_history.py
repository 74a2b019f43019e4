from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.history import HistoryTable
from models.pooling import history_bags, newest_positions

# user, item, second, request
EVENT = st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 8), st.integers(0, 3))
MOMENTS = [(user, ts, request) for user in range(-1, 5) for ts in range(10) for request in (1, 3, 4)]
USERS, SECONDS, REQUESTS = (np.array(column) for column in zip(*MOMENTS, strict=True))


def pushed(kept, event):
    """The user's log `kept` (ts, item, request) after one more event, and whether it was the first."""
    _, item, ts, request = event
    if any((i, r) == (item, request) for _, i, r in kept):
        return kept, False
    after = sum(t <= ts for t, _, _ in kept)
    return [*kept[:after], (ts, item, request), *kept[after:]], True


def before(kept, ts, request):
    return [(t, i) for t, i, r in kept if t < ts and r != request]


def observe(table, part):
    columns = [np.array([event[place] for event in part], np.int64) for place in range(4)]
    user, item = columns[0].astype(np.int32), columns[1].astype(np.int32)
    return table.observe(user, item, columns[2] * 1000, columns[3])


def check_reads(table, kept, length):
    users = USERS.astype(np.int32)
    items, ages = table.read(users, SECONDS * 1000, REQUESTS, length)
    own = table.own(users, SECONDS * 1000, REQUESTS, length)
    assert (items.shape, items.dtype, ages.dtype) == ((len(MOMENTS), length), np.int32, np.int32)
    for row, (user, ts, request) in enumerate(MOMENTS):
        earlier = before(kept.get(user, []), ts, request)
        expected = earlier[max(len(earlier) - length, 0) :]
        none = length - len(expected)
        assert items[row].tolist() == [-1] * none + [item for _, item in expected]
        assert ages[row].tolist() == [0] * none + [ts - t for t, _ in expected]
        mine = slice(own.offsets[row], own.offsets[row + 1])
        distinct = list(dict.fromkeys(item for _, item in reversed(expected)))
        times = [[t for t, i in expected if i == item] for item in distinct]
        assert own.item[mine].tolist() == distinct
        assert own.count[mine].tolist() == [len(of_item) for of_item in times]
        assert own.last_age_s[mine].tolist() == [ts - max(of_item) for of_item in times]
        assert own.first_age_s[mine].tolist() == [ts - min(of_item) for of_item in times]
    assert len(own.item) == own.offsets[-1]


def same_state(one, other):
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert (other[name].dtype, other[name].tolist()) == (array.dtype, array.tolist())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(EVENT, max_size=60),
    st.booleans(),
    st.integers(0, 4),
    st.integers(0, 6),
    st.lists(st.integers(0, 60), max_size=3),
    st.booleans(),
)
def test_is_the_brute_force_history(stream, in_time_order, length, capacity, cuts, trims):
    if in_time_order:  # else late events
        stream = sorted(stream, key=lambda event: event[2])
    cuts = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    table, kept = HistoryTable(capacity), {}
    for begin, end in pairwise(cuts):
        part = stream[begin:end]
        first = observe(table, part)
        for place, event in enumerate(part):
            kept[event[0]], was_first = pushed(kept.get(event[0], []), event)
            assert bool(first[place]) == was_first
        check_reads(table, kept, length)
        if trims:
            table.trim()
            kept = {user: log[max(len(log) - capacity, 0) :] for user, log in kept.items()}
            table = HistoryTable.from_state(table.state())
    check_reads(table, kept, length)
    state = table.state()
    same_state(state, HistoryTable.from_state(state).state())
    assert state["lengths"].sum() == sum(len(log) for log in kept.values())


def test_state_does_not_depend_on_how_events_were_cut():
    generator = np.random.default_rng(5)
    stream = list(zip(*(generator.integers(0, high, 400).tolist() for high in (9, 20, 50, 400)), strict=True))
    whole, single = HistoryTable(8), HistoryTable(8)
    observe(whole, stream)
    for event in stream:
        observe(single, [event])
    same_state(whole.state(), single.state())
    whole.trim()
    single.trim()
    same_state(whole.state(), single.state())


def test_a_reader_sees_neither_its_own_request_nor_its_instant_nor_later_ones():
    table = HistoryTable(9)
    observe(table, [(0, 1, 10, 1), (0, 2, 20, 2), (0, 3, 20, 3), (0, 4, 30, 4), (0, 5, 5, 4)])
    user, ts = np.zeros(4, np.int32), np.array([20_000, 20_001, 30_000, 5_000])
    items, age_s = table.read(user, ts, np.array([3, 7, 4, 9]), 3)
    # 20 s: request 3 itself and the other one of the instant are not there; 30 s: request 4 has an earlier
    # event of its own (at 5 s)
    assert items.tolist() == [[-1, 5, 1], [1, 2, 3], [1, 2, 3], [-1, -1, -1]]
    assert age_s.tolist() == [[0, 15, 10], [10, 0, 0], [20, 10, 10], [0, 0, 0]]


def test_the_same_item_of_one_request_is_found_near_its_place(monkeypatch):
    monkeypatch.setattr("models.history.NEAR", 3)
    table = HistoryTable(9)
    observe(table, [(0, at, 10 * at, at) for at in range(10)])
    # (request, item) 7 lies three back from the end: found; 6 lies four back: beyond NEAR
    assert observe(table, [(0, 7, 95, 7)]).tolist() == [False]
    assert observe(table, [(0, 6, 95, 6)]).tolist() == [True]
    # late: the place is behind 10 * 2; forward 3, 4, 5 are searched, 6 is not
    assert observe(table, [(0, 5, 25, 5)]).tolist() == [False]
    assert observe(table, [(0, 6, 25, 6)]).tolist() == [True]
    # the same item in another request, another item in the same request and another user count
    assert observe(table, [(0, 9, 96, 8), (0, 8, 96, 9), (1, 9, 90, 9)]).tolist() == [True] * 3


def test_one_user_with_very_many_events():
    n = 100_000
    table = HistoryTable(10)
    for part in np.array_split(np.arange(n), 50):
        zero = np.zeros(len(part), np.int32)
        assert table.observe(zero, part.astype(np.int32), part * 1000, part).all()
    ts = np.array([1, n // 2, n]) * 1000
    items, age_s = table.read(np.zeros(3, np.int32), ts, np.array([-1, -1, -1]), 2)
    assert items.tolist() == [[-1, 0], [n // 2 - 2, n // 2 - 1], [n - 2, n - 1]]
    assert age_s.tolist() == [[0, 1], [2, 1], [2, 1]]
    table.trim()
    assert table.state()["items"].tolist() == list(range(n - 10, n))


def test_removed_items_and_users_leave():
    table = HistoryTable(4)
    observe(table, [(0, 1, 1, 0), (0, 2, 2, 1), (1, 1, 3, 2), (0, 3, 4, 3)])
    table.drop_items(np.array([2]), 4)
    table.drop_users(np.array([1, 70]))
    observe(table, [(1, 3, 2, 9)])  # the entry of a removed user may be given to another one
    read, _ = table.read(np.array([0, 1], np.int32), np.array([9000, 9000]), np.array([7, 8]), 3)
    assert read.tolist() == [[-1, 1, 3], [-1, -1, 3]]


def test_entries_must_be_known_and_states_whole():
    table = HistoryTable(4)
    with pytest.raises(ValueError, match="must not be negative, got user -1"):
        observe(table, [(0, 1, 1, 0), (-1, 1, 1, 0)])
    with pytest.raises(ValueError, match="capacity"):
        HistoryTable(-1)
    observe(table, [(0, 1, 1, 0), (1, 2, 1, 0)])
    state = table.state()
    state["ts_ms"] = state["ts_ms"][:1]
    with pytest.raises(ValueError, match="add up to 2 entries, but column ts_ms has 1"):
        HistoryTable.from_state(state)


def test_bags_and_newest_positions():
    history = np.array([[-1, 4, 5], [-1, -1, -1], [1, 2, 3]], np.int32)
    ages = np.array([[0, 86_400, 0], [0, 0, 0], [0, 0, 0]], np.int32)
    indices, offsets, weights = history_bags(history, ages, 0.0)
    assert (indices.tolist(), offsets.tolist()) == ([4, 5, 1, 2, 3], [0, 2, 2, 5])
    assert weights.tolist() == pytest.approx([0.5, 0.5, 1 / 3, 1 / 3, 1 / 3])
    _, _, weights = history_bags(history, ages, 1.0)
    assert weights[:2].tolist() == pytest.approx([1 / 3, 2 / 3])
    assert newest_positions(np.array([0, 4, 4, 5]), 3).tolist() == [[1, 2, 3], [-1, -1, -1], [-1, -1, 4]]


@settings(max_examples=60, deadline=None)
@given(st.lists(EVENT, max_size=60), st.integers(1, 6), st.sampled_from([0.0, 1e-5, 2.0]))
def test_bags_are_what_is_read(events, length, half_life_days):
    table = HistoryTable(1000)
    observe(table, events)
    users = USERS.astype(np.int32)
    read = table.read(users, SECONDS * 1000, REQUESTS, length)
    items, *bags = history_bags(*read, half_life_days)
    row = np.random.default_rng(length).permutation(100).astype(np.int32)
    found = table.bags(users, SECONDS * 1000, REQUESTS, length, half_life_days, row)
    for one, other in zip(found, (row[items].astype(np.int64), *bags), strict=True):
        assert (one.dtype, one.tobytes()) == (other.dtype, other.tobytes())
