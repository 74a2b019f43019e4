"""Small events and batches for tests."""

import numpy as np
import pyarrow as pa

from stream.columns import to_columns
from stream.event import Event

T0 = 1_493_596_800_000  # 2017-05-01, a whole hour


def event(n: int = 0, **fields) -> Event:
    defaults = {
        "event_id": f"e{n}",
        "ts_ms": T0 + n * 1000,
        "user_id": f"user-{n % 7}",
        "item_id": n % 11,
        "kind": "click",
        "request_id": f"r{n}",
    }
    return Event(**{**defaults, **fields})


def batch(events, offsets=None, partition=0, incarnation=0, ordinals=None) -> pa.RecordBatch:
    events = list(events)
    n = len(events)
    offsets = range(n) if offsets is None else offsets
    return to_columns(
        events,
        np.full(n, incarnation, np.int32),
        np.full(n, partition, np.int32),
        np.array(list(offsets), np.int64),
        np.zeros(n, np.int32) if ordinals is None else np.array(ordinals, np.int32),
    )
