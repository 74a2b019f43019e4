"""Messages as a batch of EVENT_SCHEMA: what codec and columns give together, in one compiled sweep.

Messages in which something is unusual (stream/event_kernels.py) are decoded by stream/codec.py, and their
events put in their places; so a batch, its order and every refusal are those of the codec.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from stream.codec import Rejected, decode_message, decode_messages
from stream.columns import to_columns
from stream.event import EVENT_SCHEMA, Event
from stream.event_kernels import (
    CONTEXT,
    EVENT_ID,
    FIELDS,
    FLOAT,
    INTEGER,
    ITEM_ID,
    KIND,
    LEAST_BYTES,
    REQUEST_ID,
    SCENE,
    TS_MS,
    USER_ID,
    VALUE,
    context_entries,
    find_events,
    text_column,
)

SWEEP_BYTES = 2**28
"""Of one sweep: places are int32, and no column grows to more than four times what it is read from."""


class DecodedColumns(NamedTuple):
    """Good events of many messages as EVENT_SCHEMA, in the order of the messages, and what was refused.

    message: int64[N], the message of each event; rejected: (message, what is wrong there).
    """

    batch: pa.RecordBatch
    message: np.ndarray
    rejected: list[tuple[int, Rejected]]


def decode_columns(
    messages: Sequence[bytes], incarnation: int, partition: np.ndarray, offset: np.ndarray
) -> DecodedColumns:
    """Decode messages that stood at `offset` (int64[M]) of `partition` (int32[M]) of an incarnation."""
    swept, message, unusual = _sweep(messages, incarnation, partition, offset)
    if not len(unusual):
        return DecodedColumns(swept, message, [])
    decoded = decode_messages([messages[number] for number in unusual])
    of = unusual[decoded.message]
    plain = to_columns(
        decoded.events, np.full(len(of), incarnation, np.int32), partition[of], offset[of], decoded.ordinal
    )
    message = np.concatenate([message, of])
    order = np.argsort(message, kind="stable")
    batch = pa.concat_batches([swept, plain]).take(pa.array(order))
    return DecodedColumns(batch, message[order], [(int(unusual[n]), one) for n, one in decoded.rejected])


def event_at(message: bytes, ordinal: int) -> Event:
    """The good event at one place of a message."""
    decoded = decode_message(message)
    return decoded.events[decoded.ordinals.index(ordinal)]


def _sweep(
    messages: Sequence[bytes], incarnation: int, partition: np.ndarray, offset: np.ndarray
) -> tuple[pa.RecordBatch, np.ndarray, np.ndarray]:
    """(the events of the usual messages, the message of each, the numbers of the unusual messages)."""
    joined = b"".join(messages)
    if len(joined) > SWEEP_BYTES:
        none = pa.RecordBatch.from_pylist([], schema=EVENT_SCHEMA)
        return none, np.empty(0, np.int64), np.arange(len(messages))
    data = np.frombuffer(joined, np.uint8)
    ends = np.cumsum(np.fromiter(map(len, messages), np.int64, len(messages)))
    counts = np.empty(len(messages), np.int64)
    rows = len(data) // LEAST_BYTES + 1
    starts, sizes = np.empty((2, rows, len(FIELDS)), np.int32)
    numbers = np.empty((rows, len(FIELDS)), np.int64)
    found = find_events(data, ends, counts, starts, sizes, numbers)
    starts, sizes, numbers = starts[:found], sizes[:found], numbers[:found]
    kept = np.maximum(counts, 0)
    message = np.repeat(np.arange(len(messages)), kept)
    ordinal = np.arange(found) - np.repeat(np.cumsum(kept) - kept, kept)

    def texts(field: int) -> pa.StringArray:
        return _strings(text_column(data, starts, sizes, numbers, field, field in (USER_ID, ITEM_ID)))

    columns = [
        texts(EVENT_ID),
        pa.array(numbers[:, TS_MS]),
        texts(USER_ID),
        texts(ITEM_ID),
        texts(KIND),
        texts(SCENE),
        texts(REQUEST_ID),
        _values(sizes[:, VALUE], numbers[:, VALUE]),
        _contexts(data, starts, sizes),
        pa.array(np.full(found, incarnation, np.int32)),
        pa.array(partition[message], pa.int32()),
        pa.array(offset[message], pa.int64()),
        pa.array(ordinal, pa.int32()),
    ]
    return pa.record_batch(columns, schema=EVENT_SCHEMA), message, np.flatnonzero(counts < 0)


def _strings(column: tuple[np.ndarray, np.ndarray]) -> pa.StringArray:
    data, offsets = column
    return pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))


def _values(kinds: np.ndarray, numbers: np.ndarray) -> pa.DoubleArray:
    values = np.ascontiguousarray(numbers).view(np.float64)
    whole = kinds == INTEGER
    if whole.any():
        values = np.where(whole, numbers.astype(np.float64), values)
    return pa.array(values, mask=(kinds != FLOAT) & ~whole)


def _contexts(data: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> pa.MapArray:
    offsets = np.zeros(len(sizes) + 1, np.int32)
    np.cumsum(sizes[:, CONTEXT], out=offsets[1:])
    places, lengths = context_entries(data, starts, sizes)
    none = np.empty((0, 2), np.int64)
    keys, values = (_strings(text_column(data, places, lengths, none, part, False)) for part in range(2))
    return pa.MapArray.from_arrays(offsets, keys, values)
