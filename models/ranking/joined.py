"""Joined samples: what rankers read. One row per impression, with what the user did afterwards.

The join (of the stream) decides which actions belong to an impression and how long it waits for them; an
impression without a click is a negative here, unlike in recall.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

JOINED = pa.schema(
    [
        ("event_id", pa.string()),
        ("ts_ms", pa.int64()),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("scene", pa.string()),
        ("request_id", pa.string()),
        ("context", pa.map_(pa.string(), pa.string())),
        ("actions", pa.map_(pa.string(), pa.float64())),
        ("late", pa.bool_()),
        ("emitted_ms", pa.int64()),
    ]
)
"""ts_ms: event time of the impression. actions: kind -> largest value of that kind's events after it (0.0 of
events without a value); a kind that is not there did not happen. late: a second row of the same event_id,
with the actions that came after the first one had been given out. emitted_ms: event time at which the join
gave the row out, never before what it tells of.
"""


def corrected(joined: pa.Table) -> pa.Table:
    """Without the first rows of impressions whose late row is in the table too: it says all they said."""
    late = joined.filter(joined["late"])["event_id"]
    if not len(late):
        return joined
    superseded = pc.and_(
        pc.is_in(joined["event_id"], value_set=late.combine_chunks()), pc.invert(joined["late"])
    )
    return joined.filter(pc.invert(superseded)).combine_chunks()


def checked(joined: pa.Table) -> pa.Table:
    """The columns of JOINED in its types, one chunk each. ValueError for a missing column, one of another
    type, an empty item, or null times.
    """
    missing = [name for name in JOINED.names if name not in joined.column_names]
    if missing:
        raise ValueError(
            f"joined samples: no column {', '.join(missing)}; expected {', '.join(JOINED.names)}; "
            f"got {', '.join(joined.column_names)}"
        )
    try:
        table = joined.select(JOINED.names).cast(JOINED).combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise ValueError(f"joined samples: expected {JOINED}, got {joined.schema}: {error}") from error
    for name in ("ts_ms", "emitted_ms"):
        if table[name].null_count:
            raise ValueError(f"joined samples: {name}: expected a time in every row, got null")
    nameless = pc.sum(pc.equal(pc.fill_null(table["item_id"], ""), "")).as_py() or 0
    if nameless:
        raise ValueError(f"joined samples: {nameless} of {len(table)} rows have no item_id")
    return table
