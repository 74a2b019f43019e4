"""Events as bytes: versioned msgpack, one event or a packed list per message.

    single   {"v": 1, "event_id": ..., "ts_ms": ..., ...}
    packed   {"v": 1, "events": [{"event_id": ..., ...}, ...]}

A whole message is decoded into typed structs in one call. Only a message that fails there is looked at again,
event by event, to find out which one is wrong and why, so one bad event never takes its neighbours along. (An
intake reads what producers usually write without any structs: stream/decoded_columns.py.)
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from stream.errors import Malformed
from stream.event import Event

VERSION = 1
REASONS = (
    "malformed",  # not the bytes of a message
    "schema_version",  # a version this program does not know
    "missing_field",
    "invalid_id",  # empty, too long, or of another type
    "invalid_value",  # NaN, infinite, wrong type or out of range
    "unknown_kind",
    "time_future",
    "time_past",
)
"""Why an event is dead-lettered. Labels of a metric: few, fixed."""

_VERSION_FIELD = b"\xa1v\x01"
_EVENTS_FIELD = b"\xa6events"
_PACKED_HEAD = b"\x82" + _VERSION_FIELD + _EVENTS_FIELD


class _Packed(msgspec.Struct, gc=False):
    events: list[Event]


class _Envelope(msgspec.Struct):
    v: int
    events: list[msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET


class Rejected(NamedTuple):
    """One event (or a whole message: ordinal 0) that cannot be taken in, with its bytes."""

    ordinal: int
    reason: str
    detail: str
    content: bytes


class Decoded(NamedTuple):
    """What one message holds: the good events with their places, and the bad ones with their reasons."""

    events: list[Event]
    ordinals: Sequence[int]
    rejected: list[Rejected]


_encoder = msgspec.msgpack.Encoder()
decode_event = msgspec.msgpack.Decoder(Event).decode
_decode_packed = msgspec.msgpack.Decoder(_Packed).decode
_decode_envelope = msgspec.msgpack.Decoder(_Envelope).decode
FAILURES = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def encode(event: Event) -> bytes:
    """A message of one event. Raises Malformed if the event breaks the contract."""
    body = _checked(_encoder.encode(event))
    # An event map has at most 9 fields, so its header is one byte; the version becomes the first of up to 10.
    return bytes([body[0] + 1]) + _VERSION_FIELD + body[1:]


def encode_packed(events: Iterable[Event]) -> bytes:
    """A message of several events. They must all belong to one partition: a message has one key."""
    return _PACKED_HEAD + _checked_list(_encoder.encode(list(events)))


def decode(message: bytes) -> list[Event]:
    """The events of a message. Raises Malformed for the first one that breaks the contract."""
    decoded = decode_message(message)
    for rejected in decoded.rejected:
        raise Malformed(rejected.reason, rejected.detail)
    return decoded.events


class DecodedMessages(NamedTuple):
    """What many messages hold together. `message` and `ordinal` (int64[N]) say where each event stood."""

    events: list[Event]
    message: np.ndarray
    ordinal: np.ndarray
    rejected: list[tuple[int, Rejected]]


def decode_messages(messages: Sequence[bytes]) -> DecodedMessages:
    """The events of many messages: one Python step per message, none per event, unless something is wrong."""
    events: list[Event] = []
    counts = np.ones(len(messages), np.int64)
    odd: list[tuple[int, Sequence[int]]] = []
    rejected: list[tuple[int, Rejected]] = []
    for number, message in enumerate(messages):
        try:
            if message.startswith(_PACKED_HEAD):
                found = _decode_packed(message).events
                events += found
                counts[number] = len(found)
                continue
            if message[1:4] == _VERSION_FIELD and message[4:11] != _EVENTS_FIELD:
                events.append(decode_event(message))
                continue
        except FAILURES:
            pass
        decoded = _examine(message)
        events += decoded.events
        counts[number] = len(decoded.events)
        odd.append((number, decoded.ordinals))
        rejected += [(number, one) for one in decoded.rejected]
    ends = np.cumsum(counts)
    ordinal = np.arange(len(events)) - np.repeat(ends - counts, counts)
    for number, ordinals in odd:
        ordinal[ends[number] - counts[number] : ends[number]] = ordinals
    return DecodedMessages(events, np.repeat(np.arange(len(messages)), counts), ordinal, rejected)


def decode_message(message: bytes) -> Decoded:
    """The events of a message, good ones and bad ones apart. Never raises, whatever the bytes."""
    try:
        if message.startswith(_PACKED_HEAD):
            events = _decode_packed(message).events
            return Decoded(events, range(len(events)), [])
        if message[1:4] == _VERSION_FIELD and message[4:11] != _EVENTS_FIELD:
            return Decoded([decode_event(message)], _FIRST, [])
    except FAILURES:
        pass
    return _examine(message)


_FIRST = range(1)


def _examine(message: bytes) -> Decoded:
    """Slow path: foreign field order, or something is wrong."""
    try:
        envelope = _decode_envelope(message)
    except FAILURES as error:
        return Decoded([], [], [Rejected(0, *classify(error), message)])
    if envelope.v != VERSION:
        detail = f"schema version {envelope.v}; this program reads version {VERSION}: upgrade the consumer"
        return Decoded([], [], [Rejected(0, "schema_version", detail, message)])
    parts = [message] if envelope.events is msgspec.UNSET else envelope.events
    decoded = Decoded([], [], [])
    ordinals: list[int] = []
    for ordinal, part in enumerate(parts):
        try:
            decoded.events.append(decode_event(part))
            ordinals.append(ordinal)
        except FAILURES as error:
            decoded.rejected.append(Rejected(ordinal, *classify(error), bytes(part)))
    return decoded._replace(ordinals=ordinals)


def classify(error: Exception) -> tuple[str, str]:
    """Reason and detail from the decoder's message, which names the field as `$.field`."""
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return "malformed", text or type(error).__name__
    if "missing required field" in text:
        return "missing_field", text
    if text.startswith("Expected `object`") and "`$" not in text:
        return "malformed", text
    if "`$.v`" in text:
        return "schema_version", text
    if "`$.kind`" in text:
        return ("unknown_kind" if text.startswith("Invalid enum") else "invalid_value"), text
    if "_id`" in text or "`$.id`" in text:
        return "invalid_id", text
    return "invalid_value", text


def _checked(body: bytes) -> bytes:
    """Refuse at the producer what a consumer would refuse: msgspec checks limits only while decoding."""
    try:
        decode_event(body)
    except FAILURES as error:
        raise Malformed(*classify(error)) from error
    return body


def _checked_list(body: bytes) -> bytes:
    try:
        _decode_list(body)
    except FAILURES as error:
        raise Malformed(*classify(error)) from error
    return body


_decode_list = msgspec.msgpack.Decoder(list[Event]).decode
