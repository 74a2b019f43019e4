"""Catalogue messages: upsert or delete of an item or a user, versioned msgpack, one or packed.

    single   {"v": 1, "id": ..., "ts_ms": ..., "attributes": {...}}
             {"v": 1, "id": ..., "ts_ms": ..., "deleted": true}
    packed   {"v": 1, "changes": [{"id": ..., ...}, ...]}

An upsert replaces all attributes.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
import numpy as np
import pyarrow as pa
from msgspec import UNSET, Meta, UnsetType

from stream.codec import FAILURES, VERSION, Rejected, classify
from stream.errors import Malformed
from stream.event import Finite, Identifier
from stream.keys import INT64_MAX, INT64_MIN, encode_id

Value = (
    Annotated[str, Meta(max_length=4096)] | Annotated[int, Meta(ge=INT64_MIN, le=INT64_MAX)] | Finite | bool
)
Attributes = Annotated[dict[Annotated[str, Meta(min_length=1, max_length=256)], Value], Meta(max_length=256)]
RESERVED = frozenset({"item_id", "user_id"})
"""Names of the key columns; an attribute may not have them."""


class Change(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """One item or user from event time `ts_ms` on."""

    id: Identifier
    ts_ms: Annotated[int, Meta(ge=1, le=INT64_MAX)]
    attributes: Attributes = {}
    deleted: bool = False


CHANGE_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # key text
        pa.field("ts_ms", pa.int64(), nullable=False),
        pa.field("deleted", pa.bool_(), nullable=False),
        pa.field(
            "attributes", pa.map_(pa.string(), pa.string()), nullable=False
        ),  # typed text, see `typed_text`
    ]
)


class _Packed(msgspec.Struct):
    v: int
    changes: list[Change]


class _Envelope(msgspec.Struct):
    v: int
    changes: list[msgspec.Raw] | UnsetType = UNSET


_encode = msgspec.msgpack.Encoder().encode
_decode_change = msgspec.msgpack.Decoder(Change).decode
_decode_envelope = msgspec.msgpack.Decoder(_Envelope).decode


def encode_changes(changes: Iterable[Change]) -> bytes:
    """A packed message. Raises Malformed if a change breaks the contract."""
    message = _encode(_Packed(VERSION, list(changes)))
    for rejected in decode_changes(message)[1]:
        raise Malformed(rejected.reason, rejected.detail)
    return message


def decode_changes(message: bytes) -> tuple[list[Change], list[Rejected]]:
    """The changes of a message, good and bad apart. Never raises, whatever the bytes."""
    try:
        envelope = _decode_envelope(message)
    except FAILURES as error:
        return [], [Rejected(0, *classify(error), message)]
    if envelope.v != VERSION:
        return [], [Rejected(0, "schema_version", f"version {envelope.v}; known is {VERSION}", message)]
    good: list[Change] = []
    bad: list[Rejected] = []
    for ordinal, part in enumerate([message] if envelope.changes is UNSET else envelope.changes):
        try:
            good.append(_checked(_decode_change(part)))
        except FAILURES as error:
            bad.append(Rejected(ordinal, *classify(error), bytes(part)))
        except ValueError as error:
            bad.append(Rejected(ordinal, "invalid_id", str(error), bytes(part)))
    return good, bad


def to_batch(changes: Sequence[Change]) -> pa.RecordBatch:
    """A batch of CHANGE_SCHEMA."""
    offsets = np.zeros(len(changes) + 1, np.int32)
    np.cumsum([len(c.attributes) for c in changes], out=offsets[1:])
    names = [name for c in changes for name in c.attributes]
    values = [typed_text(value) for c in changes for value in c.attributes.values()]
    attributes = pa.MapArray.from_arrays(offsets, pa.array(names, pa.string()), pa.array(values, pa.string()))
    return pa.record_batch(
        [
            pa.array([encode_id(c.id) for c in changes], pa.string()),
            pa.array([c.ts_ms for c in changes], pa.int64()),
            pa.array([c.deleted for c in changes], pa.bool_()),
            attributes,
        ],
        schema=CHANGE_SCHEMA,
    )


def typed_text(value: str | int | float | bool) -> str:
    """A value as text that remembers its type: s(tring), b(ool), i(nt), f(loat) and then the text."""
    if isinstance(value, str):
        return "s" + value
    if isinstance(value, bool):
        return "btrue" if value else "bfalse"
    return ("i" if isinstance(value, int) else "f") + plain_text(value)


def plain_text(value: str | int | float | bool) -> str:
    """A value as the text that a category reads, the same in a profile as in a column of the catalogue."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text: str = pa.scalar(value, pa.float64()).cast(pa.string()).as_py()
        return text
    return str(value)


def _checked(change: Change) -> Change:
    encode_id(change.id)  # raises if it is too long in bytes
    if taken := RESERVED & change.attributes.keys():
        raise ValueError(f"attribute {sorted(taken)} has the name of a key column; rename it")
    return change
