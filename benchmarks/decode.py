"""Decoding, columns and validation of events, against decoding the same bytes with msgpack alone."""

import msgpack
import numpy as np
import pyarrow as pa

from benchmarks import data
from benchmarks.measure import Result, rates
from stream.codec import encode, encode_packed
from stream.decoded_columns import decode_columns
from stream.validate import bad_fields


def decoding(events: int) -> list[Result]:
    """Events single and packed 50 to a message; no broker, so this is the processor's part of the intake."""
    rng = data.generator()
    made = data.typed(rng.integers(0, 10_000, events), rng.integers(0, 5_000, events))
    packed = [encode_packed(made[at : at + 50]) for at in range(0, events, 50)]
    results = []
    for name, messages in (("decode.packed", packed), ("decode.single", list(map(encode, made)))):
        value, peer = rates(events, lambda m=messages: columns(m), lambda m=messages: unpacked(m))
        results.append(Result(name, value, "events/s", "msgpack.unpackb, decoding only", peer))
    return results


def columns(messages: list[bytes]) -> pa.RecordBatch:
    """As the intake takes messages: EVENT_SCHEMA, validated. Raises RuntimeError for a bad event."""
    count = len(messages)
    decoded = decode_columns(messages, 0, np.zeros(count, np.int32), np.arange(count))
    if decoded.rejected or bad_fields(decoded.batch):
        raise RuntimeError("benchmark: expected good events only")
    return decoded.batch


def unpacked(messages: list[bytes]) -> None:
    """The least that reading them takes with a general decoder."""
    for message in messages:
        msgpack.unpackb(message)
