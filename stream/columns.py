"""Events as Arrow columns, and back."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import pyarrow as pa

from stream.event import EVENT_SCHEMA, Event


def to_columns(
    events: Sequence[Event],
    incarnation: np.ndarray,
    partition: np.ndarray,
    offset: np.ndarray,
    ordinal: np.ndarray,
) -> pa.RecordBatch:
    """A batch of EVENT_SCHEMA from decoded events and their positions (integer arrays of the same length).

    One comprehension per column is the only Python that runs per event. IDs may still be longer than 256
    bytes: `stream.validate` looks at whole columns.
    """
    users = [e.user_id for e in events]
    items = [e.item_id for e in events]
    return pa.record_batch(
        [
            pa.array([e.event_id for e in events], pa.string()),
            pa.array([e.ts_ms for e in events], pa.int64()),
            pa.array(_key_texts(users), pa.string()),
            pa.array(_key_texts(items), pa.string()),
            pa.array([e.kind for e in events], pa.string()),
            pa.array([e.scene for e in events], pa.string()),
            pa.array([e.request_id for e in events], pa.string()),
            pa.array([e.value for e in events], pa.float64()),
            _maps([e.context for e in events]),
            pa.array(incarnation, pa.int32()),
            pa.array(partition, pa.int32()),
            pa.array(offset, pa.int64()),
            pa.array(ordinal, pa.int32()),
        ],
        schema=EVENT_SCHEMA,
    )


def _key_texts(identifiers: Sequence[int | str | None]) -> list[str]:
    return [
        f"#{i}" if isinstance(i, int) else "" if i is None else i if i[0] != "#" else "#" + i
        for i in identifiers
    ]


def _maps(contexts: Sequence[dict[str, str]]) -> pa.MapArray:
    offsets = np.zeros(len(contexts) + 1, np.int32)
    np.cumsum([len(c) for c in contexts], out=offsets[1:])
    present = [c for c in contexts if c]
    keys = pa.array(list(chain.from_iterable(present)), pa.string())
    values = pa.array(list(chain.from_iterable(c.values() for c in present)), pa.string())
    return pa.MapArray.from_arrays(offsets, keys, values)
