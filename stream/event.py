"""The event: what happened, to whom, when. docs/events.md has the contract and an example of each kind."""

from typing import Annotated, Literal

import msgspec
import pyarrow as pa
from msgspec import Meta

from stream.keys import INT64_MAX, INT64_MIN

KINDS = (
    "impression", "click", "view", "long_view", "like", "follow", "comment", "share", "collect", "hate",
    "purchase", "search", "profile_enter", "forward", "play", "finish", "reject",
)  # fmt: skip
KINDS_WITHOUT_ITEM = frozenset({"search", "profile_enter", "follow"})
"""Kinds whose event may carry no item; for all others a missing item is malformed."""

Kind = Literal[
    "impression", "click", "view", "long_view", "like", "follow", "comment", "share", "collect", "hate",
    "purchase", "search", "profile_enter", "forward", "play", "finish", "reject",
]  # fmt: skip

# Characters bound bytes from below, so these limits already refuse most over-long IDs inside the decoder;
# the exact limit of 256 bytes is checked on whole columns (stream/validate.py).
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Label = Annotated[str, Meta(max_length=256)]
Identifier = Annotated[int, Meta(ge=INT64_MIN, le=INT64_MAX)] | Name
# The bounds also refuse NaN: it compares false with everything.
Finite = Annotated[float, Meta(ge=-1.7976931348623157e308, le=1.7976931348623157e308)]
Context = Annotated[dict[Label, Annotated[str, Meta(max_length=1024)]], Meta(max_length=64)]


class Event(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """One event. `ts_ms` is event time, milliseconds since 1970 UTC."""

    event_id: Name
    ts_ms: Annotated[int, Meta(ge=1, le=INT64_MAX)]
    user_id: Identifier
    item_id: Identifier | None = None
    kind: Kind
    scene: Label = ""
    request_id: Label = ""
    value: Finite | None = None
    context: Context = {}


EVENT_SCHEMA = pa.schema(
    [
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("ts_ms", pa.int64(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),  # key text
        pa.field("item_id", pa.string(), nullable=False),  # key text, "" = no item
        pa.field("kind", pa.string(), nullable=False),
        pa.field("scene", pa.string(), nullable=False),
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("context", pa.map_(pa.string(), pa.string()), nullable=False),
        pa.field("incarnation", pa.int32(), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("ordinal", pa.int32(), nullable=False),
    ]
)
"""Columns of a batch of events with their Kafka position; `ordinal` is the place inside a packed message."""

SEALED_SCHEMA = EVENT_SCHEMA.append(pa.field("interval_end_ms", pa.int64(), nullable=False))
CANONICAL_ORDER = ("interval_end_ms", "ts_ms", "incarnation", "partition", "offset", "ordinal")
"""Training order: the same for every replay, however polls happened to return."""
