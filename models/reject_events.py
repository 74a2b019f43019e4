"""Rejects among events: what a later stage turned down, as columns of the pool of hard negatives.

A reject is an event of kind `reject`: the item, the user, the request, `value` = its score, and in the
context `stage` (prerank or rank) and `rank`; an outside ranker sends the same (docs/events.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.arrays import Int32Array, Int64Array, UInt8Array
from models.hard_negatives import STAGES

REJECT = "reject"


@dataclass(frozen=True)
class Rejects:
    """N rejects in the order of their events: key texts string[N], stage uint8[N] a place in STAGES, rank
    int32[N], ts_ms int64[N].
    """

    user_id: pa.Array
    item_id: pa.Array
    stage: UInt8Array
    rank: Int32Array
    ts_ms: Int64Array

    def __len__(self) -> int:
        return len(self.ts_ms)


def rejects_among(events: pa.Table) -> Rejects:
    """The rejects of events (columns user_id, item_id, kind, ts_ms, context). One of no known stage is left
    out; a rank that is no number counts as 0.
    """
    found = events.filter(pc.equal(events["kind"], REJECT)).combine_chunks()
    if not len(found) or "context" not in found.column_names:
        found = found.slice(0, 0)
        stage = np.empty(0, np.int64)
        rank = np.empty(0, np.int64)
    else:
        context = found["context"].combine_chunks()
        stage = pc.fill_null(
            pc.index_in(pc.map_lookup(context, "stage", "last"), pa.array(STAGES)), -1
        ).to_numpy(zero_copy_only=False)
        text = pc.fill_null(pc.map_lookup(context, "rank", "last"), "")
        number = pc.if_else(pc.match_substring_regex(text, r"^[0-9]{1,9}$"), text, "0")
        rank = number.cast(pa.int64()).to_numpy(zero_copy_only=False)
    known = stage >= 0
    kept = found.filter(pa.array(known, pa.bool_()))
    return Rejects(
        kept["user_id"].combine_chunks(),
        kept["item_id"].combine_chunks(),
        stage[known].astype(np.uint8),
        rank[known].astype(np.int32),
        np.array(kept["ts_ms"], np.int64),
    )
