import math

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.codec import REASONS, decode, decode_message, encode, encode_packed
from stream.errors import Malformed
from stream.event import KINDS, Event
from stream.keys import INT64_MAX, INT64_MIN

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=64)
name = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=64)
identifier = st.one_of(st.integers(INT64_MIN, INT64_MAX), name)
events = st.builds(
    Event,
    event_id=name,
    ts_ms=st.integers(1, INT64_MAX),
    user_id=identifier,
    item_id=st.one_of(st.none(), identifier),
    kind=st.sampled_from(KINDS),
    scene=text,
    request_id=text,
    value=st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
    context=st.dictionaries(text, text, max_size=4),
)

GOLDEN = Event(
    event_id="e1",
    ts_ms=1_493_596_800_000,
    user_id="anna",
    item_id=42,
    kind="purchase",
    value=3.5,
    context={"geo": "de"},
)
GOLDEN_SINGLE = bytes.fromhex(
    "88a17601a86576656e745f6964a26531a574735f6d73cf0000015bc14e8400a7757365725f6964a4616e6e61"
    "a76974656d5f69642aa46b696e64a87075726368617365a576616c7565cb400c000000000000a7636f6e7465787481a367656fa26465"
)
GOLDEN_PACKED = bytes.fromhex("82a17601a66576656e747391") + bytes([0x87]) + GOLDEN_SINGLE[4:]


def test_golden_bytes_of_version_1():
    assert encode(GOLDEN) == GOLDEN_SINGLE
    assert encode_packed([GOLDEN]) == GOLDEN_PACKED
    assert decode(GOLDEN_SINGLE) == decode(GOLDEN_PACKED) == [GOLDEN]


@given(events)
def test_single_round_trip(event):
    assert decode(encode(event)) == [event]


@given(st.lists(events, max_size=20))
def test_packed_round_trip(many):
    assert decode(encode_packed(many)) == many


@given(events)
def test_another_msgpack_reads_the_same(event):
    seen = msgpack.unpackb(encode(event))
    assert seen.pop("v") == 1
    assert Event(**seen) == event
    assert decode(msgpack.packb({**seen, "v": 1})) == [event]  # any order of fields


@given(st.binary(max_size=200))
def test_any_bytes_are_survived(data):
    decoded = decode_message(data)
    assert all(rejected.reason in REASONS for rejected in decoded.rejected)


@given(st.lists(events, min_size=1, max_size=3), st.data())
def test_damaged_bytes_are_survived(many, data):
    message = bytearray(encode_packed(many))
    place = data.draw(st.integers(0, len(message) - 1))
    message[place] ^= data.draw(st.integers(1, 255))
    decode_message(bytes(message))
    decode_message(bytes(message[:place]))


BASE = {"v": 1, "event_id": "e", "ts_ms": 5, "user_id": "u", "item_id": "i", "kind": "click"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"v": 2}, "schema_version"),
        ({"v": "1"}, "schema_version"),
        ({"v": None}, "missing_field"),
        ({"user_id": None}, "missing_field"),
        ({"kind": None}, "missing_field"),
        ({"ts_ms": None}, "missing_field"),
        ({"event_id": None}, "missing_field"),
        ({"user_id": "x" * 257}, "invalid_id"),
        ({"user_id": ""}, "invalid_id"),
        ({"user_id": 1.5}, "invalid_id"),
        ({"user_id": True}, "invalid_id"),
        ({"item_id": 2**63}, "invalid_id"),
        ({"value": math.nan}, "invalid_value"),
        ({"value": math.inf}, "invalid_value"),
        ({"value": -math.inf}, "invalid_value"),
        ({"value": "3"}, "invalid_value"),
        ({"ts_ms": 0}, "invalid_value"),
        ({"ts_ms": -1}, "invalid_value"),
        ({"ts_ms": 2**64 - 1}, "invalid_value"),
        ({"ts_ms": 1.5}, "invalid_value"),
        ({"kind": "teleport"}, "unknown_kind"),
        ({"kind": 7}, "invalid_value"),
        ({"context": {"a": 1}}, "invalid_value"),
        ({"context": {str(n): "" for n in range(65)}}, "invalid_value"),
    ],
)
def test_bad_event_has_a_reason(change, reason):
    fields = {key: value for key, value in {**BASE, **change}.items() if value is not None}
    single = decode_message(msgpack.packb(fields))
    assert not single.events
    assert [(r.ordinal, r.reason) for r in single.rejected] == [(0, reason)]
    if "v" in change:
        return
    good = {key: value for key, value in BASE.items() if key != "v"}
    bad = {key: value for key, value in fields.items() if key != "v"}
    packed = decode_message(msgpack.packb({"v": 1, "events": [good, bad, good]}))
    assert list(packed.ordinals) == [0, 2]
    assert [(r.ordinal, r.reason) for r in packed.rejected] == [(1, reason)]


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xc1",
        b"hello",
        b"\x91" * 10_000,
        msgpack.packb([BASE]),
        msgpack.packb("x"),
        msgpack.packb(BASE) + b"\x00",
    ],
)
def test_not_a_message_is_malformed(message):
    assert [r.reason for r in decode_message(message).rejected] == ["malformed"]


def test_version_2_packed_is_not_looked_into():
    decoded = decode_message(msgpack.packb({"v": 2, "events": [BASE]}))
    assert [r.reason for r in decoded.rejected] == ["schema_version"]


def test_encoding_refuses_what_decoding_would():
    with pytest.raises(Malformed, match="unknown_kind"):
        encode(Event(event_id="e", ts_ms=5, user_id="u", kind="teleport"))
    with pytest.raises(Malformed, match="invalid_value"):
        encode_packed([Event(event_id="e", ts_ms=5, user_id="u", kind="click", value=math.nan)])


def test_unknown_fields_are_ignored():
    assert decode(msgpack.packb({**BASE, "new_field": [1]}))[0].user_id == "u"
