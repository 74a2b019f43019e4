import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.frozen_ids import STATE, FrozenIds, read_only
from models.id_table import IdTable

KEY = st.one_of(
    st.text(max_size=20),
    st.integers(-(2**63), 2**63 - 1).map(lambda n: f"#{n}"),
    st.sampled_from(["a", "#5", "5", "##5"]),
)


def strings(keys):
    return pa.array(keys, pa.string())


def frozen(table):
    state = table.state()
    return FrozenIds.from_state({name: state[name] for name in STATE})


@settings(max_examples=100, deadline=None)
@given(st.lists(KEY, max_size=600), st.integers(0, 3))
def test_finds_every_key_and_no_other_as_a_dict_does(keys, length):
    known = {key: place for place, key in enumerate(dict.fromkeys(key for key in keys[::2] if key))}
    table = FrozenIds.of_unique(strings(list(known)))
    asked = [*keys, *(key[: length + 1] for key in keys), *(key * 3 for key in keys)]
    assert table.lookup(strings(asked)).tolist() == [known.get(key, -1) for key in asked]
    assert table.keys().to_pylist() == list(known)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.one_of(st.lists(st.tuples(KEY, st.integers(0, 1000)), max_size=30), st.integers(0, 1000))),
    st.integers(1, 3),
)
def test_equals_the_table_that_it_was_made_of(acts, admit_after):
    """Entries, and rows of those that have one, also after some expired and left gaps."""
    table, keys = IdTable(admit_after, 300), {"never", ""}
    for act in acts:
        if isinstance(act, int):
            table.expire(act)
        else:
            keys |= {key for key, _ in act}
            table.observe(strings([key for key, _ in act]), np.array([ts for _, ts in act], np.int64))
    asked, same = strings(sorted(keys)), frozen(table)
    entries = table.lookup(asked)
    assert same.lookup(asked).tolist() == entries.tolist()
    assert same.entry_capacity == table.entry_capacity
    assert same.row_capacity <= table.row_capacity
    assert same.keys_of(entries).equals(table.keys_of(entries))
    everything = np.arange(table.entry_capacity)
    assert same.keys_of(everything).equals(table.keys_of(everything))
    weights = np.arange(3.0 * table.row_capacity, dtype=np.float32).reshape(-1, 3)
    values = np.full((len(asked), 3), -1, np.float32)
    same.read_rows(asked, read_only(weights), values)
    rows = table.rows(entries)
    np.testing.assert_array_equal(values, np.where(rows[:, None] > 0, weights[rows], -1))


def test_an_entry_of_unique_keys_is_its_own_row():
    values = np.full((4, 2), -1, np.float32)
    weights = np.arange(6, dtype=np.float32).reshape(3, 2)
    FrozenIds.of_unique(strings(["a", "b", "c"])).read_rows(
        pa.array(["x", "c", "", "a", None]).slice(1), read_only(weights), values
    )
    assert values.tolist() == [[4, 5], [-1, -1], [0, 1], [-1, -1]]


def test_many_keys_take_few_bytes():
    table = IdTable()
    table.observe(strings([f"#{n:06d}" for n in range(100_000)]), np.zeros(100_000, np.int64))
    same = frozen(table)
    assert same.nbytes <= 100_000 * (7 + 4 + 8 + 4) + 100
    keys = strings([f"#{n:06d}" for n in range(-50_000, 200_000)])
    assert same.lookup(keys).tolist() == table.lookup(keys).tolist()


@pytest.mark.parametrize("keys", [["a", "b", "a"], ["a", "", "b"]])
def test_refuses_repeated_and_empty_keys(keys):
    with pytest.raises(ValueError, match="is empty or a repetition"):
        FrozenIds.of_unique(strings(keys))
    with pytest.raises(TypeError, match="int64"):
        FrozenIds.of_unique(strings(["a"])).lookup(pa.array([1]))


def test_sliced_dictionary_and_null_columns():
    table = FrozenIds.of_unique(strings(["w", "x", "a"]).slice(1))
    column = pa.array(["x", "a", None, "b"])
    assert table.lookup(column).tolist() == [0, 1, -1, -1]
    assert table.lookup(column.slice(1).dictionary_encode()).tolist() == [1, -1, -1]
    assert table.lookup(pa.chunked_array([column, column.slice(0, 1)])).tolist() == [0, 1, -1, -1, 0]
