from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.history import HistoryTable
from models.pooling import history_bags, newest_positions

EVENT = st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 8), st.integers(0, 3))


def oracle(kept, event, ts_run, capacity, length):
    """Brute force: `kept` = the user's list of (ts, item, request) before the run of equal times."""
    _, _, ts, request = event
    earlier = [(t, i, r) for t, i, r in kept if t < ts and r != request]
    return earlier[-length:]


def pushed(kept, event, capacity):
    _, item, ts, request = event
    if any((i, r) == (item, request) for _, i, r in kept):
        return kept, False
    after = sum(t <= ts for t, _, _ in kept)
    kept = [*kept[:after], (ts, item, request), *kept[after:]]
    return kept[-capacity:], True


@settings(max_examples=300, deadline=None)
@given(
    st.lists(EVENT, max_size=60),
    st.booleans(),
    st.integers(1, 4),
    st.integers(0, 4),
    st.lists(st.integers(0, 60), max_size=3),
)
def test_is_the_brute_force_history(stream, in_time_order, length, slack, cuts):
    capacity = length + slack
    if in_time_order:  # else late events
        stream = sorted(stream, key=lambda event: event[2])
    cuts = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    table, kept = HistoryTable(capacity), {}
    for begin, end in pairwise(cuts):
        part = stream[begin:end]
        columns = [np.array([event[place] for event in part]) for place in range(4)]
        items, ages, first = table.observe_and_read(
            columns[0].astype(np.int32),
            columns[1].astype(np.int32),
            columns[2] * 1000,
            columns[3].astype(np.int64),
            length,
        )
        at = 0
        while at < len(part):
            run_end = at
            while run_end < len(part) and part[run_end][2] == part[at][2]:
                run_end += 1
            for place in range(at, run_end):
                expected = oracle(kept.get(part[place][0], []), part[place], at, capacity, length)
                have = items[place] >= 0
                assert have.tolist() == sorted(have.tolist())  # newest last
                assert items[place][have].tolist() == [item for _, item, _ in expected]
                assert ages[place][have].tolist() == [part[place][2] - ts for ts, _, _ in expected]
            for place in range(at, run_end):
                user = part[place][0]
                kept[user], was_first = pushed(kept.get(user, []), part[place], capacity)
                assert bool(first[place]) == was_first
            at = run_end
    restored = HistoryTable.from_state(table.state())
    for name, array in table.state().items():
        assert restored.state()[name].tobytes() == array.tobytes()


def test_removed_items_and_users_leave():
    table = HistoryTable(4)
    users, items = np.array([0, 0, 1, 0], np.int32), np.array([1, 2, 1, 3], np.int32)
    table.observe_and_read(users, items, np.array([1000, 2000, 3000, 4000]), np.arange(4), 0)
    table.drop_items(np.array([2]), 4)
    table.drop_users(np.array([1]))
    read, _, _ = table.observe_and_read(
        np.array([0, 1], np.int32), np.array([0, 0], np.int32), np.array([9000, 9000]), np.array([8, 9]), 3
    )
    assert read.tolist() == [[-1, 1, 3], [-1, -1, -1]]


def test_bags_and_newest_positions():
    history = np.array([[-1, 4, 5], [-1, -1, -1], [1, 2, 3]], np.int32)
    ages = np.array([[0, 86_400, 0], [0, 0, 0], [0, 0, 0]], np.int32)
    indices, offsets, weights = history_bags(history, ages, 0.0)
    assert (indices.tolist(), offsets.tolist()) == ([4, 5, 1, 2, 3], [0, 2, 2, 5])
    assert weights.tolist() == pytest.approx([0.5, 0.5, 1 / 3, 1 / 3, 1 / 3])
    _, _, weights = history_bags(history, ages, 1.0)
    assert weights[:2].tolist() == pytest.approx([1 / 3, 2 / 3])
    assert newest_positions(np.array([0, 4, 4, 5]), 3).tolist() == [[1, 2, 3], [-1, -1, -1], [-1, -1, 4]]
