import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.id_table import IdTable
from models.key_bytes import hash_keys, keys_from_buffers

KEY = st.one_of(
    st.text(max_size=20),
    st.integers(-(2**63), 2**63 - 1).map(lambda n: f"#{n}"),
    st.sampled_from(["a", "#5", "5", "##5"]),
)
TIME = st.integers(0, 1000)


def strings(keys):
    return pa.array(keys, pa.string())


def same_bytes(left, right):
    left, right = left.state(), right.state()
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].tobytes() == right[name].tobytes(), name


class DictTable:
    """The oracle: a dict from key to what is known about it, one event at a time."""

    def __init__(self, admit_after, window):
        self.admit_after, self.window = admit_after, window
        self.known = {}

    def observe(self, key, ts):
        entry = self.known.setdefault(
            key, {"seen": ts, "count": 0, "start": ts, "in_window": 0, "row": False}
        )
        entry["seen"] = max(entry["seen"], ts)
        entry["count"] += 1
        if not entry["row"]:
            if ts - entry["start"] > self.window:
                entry["start"], entry["in_window"] = ts, 0
            entry["in_window"] += 1
            entry["row"] = entry["in_window"] >= self.admit_after

    def expire(self, before):
        gone = {key for key, entry in self.known.items() if entry["seen"] < before}
        for key in gone:
            del self.known[key]
        return gone


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.one_of(st.lists(st.tuples(KEY, TIME), max_size=30), st.integers(0, 1000)), max_size=8),
    st.integers(1, 3),
    st.integers(0, 300),
)
def test_behaves_as_a_dict(acts, admit_after, window):
    table, oracle = IdTable(admit_after, window), DictTable(admit_after, window)
    for act in acts:
        if isinstance(act, int):
            keys, _, _ = table.expire(act)
            assert set(keys.to_pylist()) == oracle.expire(act)
        else:
            entries = table.observe(
                strings([key for key, _ in act]), np.array([ts for _, ts in act], np.int64)
            )
            for (key, ts), entry in zip(act, entries, strict=True):
                assert (entry == -1) == (key == "")
                if key:
                    oracle.observe(key, ts)
        assert len(table) == len(oracle.known)
        keys = list(oracle.known)
        entries = table.lookup(strings(keys))
        assert len(set(entries.tolist())) == len(keys)
        assert table.keys_of(entries).to_pylist() == keys
        assert table.counts(entries).tolist() == [oracle.known[key]["count"] for key in keys]
        assert table.last_seen_ms(entries).tolist() == [oracle.known[key]["seen"] for key in keys]
        rows = table.rows(entries)
        assert [bool(row) for row in rows] == [oracle.known[key]["row"] for key in keys]
        assert len(set(rows[rows > 0].tolist())) == (rows > 0).sum()
        restored = IdTable.from_state(table.state())
        same_bytes(table, restored)
        assert restored.lookup(strings(keys)).tolist() == entries.tolist()


def test_lookup_never_mutates():
    table = IdTable()
    table.observe(strings(["a", "#1"]), np.array([1, 2], np.int64))
    before = {name: array.copy() for name, array in table.state().items()}
    assert table.lookup(strings(["a", "new", "", "#1", "1"])).tolist() == [0, -1, -1, 1, -1]
    for name, array in table.state().items():
        assert array.tobytes() == before[name].tobytes()


def test_grows_and_keeps_entries():
    table = IdTable()
    keys = strings([f"#{n}" for n in range(50_000)])
    first = table.observe(keys[:10], np.zeros(10, np.int64))
    entries = table.observe(keys, np.ones(50_000, np.int64))
    assert entries[:10].tolist() == first.tolist()
    assert entries.tolist() == list(range(50_000))
    assert table.lookup(keys).tolist() == entries.tolist()
    assert table.row_capacity == 50_001


def test_expired_rows_and_entries_are_given_again():
    table = IdTable()
    table.observe(strings(["old", "new"]), np.array([0, 100], np.int64))
    table.take_new_rows()
    keys, entries, rows = table.expire(50)
    assert (keys.to_pylist(), entries.tolist(), rows.tolist()) == (["old"], [0], [1])
    assert table.lookup(strings(["old", "new"])).tolist() == [-1, 1]
    assert table.observe(strings(["next"]), np.array([200], np.int64)).tolist() == [0]
    assert table.take_new_rows().tolist() == [1]


def test_admission_gives_a_row_within_the_window_only():
    table = IdTable(admit_after=2, admit_window_ms=100)
    entry = table.observe(strings(["a"]), np.array([0], np.int64))
    table.observe(strings(["a"]), np.array([500], np.int64))
    assert table.rows(entry).tolist() == [0]
    table.observe(strings(["a"]), np.array([600], np.int64))
    assert table.rows(entry).tolist() == [1]


def test_sliced_dictionary_and_null_columns():
    table = IdTable()
    column = pa.array(["x", "a", None, "b"]).slice(1)
    assert table.observe(column, np.zeros(3, np.int64)).tolist() == [0, -1, 1]
    assert table.lookup(column.dictionary_encode()).tolist() == [0, -1, 1]
    assert table.lookup(pa.chunked_array([column, column])).tolist() == [0, -1, 1, 0, -1, 1]


def test_refuses_what_is_no_key_column():
    with pytest.raises(TypeError, match="int64"):
        IdTable().lookup(pa.array([1, 2]))
    with pytest.raises(ValueError, match="1 keys but 2 times"):
        IdTable().observe(strings(["a"]), np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="'a'"):
        IdTable.of_unique(strings(["a", "a"]))


def test_hashes_are_stable_wherever_a_key_lies_in_its_column():
    """Saved states hold hashes: of requests, for one."""
    keys = ["", "a", "#1234567", "#12345678", "ключ", "a key of more than sixteen bytes"]
    expected = [
        -8000516528691662285, -4127228293411980141, -4842289970247163316, 681001648312373962,
        -5404198403407381824, 5115567934687581128,
    ]  # fmt: skip
    for column in (strings(keys), strings(["before", *keys, "some bytes behind it"]).slice(1, len(keys))):
        assert hash_keys(column).tolist() == expected
    assert [int(hash_keys(strings([key]))[0]) for key in keys] == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(KEY, max_size=700, unique=True), st.integers(0, 3))
def test_lookup_finds_every_key_and_no_other(keys, length):
    """More keys than one block, some longer than a word, some that end with the column's bytes."""
    half = keys[::2]
    table = IdTable()
    given_entries = table.observe(strings(half), np.zeros(len(half), np.int64))
    known = {key: entry for key, entry in zip(half, given_entries.tolist(), strict=True) if key}
    asked = [*keys, *(key[: length + 1] for key in keys), *(key * 3 for key in keys)]
    assert table.lookup(strings(asked)).tolist() == [known.get(key, -1) for key in asked]


def unhashed(hashed, length):
    """The key of `length` bytes, up to eight, that has this hash: every step of hash_bytes undone."""
    whole = (1 << 64) - 1
    mixed = hashed & whole
    mixed ^= mixed >> 29 ^ mixed >> 58
    mixed = mixed * pow(0xC4CEB9FE1A85EC53, -1, 1 << 64) & whole
    mixed ^= mixed >> 32
    mixed = mixed * pow(0xFF51AFD7ED558CCD, -1, 1 << 64) & whole
    return (mixed ^ 0x9E3779B97F4A7C15 ^ length).to_bytes(8, "little")[:length]


@given(st.text(st.characters(max_codepoint=127), min_size=1, max_size=8))
def test_a_short_key_can_be_had_back_from_its_hash_and_length(key):
    assert unhashed(int(hash_keys(strings([key]))[0]), len(key)) == key.encode()


def colliding(first, second):
    """Two keys of sixteen bytes with one hash: what the first words differ by, the second make up for."""
    whole, mixed = (1 << 64) - 1, []
    for word in (first, second):
        value = (0x9E3779B97F4A7C15 ^ 16 ^ int.from_bytes(word, "little")) * 0xFF51AFD7ED558CCD & whole
        mixed.append(value ^ value >> 32)
    tail = b"whatever"
    other = (int.from_bytes(tail, "little") ^ mixed[0] ^ mixed[1]).to_bytes(8, "little")
    return [first + tail, second + other]


@pytest.mark.parametrize("known", [[0], [1], [0, 1], [1, 0]])
def test_long_keys_of_one_hash_are_told_apart(known):
    data = np.frombuffer(b"".join(colliding(b"abcdefgh", b"ijklmnop")), np.uint8).copy()
    keys = keys_from_buffers(data, np.array([0, 16, 32], np.int32))
    assert len(set(hash_keys(keys).tolist())) == 1
    table = IdTable()
    entries = [table.observe(keys.slice(one, 1), np.zeros(1, np.int64))[0] for one in known]
    assert sorted(entries) == list(range(len(known)))
    found = dict(zip(known, entries, strict=True))
    assert table.lookup(keys).tolist() == [found.get(0, -1), found.get(1, -1)]
    assert IdTable.from_state(table.state()).lookup(keys).tolist() == table.lookup(keys).tolist()
