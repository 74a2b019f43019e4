"""A history read in place is the history of objects, whatever is in it."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.moments import one_moment
from models.packed_entries import read_entries
from serving.channels.moment import newest
from serving.packed_history import PackedHistory, newest_of_each, packed_history
from stream.profiles import PLACE_BYTES, HistoryEntry, history_entries

PLAIN = st.sampled_from(["", "#1", "#-22", "i3", "ü€", "a much longer text than eight bytes"])
ANY = PLAIN | st.text(max_size=8)


def entries(text):
    return st.lists(
        st.builds(
            HistoryEntry,
            item_id=text,
            kind=st.sampled_from(["click", "like", "clicks", ""]) | text,
            ts_ms=st.integers(0, 9),
            request_id=st.sampled_from(["", "", "r1", "r2"]) | text,
        ),
        max_size=40,
    )


def packed(history):
    """As stream/profiles.py writes and its script packs them."""
    flat = []
    for at, one in enumerate(history):
        content = msgspec.json.encode((one.item_id, one.kind, one.request_id)).decode()
        flat += [f"{at:0{PLACE_BYTES}x}{content}", str(one.ts_ms)]
    return msgspec.msgpack.encode(flat)


@settings(deadline=None)  # the first run compiles
@given(entries(ANY))
def test_entries_are_those_of_objects(history):
    read = packed_history(packed(history))
    assert list(read) == history == history_entries(packed(history))
    assert read == history
    assert len(read) == len(history)
    assert read[1:] == history[1:]
    if history:
        assert read[-1] == history[-1]
        assert list(reversed(read)) == history[::-1]


@settings(deadline=None)  # the first run compiles
@given(
    entries(PLAIN),
    st.lists(st.sampled_from(["click", "like", "", "#1"]), max_size=3, unique=True),
    st.integers(1, 50),
    st.integers(0, 9),
)
def test_the_newest_are_those_of_objects(history, kinds, length, ts_ms):
    read = packed_history(packed(history))
    assert isinstance(read, PackedHistory)
    found = newest_of_each([read], kinds, length, [ts_ms])
    keys, times = found.id, found.ts_ms
    assert keys.validate(full=True) is None
    assert list(zip(keys.to_pylist(), times.tolist(), strict=True)) == newest(history, kinds, length, ts_ms)


@settings(deadline=None)
@given(st.lists(st.tuples(entries(PLAIN), st.integers(0, 9)), min_size=1, max_size=5), st.integers(1, 9))
def test_several_are_read_as_one_by_one(asked, length):
    read = [packed_history(packed(history)) for history, _ in asked]
    found = newest_of_each(read, ("click", "like"), length, [ts_ms for _, ts_ms in asked])
    for row, (history, ts_ms) in enumerate(asked):
        one = found.row(row)
        listed = list(zip(one.id.to_pylist(), one.ts_ms.tolist(), strict=True))
        assert listed == newest(history, ("click", "like"), length, ts_ms)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 200])
def test_lists_of_every_size_are_read(size):
    history = [HistoryEntry(f"#{at}", "click", 1_700_000_000_000 + at, "") for at in range(size)]
    read = packed_history(packed(history))
    assert isinstance(read, PackedHistory)
    assert read == history


@settings(deadline=None)  # the first run compiles
@given(entries(PLAIN), st.data())
def test_a_part_is_refused_and_nothing_beyond_it_is_read(history, data):
    whole = packed(history)
    part = np.frombuffer(whole[: data.draw(st.integers(0, len(whole) - 1))], np.uint8)
    assert read_entries(part, PLACE_BYTES, np.empty((40, 6), np.int32), np.empty(40, np.int64)) == -1


def test_another_form_is_read_as_objects():
    assert packed_history(packed([HistoryEntry('a"b', "click", 1, "")])) == [
        HistoryEntry('a"b', "click", 1, "")
    ]
    before_time = [HistoryEntry("a", "click", -1, "")]
    assert packed_history(packed(before_time)) == before_time


def test_a_model_is_asked_the_same():
    history = [HistoryEntry(f"#{at}", "click" if at % 3 else "like", at, f"r{at % 2}") for at in range(9)]
    found = newest_of_each([packed_history(packed(history))], ("click",), 3, [7])
    keys, times = found.id, found.ts_ms
    moment = one_moment("u", 7, newest(history, ("click",), 3, 7))
    assert keys.equals(moment.history_id)
    assert times.tolist() == moment.history_ts_ms.tolist()
