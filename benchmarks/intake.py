"""Decoding, columns and validation of events, against decoding the same bytes with msgpack alone."""

import msgpack
import numpy as np

from benchmarks.measure import Result, rates
from stream.codec import decode_messages, encode, encode_packed
from stream.columns import to_columns
from stream.event import Event
from stream.validate import bad_fields


def run() -> list[Result]:
    """50,000 events, single and packed 50 to a message; no broker, so this is the CPU part of the intake."""
    rng = np.random.default_rng(7)
    events = [
        Event(event_id=f"{n:032x}", ts_ms=1_700_000_000_000 + n, user_id=int(user), item_id=int(item),
              kind="click", scene="home", request_id=f"r{n // 4}", value=1.0)
        for n, (user, item) in enumerate(zip(rng.integers(0, 10_000, 50_000), rng.integers(0, 5_000, 50_000),
        strict=True))
    ]  # fmt: skip
    packed = [encode_packed(events[at : at + 50]) for at in range(0, len(events), 50)]
    single = [encode(event) for event in events]

    def ours(messages: list[bytes]) -> None:
        decoded = decode_messages(messages)
        zeros = np.zeros(len(decoded.events), np.int32)
        batch = to_columns(decoded.events, zeros, zeros, decoded.message, decoded.ordinal)
        if bad_fields(batch):
            raise RuntimeError("benchmark: expected good events only")

    def theirs(messages: list[bytes]) -> None:
        for message in messages:
            msgpack.unpackb(message)

    results = []
    for name, messages in (("intake.packed", packed), ("intake.single", single)):
        value, peer = rates(len(events), lambda m=messages: ours(m), lambda m=messages: theirs(m))
        results.append(
            Result(name, value, "events/s", "msgpack.unpackb, decoding only", peer, {"events": len(events)})
        )
    return results
