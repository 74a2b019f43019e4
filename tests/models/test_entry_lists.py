import numpy as np
import pytest

from models.entry_lists import EntryLists, end_before


def append(lists, owners, values):
    lists.make_room(np.array(owners))
    for owner, value in zip(owners, values, strict=True):
        place = lists.starts[owner] + lists.lengths[owner]
        lists.columns["number"][place] = value
        lists.columns["pair"][place] = [value, -value]
        lists.lengths[owner] += 1


def empty():
    return EntryLists(number=np.empty(0, np.int64), pair=np.empty((0, 2), np.float32))


def content(lists):
    numbers, pairs = lists.columns["number"], lists.columns["pair"]
    slices = [slice(start, start + n) for start, n in zip(lists.starts, lists.lengths, strict=True)]
    for one in slices:
        assert pairs[one].tolist() == [[number, -number] for number in numbers[one]]
    return [numbers[one].tolist() for one in slices]


def test_lists_grow_shrink_and_come_back():
    generator = np.random.default_rng(0)
    lists, expected = empty(), [[] for _ in range(30)]
    for step in range(60):
        owners = generator.integers(0, 1 + step // 2, generator.integers(0, 20))
        append(lists, owners, owners * 1000 + step)
        for owner in owners:
            expected[owner].append(owner * 1000 + step)
        if step % 25 == 24:
            kept = generator.integers(0, 6, lists.owners)
            lists.keep_newest(kept)
            expected[: lists.owners] = [
                one[max(len(one) - n, 0) :] for one, n in zip(expected[: lists.owners], kept, strict=True)
            ]
        if step % 20 == 19:
            lists.clear(np.array([2, 400]))
            expected[2] = []
        assert content(lists) == expected[: lists.owners]
        lists = lists if step % 10 else EntryLists.from_flat(lists.lengths, **lists.flat())
    assert sum(map(len, expected)) > 100


def test_memory_stays_in_proportion_to_the_entries():
    lists = empty()
    for step in range(1000):
        append(lists, [0, step % 10], [step, step])
    # blocks of up to twice the entries, as much again left behind by moves, and the arena's own doubling
    assert len(lists.columns["number"]) <= 8 * 2000
    lists.keep_newest(lists.lengths)
    assert len(lists.columns["number"]) <= 2 * 2000


def test_end_before_is_searchsorted():
    times = np.array([9, 1, 3, 3, 5, 0])
    for ts in range(7):
        assert end_before(times, 1, 5, ts) == 1 + np.searchsorted(times[1:5], ts, side="left")
    assert end_before(times, 2, 2, 4) == 2


def test_a_column_of_another_length_is_refused():
    with pytest.raises(ValueError, match="add up to 3 entries, but column number has 2"):
        EntryLists.from_flat(np.array([1, 2]), number=np.zeros(2, np.int64))
