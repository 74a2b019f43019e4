"""Time-decayed counts of items by segment of the request's side, from which affinities are published.

lift(i, s) = log((c(s, i) + M q(i)) / ((c(s) + M) q(i))), where c are decayed counts of the events of segment
s and q(i) is the item's share of all events: M events of everybody's taste stand before a segment's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.affinities import JOINT, Affinities, Sides, codes_of, read_features
from models.arrays import Float64Array, Int32Array, Int64Array, Tensors
from models.artifact import pack_keys, unpack_keys
from models.catalogue_columns import CatalogueColumns, item_columns
from models.feature_config import FeatureConfig
from models.key_bytes import key_array
from models.meeting_counts import MeetingCounts
from models.meetings import Meetings
from models.reject_events import REJECT
from models.request_columns import columns_of_events

EVERYBODY = ""
"""The segment of all events, always the first one."""
SEGMENTS, ITEMS = 512, 10_000
"""Published at most: those with most events."""
_HELD = 2
"""Times as many are held, so that one that comes back is not counted from nothing."""
_FADED = 1e-3
_M = 5.0
_MEETINGS = "meetings."


class AffinityCounts:
    """Counts of every event that is not a reject, whatever its kind: what was shown and what was taken.
    Beside them the categories of the items that are counted, and which of them users meet.

    features: those of affinities are chosen. half_life_ms: event time after which an event counts half. met:
    kinds of events by which a user meets an item. Without features and kinds nothing is counted.
    """

    def __init__(
        self, features: Sequence[FeatureConfig], half_life_ms: int, met: tuple[str, ...] = ()
    ) -> None:
        if half_life_ms <= 0:
            raise ValueError(f"affinity counts: half_life_ms must be above 0, got {half_life_ms}")
        self.sides, self.half_life_ms = Sides(read_features(features), met), half_life_ms
        self._meetings = MeetingCounts(met)
        self.as_of_ms = 0
        self._segments = pa.array([EVERYBODY], pa.string())
        self._items = pa.array([], pa.string())
        self._categories: Int32Array = np.empty((0, self.sides.item.slots), np.int32)
        # Pairs by segment, then item; at most _HELD * SEGMENTS * ITEMS of them.
        self._segment: Int64Array = np.empty(0, np.int64)
        self._item: Int64Array = np.empty(0, np.int64)
        self._count: Float64Array = np.empty(0, np.float64)

    def __bool__(self) -> bool:
        """Whether anything is counted."""
        return bool(self.sides.features or self.sides.met)

    def observe(self, events: pa.Table, catalogue: CatalogueColumns) -> None:
        """Count events (columns item_id, kind, ts_ms, user_id, scene, context of EVENT_SCHEMA); late ones by
        their age. catalogue: attributes of users and items as of these events.
        """
        if not self:
            return
        told = pc.and_(pc.not_equal(key_array(events["item_id"]), ""), pc.not_equal(events["kind"], REJECT))
        events = events.filter(told)
        if not len(events):
            return
        if self.sides.met:
            self._meetings.observe(events)
        ts_ms = np.array(events["ts_ms"], np.int64)
        newest_ms = max(self.as_of_ms, int(ts_ms.max()))
        held = self._count * 2.0 ** ((self.as_of_ms - newest_ms) / self.half_life_ms)
        weights = np.exp2((ts_ms - newest_ms) / self.half_life_ms)
        self.as_of_ms = newest_ms
        self._items, item = _numbered(self._items, key_array(events["item_id"]))
        segments = [self._segment, np.zeros(len(item), np.int64)]
        items, counts = [self._item, item], [held, weights]
        self._read_categories(np.unique(item), catalogue)
        request = self.sides.request
        columns = columns_of_events(request, events, catalogue)
        for table, bag in zip(self.sides.fields, request.keys(columns, ts_ms), strict=True):
            there = np.flatnonzero(pc.not_equal(bag.keys, "").to_numpy(zero_copy_only=False))
            encoded = bag.keys.take(pa.array(there)).dictionary_encode()
            names = pc.binary_join_element_wise(table, encoded.dictionary, JOINT)
            self._segments, places = _numbered(self._segments, names)
            segments.append(places[encoded.indices.to_numpy(zero_copy_only=False)])
            items.append(item[there])
            counts.append(weights[there])
        k = len(self._items)
        pairs, pair = np.unique(np.concatenate(segments) * k + np.concatenate(items), return_inverse=True)
        self._segment, self._item = pairs // k, pairs % k
        self._count = _sums(pair, np.concatenate(counts), len(pairs))
        self._forget()

    def published(self) -> Affinities:
        """Of the items and segments with most events."""
        everybody = self._segment == 0
        total = _sums(self._item[everybody], self._count[everybody], len(self._items))
        if not total.sum() > 0:
            return Affinities(self.sides, categories=self._categories[:0])
        items, at = _most(total, ITEMS)
        mass = _sums(self._segment, self._count, len(self._segments))
        mass[0] = 0.0
        segments, row = _most(mass, SEGMENTS)
        inside = (row[self._segment] >= 0) & (at[self._item] >= 0)
        counts = np.zeros((len(segments), len(items)), np.float64)
        counts[row[self._segment[inside]], at[self._item[inside]]] = self._count[inside]
        share = total[items] / total.sum()
        lifts = np.log((counts + _M * share) / ((mass[segments, None] + _M) * share))
        keys = self._items.take(pa.array(items))
        return Affinities(
            self.sides,
            self._segments.take(pa.array(segments)),
            keys,
            lifts.astype(np.float16),
            self._categories[items],
            self._meetings.published(keys) if self.sides.met else Meetings(),
        )

    def state(self) -> Tensors:
        """Everything from_state() needs."""
        return {
            **pack_keys(self._segments, "segments."),
            **pack_keys(self._items, "items."),
            "features": self.sides.stored(),
            "categories": self._categories.copy(),
            "clock": np.array([self.half_life_ms, self.as_of_ms], np.int64),
            "segment": self._segment.astype(np.int32),
            "item": self._item.astype(np.int32),
            "count": self._count.copy(),
            **(self._meetings.state(_MEETINGS) if self.sides.met else {}),
        }

    @classmethod
    def from_state(cls, state: Tensors) -> AffinityCounts:
        """The counts that state() described."""
        sides = Sides.of_stored(state["features"])
        counts = cls(sides.features, int(state["clock"][0]), sides.met)
        if sides.met:
            counts._meetings = MeetingCounts.from_state(sides.met, state, _MEETINGS)
        counts.as_of_ms = int(state["clock"][1])
        counts._segments, counts._items = (unpack_keys(state, f"{name}.") for name in ("segments", "items"))
        counts._categories = np.array(state["categories"], np.int32)
        counts._segment, counts._item = (state[name].astype(np.int64) for name in ("segment", "item"))
        counts._count = np.array(state["count"], np.float64)
        return counts

    def _read_categories(self, items: Int64Array, catalogue: CatalogueColumns) -> None:
        """Of items int64[n] by place, as the catalogue has them now."""
        side = self.sides.item
        more = np.full((len(self._items) - len(self._categories), side.slots), -1, np.int32)
        self._categories = np.concatenate([self._categories, more])
        if side.slots:
            positions = catalogue.item_positions(self._items.take(pa.array(items)))
            columns, never = item_columns(side, catalogue.items, positions), np.zeros(len(items), np.int64)
            self._categories[items] = side.entries(columns, never, lambda table, keys, ts_ms: codes_of(keys))

    def _forget(self) -> None:
        """Drop what has faded, and the least of what is held beyond the bounds; the rest is counted on."""
        if len(self._count) and self._count.min() >= _FADED and self._within():
            return
        kept = self._count >= _FADED
        self._segment, self._item, self._count = self._segment[kept], self._item[kept], self._count[kept]
        everybody = self._segment == 0
        total = _sums(self._item[everybody], self._count[everybody], len(self._items))
        items, at = _most(total, _HELD * ITEMS)
        mass = _sums(self._segment, self._count, len(self._segments))
        mass[0] = np.inf
        segments, row = _most(mass, _HELD * SEGMENTS)
        kept = (row[self._segment] >= 0) & (at[self._item] >= 0)
        self._segment, self._item = row[self._segment[kept]], at[self._item[kept]]
        self._count = self._count[kept]
        self._items, self._categories = self._items.take(pa.array(items)), self._categories[items]
        self._segments = self._segments.take(pa.array(segments))

    def _within(self) -> bool:
        return len(self._items) <= _HELD * ITEMS and len(self._segments) <= _HELD * SEGMENTS


def _sums(groups: Int64Array, weights: Float64Array, n: int) -> Float64Array:
    """float64[n]: sum of the weights of every group."""
    sums: Float64Array = np.bincount(groups, weights, n).astype(np.float64)
    return sums


def _numbered(known: pa.Array, keys: pa.Array) -> tuple[pa.Array, Int64Array]:
    """The known keys and behind them the new ones; the places int64[N] of keys string[N] among them."""
    encoded = pa.concat_arrays([known, keys]).dictionary_encode()
    places: Int64Array = encoded.indices.to_numpy(zero_copy_only=False)[len(known) :].astype(np.int64)
    return encoded.dictionary, places


def _most(counts: Float64Array, n: int) -> tuple[Int64Array, Int64Array]:
    """Places int64[<= n] of the greatest counts above 0, ascending; and for every place which of these it is,
    -1 = none.
    """
    best = np.argsort(-counts, kind="stable")[:n]
    chosen: Int64Array = np.sort(best[counts[best] > 0])
    at = np.full(len(counts), -1, np.int64)
    at[chosen] = np.arange(len(chosen))
    return chosen, at
