from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.key_bytes import string_array
from models.moments import HistoryLists, Moments, newest_places, one_moment

NO_TIMES = np.empty(0, np.int64)


def moments(n, **histories):
    nothing = np.zeros(n + 1, np.int64)
    return Moments(
        pa.array(["u"] * n, pa.string()), np.zeros(n, np.int64), pa.array([], pa.string()), nothing, NO_TIMES,
        histories=histories,
    )  # fmt: skip


def test_one_moment_has_every_value_in_a_column_of_its_own_type():
    moment = one_moment(
        "u", 9, [("a", 1), ("b", 2)],
        {"device": "tv", "query": None}, {"age": 33.5, "likes": ["x", "y"], "none": [], "town": "t"},
        {"views": [("c", 3)], "likes": []},
    )  # fmt: skip
    assert len(moment) == 1
    assert {name: column.to_pylist() for name, column in moment.context.items()} == {
        "device": ["tv"],
        "query": [None],
    }
    assert {name: column.to_pylist() for name, column in moment.user_attributes.items()} == {
        "age": [33.5],
        "likes": [["x", "y"]],
        "none": [[]],
        "town": ["t"],
    }
    assert moment.history.id.to_pylist() == ["a", "b"]
    assert moment.history.ts_ms.tolist() == [1, 2]
    assert moment.history_named("views").id.to_pylist() == ["c"]
    assert moment.history_named("likes").offsets.tolist() == [0, 0]


def test_a_history_that_is_not_given_is_empty():
    lists = moments(3).history_named("views")
    assert (lists.offsets.tolist(), len(lists.id), len(lists.ts_ms)) == ([0, 0, 0, 0], 0, 0)
    assert len(moments(0).history_named("views").offsets) == 1


def test_further_histories_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"histories\.views_offsets has 2 rows, user_id has 3"):
        moments(3, views=HistoryLists(pa.array([], pa.string()), np.zeros(3, np.int64), NO_TIMES))
    with pytest.raises(ValueError, match=r"histories\.views_offsets end at 2, but 1 ids and 2 times"):
        moments(1, views=HistoryLists(pa.array(["a"]), np.array([0, 2]), np.zeros(2, np.int64)))


@given(st.lists(st.integers(0, 6), max_size=8), st.integers(0, 5), st.integers(0, 7))
def test_newest_places_are_the_ends_of_the_lists(sizes: list[int], begin: int, most: int) -> None:
    offsets = begin + np.cumsum([0, *sizes], dtype=np.int64)
    places, left = newest_places(offsets, most)
    expected = [list(range(start, end))[-most:] if most else [] for start, end in pairwise(offsets.tolist())]
    assert [places[start:end].tolist() for start, end in pairwise(left.tolist())] == expected
    assert len(places) == left[-1]


@given(st.lists(st.text(max_size=20)))
def test_a_string_array_is_what_arrow_makes(texts):
    assert string_array(texts).equals(pa.array(texts, pa.string()))
