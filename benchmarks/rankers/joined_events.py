"""kuairand's events as joined samples: what the stream's join would give out, computed from the whole log."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from models.catalogue_columns import CatalogueColumns
from models.ranking.joined import JOINED
from models.time_features import local_midnight_ms

DAY_MS = 86_400_000
_KEYS = ("user_id", "item_id", "scene", "request_id")
ZONE = "Asia/Shanghai"
WAIT_MS = 600_000
"""An impression is given out so long after it; actions that come later (2% of the watches) count all the same
here, where a stream would give a corrected row out later.
"""


def joined_of(events: pa.Table) -> pa.Table:
    """One row per impression in order of time; an action belongs to the impression of its (request, item)."""
    events = events.select(["ts_ms", "user_id", "item_id", "kind", "scene", "request_id", "value"])
    shown = np.array(pc.equal(events["kind"], "impression"))
    keys = pc.binary_join_element_wise(
        events["request_id"].cast(pa.string()), events["item_id"].cast(pa.string()), "\x1f"
    ).combine_chunks()
    impressions = events.filter(pa.array(shown)).combine_chunks()
    places = np.array(pc.index_in(keys.filter(pa.array(~shown)), keys.filter(pa.array(shown))))
    if (places < 0).any() or np.isnan(places.astype(float)).any():
        raise ValueError("kuairand: an action without its impression; expected one for each (request, item)")
    places = places.astype(np.int64)
    kinds = np.array(events["kind"].filter(pa.array(~shown)).to_pylist(), dtype=object)
    values = np.array(events["value"].filter(pa.array(~shown)))
    order = np.lexsort((kinds.astype(str), places))
    places, kinds, values = places[order], kinds[order], values[order]
    offsets = np.searchsorted(places, np.arange(len(impressions) + 1)).astype(np.int32)
    actions = pa.MapArray.from_arrays(offsets, pa.array(kinds, pa.string()), pa.array(values))
    nothing = pa.MapArray.from_arrays(
        np.zeros(len(impressions) + 1, np.int32), pa.array([], pa.string()), pa.array([], pa.string())
    )
    ts_ms = np.array(impressions["ts_ms"])
    columns = {
        "event_id": pa.array([str(place) for place in range(len(impressions))]),
        "ts_ms": ts_ms,
        **{name: impressions[name].cast(pa.string()) for name in _KEYS},
        "context": nothing,
        "actions": actions,
        "late": np.zeros(len(impressions), np.bool_),
        "emitted_ms": ts_ms + WAIT_MS,
    }
    return pa.table({name: columns[name] for name in JOINED.names}).cast(JOINED)


@dataclass(frozen=True)
class Days:
    """Joined samples by local day, and the catalogue."""

    folder: Path

    @cached_property
    def joined(self) -> list[pa.Table]:
        """One table per day, 2022-04-25 .. 05-03; the log's first hour, of the evening before, is the first
        one's.
        """
        table = joined_of(pq.read_table(self.folder / "events.parquet"))
        ts_ms = np.array(table["ts_ms"])
        day = np.maximum((ts_ms - local_midnight_ms(int(ts_ms[0]), ZONE)) // DAY_MS - 1, 0)
        return [table.filter(pa.array(day == one)) for one in range(int(day.max()) + 1)]

    @cached_property
    def catalogue(self) -> CatalogueColumns:
        """Items and users as they are (kuairand has no history of them)."""
        return CatalogueColumns(
            pq.read_table(self.folder / "items.parquet"), pq.read_table(self.folder / "users.parquet")
        )

    @cached_property
    def sha256(self) -> str:
        """Of the three files, one after the other."""
        digest = hashlib.sha256()
        for name in ("events", "items", "users"):
            digest.update((self.folder / f"{name}.parquet").read_bytes())
        return digest.hexdigest()
