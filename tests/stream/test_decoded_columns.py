"""The compiled sweep gives what codec and columns give: the same batch, the same refusals."""

import math
import random
import subprocess
import sys

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.codec import decode_messages, encode, encode_packed
from stream.columns import to_columns
from stream.decoded_columns import _sweep, decode_columns, event_at
from stream.event import EVENT_SCHEMA
from stream.event_kernels import (
    FIELDS,
    LEAST_BYTES,
    context_entries,
    find_events,
    text_column,
    valid_text,
)
from stream.keys import INT64_MAX, INT64_MIN
from tests.stream.samples import event
from tests.stream.test_codec import BASE, GOLDEN_PACKED, GOLDEN_SINGLE, events

sharp = st.sampled_from(["#", "##", "#5", "ü#", "1"])
integer = st.one_of(
    st.integers(INT64_MIN, INT64_MAX),
    st.sampled_from([0, -1, -32, -33, 127, 128, 255, 256, 10**18, INT64_MAX, INT64_MIN, INT64_MAX + 1]),
)
anything = st.one_of(
    st.none(), st.booleans(), integer, st.floats(), sharp, st.text(max_size=40), st.binary(max_size=3),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3),
    st.sampled_from(["", "x" * 256, "ü" * 128, "x" * 257, "ü" * 200, "click", "search"]),
)  # fmt: skip
changed = st.dictionaries(st.sampled_from([*FIELDS, "v", "new"]), anything, max_size=3)


def plainly(messages):
    """The oracle: typed objects, then columns."""
    decoded = decode_messages(messages)
    where = decoded.message
    count = np.full(len(where), 3, np.int32)
    batch = to_columns(decoded.events, count, PARTITION[where], OFFSET[where], decoded.ordinal)
    return batch, where, decoded.rejected


PARTITION, OFFSET = np.arange(1000, dtype=np.int32) % 4, 7 * np.arange(1000)
decode_columns([GOLDEN_PACKED], 0, PARTITION[:1], OFFSET[:1])  # compiled before the tests' time runs
valid_text(np.frombuffer(b".", np.uint8), 1, 1)


def check(messages):
    batch, message, rejected = plainly(messages)
    swept = decode_columns(messages, 3, PARTITION[: len(messages)], OFFSET[: len(messages)])
    swept.batch.validate(full=True)
    assert swept.batch.schema == EVENT_SCHEMA
    assert swept.batch.to_pylist() == batch.to_pylist()
    assert swept.batch["value"].to_pylist() == batch["value"].to_pylist()
    assert swept.message.tolist() == message.tolist()
    assert swept.rejected == rejected
    return swept


def unusual(messages):
    return _sweep(messages, 0, PARTITION[: len(messages)], OFFSET[: len(messages)])[2].tolist()


@given(st.lists(st.one_of(events.map(encode), st.lists(events, max_size=4).map(encode_packed)), max_size=6))
def test_what_producers_write_is_swept_and_the_same(messages):
    check(messages)
    assert unusual(messages) == []


@given(st.lists(events, min_size=1, max_size=4), st.booleans(), st.data())
def test_damaged_messages_are_refused_alike(many, single, data):
    message = bytearray(encode(many[0]) if single else encode_packed(many))
    for _ in range(data.draw(st.integers(1, 3))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(message[: data.draw(st.integers(0, len(message)))])
    whole = encode_packed(many)
    check([whole, bytes(message), cut, whole, cut + b"\x00", bytes(message)])


@given(st.lists(changed, min_size=1, max_size=4), st.booleans())
def test_odd_fields_are_refused_alike(changes, dropped):
    several = [{**BASE, **change} for change in changes]
    if dropped:
        several = [{key: value for key, value in one.items() if value is not None} for one in several]
    inside = [{key: value for key, value in one.items() if key != "v"} for one in several]
    packable = [packed_or_none(one) for one in several] + [packed_or_none({"v": 1, "events": inside})]
    check([one for one in packable if one is not None])


def packed_or_none(value):
    """Its bytes, None where msgpack has none (integers beyond 64 bits)."""
    try:
        return msgpack.packb(value)
    except OverflowError:
        return None


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_any_bytes_are_refused_alike(first, second):
    check([first, second, b"\x84\xa1v\x01" + first, GOLDEN_PACKED[:12] + second])


def test_golden_bytes_are_swept():
    swept = check([GOLDEN_SINGLE, GOLDEN_PACKED])
    assert unusual([GOLDEN_SINGLE, GOLDEN_PACKED]) == []
    row = swept.batch.to_pylist()[1]
    assert (row["user_id"], row["item_id"], row["value"], row["context"]) == (
        "anna",
        "#42",
        3.5,
        [("geo", "de")],
    )
    assert [row[name] for name in ("incarnation", "partition", "offset", "ordinal")] == [3, 1, 7, 0]


@pytest.mark.parametrize("value", [0, 3, -7, 2**53 + 1, INT64_MAX, INT64_MIN, 0.0, -0.0, 5e-324, 1.7e308])
def test_numbers_as_values_are_swept(value):
    message = msgpack.packb({"v": 1, **BASE, "value": value})
    swept = check([message])
    assert unusual([message]) == []
    assert math.copysign(1, swept.batch["value"][0].as_py()) == math.copysign(1, value)


@pytest.mark.parametrize("identifier", [0, 9, 10, -1, -9, -10, 127, 128, 65536, 10**18, INT64_MAX, INT64_MIN])
def test_integer_ids_are_written_as_key_texts(identifier):
    message = msgpack.packb({"v": 1, **BASE, "user_id": identifier, "item_id": identifier})
    swept = check([message])
    assert unusual([message]) == []
    assert swept.batch["user_id"][0].as_py() == swept.batch["item_id"][0].as_py() == f"#{identifier}"


@pytest.mark.parametrize(
    "change",
    [{"new": 1}, {"value": 2**63}, {"scene": "x" * 257}, {"context": {str(n): "" for n in range(65)}},
     {"context": {"k": "x" * 1025}}, {"user_id": "ü" * 129}],
)  # fmt: skip
def test_unusual_messages_are_looked_at_by_the_codec(change):
    good = encode_packed([event(1), event(2)])
    message = msgpack.packb({"v": 1, **BASE, **change})
    assert unusual([good, message, good]) == [1]
    check([good, message, good])


def test_fields_and_context_keys_given_twice():
    pairs = [(msgpack.packb(key), msgpack.packb(value)) for key, value in BASE.items()]
    twice = b"\x87" + b"".join(key + value for key, value in [*pairs, (msgpack.packb("user_id"), b"\xa1w")])
    context = b"\x87" + b"".join(key + value for key, value in pairs)
    context += b"\xa7context\x83\xa1a\xa11\xa1b\xa12\xa1a\xa13"
    assert unusual([twice, context]) == [0, 1]
    assert check([twice, context]).batch["context"].to_pylist() == [[], [("a", "3"), ("b", "2")]]


def test_many_messages_of_both_kinds_keep_their_order():
    rng = random.Random(5)
    messages, number = [], 0
    for _ in range(400):
        many = [
            event(number + n, user_id=n, context={"q": str(n)} if n % 3 else {})
            for n in range(rng.randrange(6))
        ]
        number += len(many)
        messages.append(encode_packed(many))
        if rng.random() < 0.2:
            messages.append(rng.choice([b"", b"\xc1", msgpack.packb({**BASE, "new": 1}), messages[-1][:-1]]))
    check(messages)


def test_the_event_of_a_dead_letter_is_found_by_its_place():
    inside = {key: value for key, value in BASE.items() if key != "v"}
    message = msgpack.packb({"v": 1, "events": [inside, {**inside, "ts_ms": -5}, {**inside, "user_id": 8}]})
    swept = check([message])
    assert swept.batch["ordinal"].to_pylist() == [0, 2]
    assert event_at(message, 2).user_id == 8


def test_more_than_a_sweep_holds_goes_the_plain_way(monkeypatch):
    monkeypatch.setattr("stream.decoded_columns.SWEEP_BYTES", 100)
    messages = [encode_packed([event(n), event(n + 1)]) for n in range(3)]
    assert unusual(messages) == [0, 1, 2]
    check(messages)


def test_no_event_is_shorter_than_the_least():
    least = {"event_id": "e", "ts_ms": 5, "user_id": 5, "kind": "hate"}
    assert len(msgpack.packb(least)) == LEAST_BYTES
    message = encode_packed(
        [event(0, event_id="e", ts_ms=5, user_id=5, item_id=None, kind="hate", request_id="")] * 50
    )
    assert check([message] * 3).batch.num_rows == 150
    assert unusual([message] * 3) == []


def is_text(content: bytes) -> bool:
    return valid_text(np.frombuffer(b"." + content, np.uint8), 1, len(content) + 1)


def decodes(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_utf8_is_what_python_takes_for_it():
    # Every first byte with every second, and the bytes around each limit behind them.
    edges = (0x00, 0x7F, 0x80, 0xBF, 0xC0)
    for first in range(256):
        for second in range(256):
            for tail in (b"", b"\x80", b"\x80\x80", b"\x7f\x80", b"\x80\xc0", b"\xbfa", b"\x80\x80\x80"):
                content = bytes([first, second]) + tail
                assert is_text(content) == decodes(content), content
    for third in edges:
        for fourth in edges:
            content = bytes([0xF0, 0x90, third, fourth])
            assert is_text(content) == decodes(content), content


@given(st.text(max_size=30))
def test_every_text_is_utf8(text):
    assert is_text(text.encode())


def test_nothing_is_compiled_after_the_first_messages():
    for messages in ([], [b""], [GOLDEN_SINGLE], [encode_packed([event(n) for n in range(9)])] * 9):
        check(messages)
    for kernel in (find_events, text_column, context_entries):
        assert len(kernel.signatures) == 1


def test_a_producer_loads_no_compiler():
    code = "import sys, stream.producer; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
