import math
import threading
import tracemalloc

import msgpack
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.catalogue import ITEMS, USERS, Catalogue, CatalogueWriter
from stream.catalogue_intake import CatalogueIntake
from stream.change import Change, decode_changes, encode_changes, plain_text, to_batch
from stream.dead_letters import DeadLetters
from stream.errors import Malformed
from stream.producer import EventProducer, changes_of
from stream.profiles import ProfileConfig, Profiles
from stream.topics import KafkaConfig
from tests.stream.samples import T0

text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
value = st.one_of(
    text, st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False), st.booleans()
)
changes = st.lists(
    st.builds(
        Change,
        id=st.one_of(text, st.integers(-(2**63), 2**63 - 1)),
        ts_ms=st.integers(1, 2**63 - 1),
        attributes=st.dictionaries(text, value, max_size=4),
        deleted=st.booleans(),
    ),
    max_size=5,
)


@given(changes)
def test_round_trip(many):
    assert decode_changes(encode_changes(many)) == (many, [])


def test_golden_bytes_of_version_1():
    packed = encode_changes([Change(id=5, ts_ms=9, attributes={"age": 3})])
    assert (
        packed.hex() == "82a17601a76368616e6765739183a2696405a574735f6d7309aa6174747269627574657381a361676503"
    )


@given(st.binary(max_size=100))
def test_any_bytes_are_survived(data):
    decode_changes(data)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": ""}, "invalid_id"),
        ({"id": "ü" * 129}, "invalid_id"),
        ({"ts_ms": 0}, "invalid_value"),
        ({"attributes": {"a": math.nan}}, "invalid_value"),
        ({"attributes": {"a": [1]}}, "invalid_value"),
        ({"attributes": {"item_id": "x"}}, "invalid_id"),
        ({"v": 2}, "schema_version"),
    ],
)
def test_bad_changes_have_a_reason(change, reason):
    message = msgpack.packb({"v": 1, "id": "a", "ts_ms": 1, **change})
    good, bad = decode_changes(message)
    assert (good, [one.reason for one in bad]) == ([], [reason])


def test_encoding_refuses_what_decoding_would():
    with pytest.raises(Malformed):
        encode_changes([Change(id="", ts_ms=1)])


def put(writer, name, *many, offset=0):
    writer.append(name, to_batch(list(many)), {(0, 0): offset + len(many)})


def test_as_of_any_moment(tmp_path):
    writer, catalogue = CatalogueWriter(tmp_path), Catalogue(tmp_path)
    assert catalogue.items_table().num_rows == 0
    put(writer, ITEMS, Change(id="a", ts_ms=10, attributes={"price": 1, "tag": "x"}), Change(id=7, ts_ms=10))
    put(
        writer,
        ITEMS,
        Change(id="a", ts_ms=20, attributes={"price": 1.5}),
        Change(id=7, ts_ms=30, deleted=True),
    )
    put(writer, ITEMS, Change(id="a", ts_ms=15, attributes={"price": 9}))  # arrives late, was true before 20
    assert catalogue.items_table(5).num_rows == 0
    assert catalogue.items_table(12).to_pylist() == [
        {"item_id": "a", "price": 1, "tag": "x"}, {"item_id": "#7", "price": None, "tag": None},
    ]  # fmt: skip
    assert {r["item_id"]: r["price"] for r in catalogue.items_table(16).to_pylist()} == {"#7": None, "a": 9}
    assert catalogue.items_table().to_pylist() == [{"item_id": "a", "price": 1.5}]
    assert catalogue.sequence() == 5
    assert catalogue.items_table(50) is catalogue.items_table()


def test_column_types(tmp_path):
    put(
        CatalogueWriter(tmp_path), USERS,
        Change(id=1, ts_ms=1, attributes={"i": 2**60, "f": 1, "m": 1, "b": True, "s": "ibsen"}),
        Change(id=2, ts_ms=1, attributes={"i": -1, "f": 0.5, "m": "1x", "b": False, "s": ""}),
    )  # fmt: skip
    table = Catalogue(tmp_path).users_table()
    assert {f.name: str(f.type) for f in table.schema} == {
        "user_id": "string", "b": "string", "f": "double", "i": "int64", "m": "string", "s": "string",
    }  # fmt: skip
    assert table.drop_columns("user_id").to_pylist()[0] == {
        "b": "true",
        "f": 1.0,
        "i": 2**60,
        "m": "1",
        "s": "ibsen",
    }


def test_torn_tail_and_positions(tmp_path):
    writer = CatalogueWriter(tmp_path)
    assert writer.incarnation("topic") == 0
    put(writer, ITEMS, Change(id="a", ts_ms=1))
    put(writer, ITEMS, Change(id="b", ts_ms=1), offset=1)
    writer.close()
    path = tmp_path / "items.log"
    path.write_bytes(path.read_bytes()[:-3])
    assert Catalogue(tmp_path).items_table()["item_id"].to_pylist() == ["a"]
    writer = CatalogueWriter(tmp_path)
    assert writer.next_offsets(ITEMS) == {(0, 0): 1}
    assert writer.incarnation("topic") == 0


def test_through_kafka(broker, store, topics, tmp_path, eventually):
    kafka = KafkaConfig(
        bootstrap=broker, items=topics("items"), users=topics("users"), events=topics("events")
    )
    profiles = Profiles(store, ProfileConfig(prefix=topics("catalogue")))
    for part in range(2):  # the second run begins where the first ended
        writer, stop = CatalogueWriter(tmp_path), threading.Event()
        intake = CatalogueIntake(kafka, writer, profiles, DeadLetters(tmp_path / "dead.jsonl"))
        thread = threading.Thread(target=intake.run, args=(stop,))
        thread.start()
        try:
            with EventProducer(kafka) as producer:
                table = pa.table(
                    {"item_id": [part * 100 + n for n in range(100)], "price": [1.0] * 99 + [math.nan]}
                )
                producer.send_changes(kafka.items, changes_of(table, "item_id", T0))
                producer.send_changes(kafka.users, [Change(id=5, ts_ms=T0, attributes={"age": 30 + part})])
                producer.send_raw(kafka.items, b"bad")
                producer.flush()
            eventually(lambda intake=intake: intake.changes == 101)
        finally:
            stop.set()
            thread.join()
            writer.close()
    catalogue = Catalogue(tmp_path)
    assert catalogue.items_table().num_rows == 200
    assert catalogue.items_table()["price"].null_count == 2
    assert catalogue.users_table().to_pylist() == [{"user_id": "#5", "age": 31}]
    assert profiles._store.hget(f"{profiles.config.prefix}:{{u:#5}}", "attributes") == b'{"age":"31"}'
    assert {letter.topic for letter in DeadLetters(tmp_path / "dead.jsonl").read()} == {kafka.items}


def test_attributes_come_back_after_the_store_lost_them(broker, store, topics, tmp_path, eventually):
    kafka = KafkaConfig(bootstrap=broker, items=topics("items"), users=topics("users"))
    profiles = Profiles(store, ProfileConfig(prefix=topics("catalogue")))
    writer, stop = CatalogueWriter(tmp_path), threading.Event()
    put(
        writer, USERS,
        Change(id=5, ts_ms=1, attributes={"age": 30, "vip": True}),
        Change(id="x", ts_ms=1, attributes={"age": 2.5}),
    )  # fmt: skip
    intake = CatalogueIntake(kafka, writer, profiles, DeadLetters(tmp_path / "dead.jsonl"))
    thread = threading.Thread(target=intake.run, args=(stop,))
    thread.start()
    try:
        key = f"{profiles.config.prefix}:{{u:#5}}"
        eventually(lambda: profiles._store.hget(key, "attributes") == b'{"age":"30","vip":"true"}')
        eventually(profiles.holds_attributes)
    finally:
        stop.set()
        thread.join()
        writer.close()


@pytest.mark.parametrize("value", [5, 5.0, 5.5, 1e20, 1e-7, True, "5.0"])
def test_a_category_reads_the_same_text_in_training_and_in_a_profile(tmp_path, value):
    put(CatalogueWriter(tmp_path), USERS, Change(id=1, ts_ms=1, attributes={"a": value}))
    column = Catalogue(tmp_path).users_table()["a"]
    assert column.cast("string").to_pylist() == [plain_text(value)]


def test_following_a_catalogue_holds_it_once(tmp_path):
    """Every look reads and keeps what is new, not the whole file once more."""
    writer, reader = CatalogueWriter(tmp_path), Catalogue(tmp_path)
    many = [Change(id=n, ts_ms=T0, attributes={"title": f"{n:040d}"}) for n in range(2_000)]
    writer.append(ITEMS, to_batch(many), {(0, 0): 1})
    reader.item_changes(0)
    size = (tmp_path / "items.log").stat().st_size
    tracemalloc.start()
    for n in range(50):
        writer.append(ITEMS, to_batch([Change(id=n, ts_ms=T0 + 1 + n, deleted=True)]), {(0, 0): 2 + n})
        changed, _ = reader.item_changes(2_000 + n)
        assert changed["item_id"].to_pylist() == [f"#{n}"]
    held_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held_bytes < 5 * size
    assert reader.items_table().num_rows == 1_950
    writer.close()
