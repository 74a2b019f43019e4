"""What is known of an item at a moment, whoever asks: how often it was taken, and shown, of late.

A pre-rank network reads these counts beside what the channels say (models/prerank.py). Here they are counted
from past events, as of any moment, to learn from; a server has the live ones from the store.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.arrays import Float32Array, Int64Array
from models.count_names import HALF_LIVES_H, NAMES, PARTS, SIGNALS
from models.id_table import IdTable
from models.item_popularity import ItemPopularity
from models.reject_events import REJECT

__all__ = ["HALF_LIVES_H", "NAMES", "PARTS", "SIGNALS", "ItemSignals"]


class ItemSignals:
    """Counts of all items that had an event. positives: the kinds that say an item was taken."""

    def __init__(self, positives: tuple[str, ...]) -> None:
        self._positives = positives
        self._ids = IdTable()
        self._counts = {part: ItemPopularity(HALF_LIVES_H, floor=1.0) for part in PARTS}

    def observe(self, events: pa.Table) -> None:
        """Count events (columns item_id, kind, ts_ms of EVENT_SCHEMA); late ones count by their age."""
        told = pc.and_(pc.not_equal(events["item_id"], ""), pc.not_equal(events["kind"], REJECT))
        events = events.filter(told)
        ts_ms = np.array(events["ts_ms"], np.int64)
        entries = self._ids.observe(events["item_id"].combine_chunks(), ts_ms)
        taken = np.array(pc.is_in(events["kind"], pa.array(self._positives, pa.string())), np.bool_)
        for part, counted in zip(PARTS, (taken, ~taken), strict=True):
            self._counts[part].observe(entries[counted], ts_ms[counted])

    @property
    def items(self) -> pa.Array:
        """string[n] of all items that had an event."""
        return self._ids.keys_of(self._ids.live_entries())

    def entries(self, keys: pa.Array) -> Int64Array:
        """int64[N] of items string[N], for values(); -1 = no event yet."""
        return self._ids.lookup(keys)

    def values(self, entries: Int64Array, as_of_ms: int) -> Float32Array:
        """float32[N, S] of the items `entries` int64[N]: of events before the moment only; 0 without one."""
        moments = np.full(len(entries), as_of_ms)
        parts = [self._counts[part].values_at(entries, moments, moments) for part in PARTS]
        return np.concatenate(parts, axis=1)
