"""Who met what, and at which hours, from which meetings are published (models/meetings.py).

Neighbours are ItemCF's (models/item_cf.py), of the newest few items of every user and the newest users of
every item, so that an hour's work stays bounded however much is shown. The lift of item i at hour h is
log((c(h, i) + M q(i)) / ((c(h) + M) q(i))), where c are decayed counts of the hour and its two neighbours,
and q(i) is the item's share of all: M meetings of any hour stand before an hour's own.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.arrays import Float16Array, Float64Array, Tensors
from models.artifact import pack_keys, unpack_keys
from models.item_to_item import ItemToItem, ItemToItemConfig
from models.key_bytes import key_array
from models.meetings import DAY_MS, HOUR_MS, HOURS, LATELY_MS, Meetings

_CONFIG = ItemToItemConfig(
    kind="item_cf", window=40, users_per_item=2_000, neighbours=100, backward=1.0, shrinkage=5.0
)
_HALF_LIFE_MS = 3 * DAY_MS
_M = 5.0
_FADED = 1e-3
_HELD = 20_000
"""Items whose hours are counted: those with most meetings."""
_ITEMS = "hours.items."


class MeetingCounts:
    """kinds: of events that are meetings."""

    def __init__(self, kinds: tuple[str, ...]) -> None:
        self.kinds = kinds
        self._channel = ItemToItem(_CONFIG)
        self._as_of_ms = 0
        self._items = pa.array([], pa.string())
        self._counts: Float64Array = np.zeros((HOURS, 0), np.float64)

    def observe(self, events: pa.Table) -> None:
        """Take in events (columns item_id, kind, ts_ms, user_id of EVENT_SCHEMA); late ones by their age."""
        meeting = pc.is_in(events["kind"], pa.array(self.kinds, pa.string()))
        events = events.filter(pc.and_(meeting, pc.not_equal(key_array(events["item_id"]), "")))
        if not len(events):
            return
        ts_ms, items = np.array(events["ts_ms"], np.int64), key_array(events["item_id"])
        newest_ms = max(self._as_of_ms, int(ts_ms.max()))
        self._channel.observe(events["user_id"], items, ts_ms)
        self._channel.expire(newest_ms - LATELY_MS)
        self._channel.settle()  # what is published is published whole
        encoded = pa.concat_arrays([self._items, items]).dictionary_encode()
        item = encoded.indices.to_numpy(zero_copy_only=False)[len(self._items) :]
        counts = np.zeros((HOURS, len(encoded.dictionary)), np.float64)
        counts[:, : len(self._items)] = self._counts * np.exp2((self._as_of_ms - newest_ms) / _HALF_LIFE_MS)
        weights = np.exp2((ts_ms - newest_ms) / _HALF_LIFE_MS)
        np.add.at(counts, (ts_ms // HOUR_MS % HOURS, item), weights)
        total = counts.sum(0)
        kept = np.sort(np.argsort(-total, kind="stable")[:_HELD])
        kept = kept[total[kept] >= _FADED]
        self._items, self._counts = encoded.dictionary.take(pa.array(kept)), counts[:, kept]
        self._as_of_ms = newest_ms

    def published(self, items: pa.Array) -> Meetings:
        """Of the items string[K], among themselves."""
        rows = self._channel.neighbours(of=items)
        at = pc.fill_null(pc.index_in(rows.items, items), -1).to_numpy(zero_copy_only=False)
        neighbours = at[rows.neighbours]
        trigger = pc.index_in(rows.triggers, items).to_numpy(zero_copy_only=False).astype(np.int64)
        owner = np.repeat(trigger, np.diff(rows.offsets))
        inside = np.flatnonzero(neighbours >= 0)
        inside = inside[np.argsort(owner[inside], kind="stable")]
        sizes = np.bincount(owner[inside], minlength=len(items))
        return Meetings(
            np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            neighbours[inside].astype(np.int32),
            rows.scores[inside].astype(np.float16),
            self._lifts(items),
        )

    def state(self, prefix: str) -> Tensors:
        """Everything from_state() needs."""
        own = {
            **self._channel.state(),
            **pack_keys(self._items, _ITEMS),
            "hours.counts": self._counts.copy(),
            "hours.clock": np.array([self._as_of_ms], np.int64),
        }
        return {prefix + name: part for name, part in own.items()}

    @classmethod
    def from_state(cls, kinds: tuple[str, ...], state: Tensors, prefix: str) -> MeetingCounts:
        """The counts that state() described."""
        own = {name.removeprefix(prefix): part for name, part in state.items() if name.startswith(prefix)}
        counts = cls(kinds)
        counts._items, counts._counts = unpack_keys(own, _ITEMS), np.array(own["hours.counts"], np.float64)
        counts._as_of_ms = int(own["hours.clock"][0])
        channel = {name: part for name, part in own.items() if not name.startswith("hours.")}
        counts._channel = ItemToItem.from_state(_CONFIG, channel)
        return counts

    def _lifts(self, items: pa.Array) -> Float16Array:
        """float16[HOURS, K]; 0 for items without a meeting."""
        lifts = np.zeros((HOURS, len(items)), np.float16)
        total = self._counts.sum()
        at = pc.fill_null(pc.index_in(items, self._items), -1).to_numpy(zero_copy_only=False)
        met = np.flatnonzero(at >= 0)
        if not len(met):
            return lifts
        counts, of_hour = self._counts[:, at[met]], self._counts.sum(1)
        near, mass = (np.sum([np.roll(one, by, 0) for by in (-1, 0, 1)], 0) for one in (counts, of_hour))
        share = counts.sum(0) / total
        lifts[:, met] = np.log((near + _M * share) / ((mass[:, None] + _M) * share))
        return lifts
