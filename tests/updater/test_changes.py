"""The sum of changes does in one step what they do one after the other."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from models.delta import TableRows
from models.learner import TouchedRows
from updater.changes import merged, table_changes

KEYS = st.sampled_from(["a", "b", "#1", "#2", "c"])
Reader = dict[str, float]


@st.composite
def interval(draw: st.DrawFn) -> TableRows:
    keys = draw(st.lists(KEYS, unique=True))
    gone = draw(st.lists(KEYS, unique=True).map(lambda found: [key for key in found if key not in keys]))
    values = draw(st.lists(st.integers(0, 99), min_size=len(keys), max_size=len(keys)))
    rows = np.array(values, np.float32).reshape(-1, 1)
    return TableRows(pa.array(keys, pa.string()), rows, rows * 2, pa.array(gone, pa.string()))


def applied(state: Reader, change: TableRows) -> Reader:
    """What a reader holds afterwards, by plain dict."""
    state = {key: value for key, value in state.items() if key not in change.tombstones.to_pylist()}
    return state | dict(zip(change.keys.to_pylist(), change.rows[:, 0].tolist(), strict=True))


@given(st.lists(interval(), min_size=1, max_size=5))
def test_cumulative_equals_increments(intervals: list[TableRows]) -> None:
    base = dict.fromkeys(["a", "b", "#1"], -1.0)
    one_by_one = base
    total: dict[str, dict[str, TableRows]] = {}
    for change in intervals:
        one_by_one = applied(one_by_one, change)
        total = merged(total, {"model": {"user": change}})
    whole = total["model"]["user"]
    assert applied(base, whole) == one_by_one
    assert len(set(whole.keys.to_pylist())) == len(whole.keys)
    assert not set(whole.keys.to_pylist()) & set(whole.tombstones.to_pylist())
    assert whole.vectors is not None
    np.testing.assert_array_equal(whole.vectors, whole.rows * 2)


def test_a_row_that_expires_in_its_own_interval_is_only_a_tombstone() -> None:
    touched = {"user": TouchedRows(pa.array(["a", "b"]), np.ones((2, 1), np.float32), None)}
    change = table_changes(touched, {"user": pa.array(["b"])})["user"]
    assert change.keys.to_pylist() == ["a"]
    assert change.tombstones.to_pylist() == ["b"]
    assert change.rows.shape == (1, 1)


def test_merging_changes_neither_argument() -> None:
    older = {"model": {"user": TableRows(pa.array(["a"]), np.ones((1, 1), np.float32))}}
    newer = {"model": {"user": TableRows(pa.array(["a"]), np.zeros((1, 1), np.float32))}}
    merged(older, newer)
    assert older["model"]["user"].rows[0, 0] == 1
    assert newer["model"]["user"].rows[0, 0] == 0
