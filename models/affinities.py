"""How near items are to the one who asks, as published: by segment, by categories of what was taken, and by
what the same users meet.

A segment is one value of a category of the request's side: an attribute of the user, a field of the context.
The lift of an item in a segment says how much more of it the segment gets than everybody does. The share of
an item's categories says how much of what the user took had them too. Where it is said which events are
meetings of a user and an item, items that are met together count as well (models/meetings.py). A pre-rank
network reads all of it (models/prerank.py).

Shapes: V segments, K items, F fields of the request's side, G category features of items with T slots
together, N items of one request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.arrays import Float16Array, Float32Array, Int32Array, Int64Array, Tensors
from models.artifact import pack_keys, unpack_keys
from models.feature_config import FeatureConfig
from models.features import FeatureColumns
from models.frozen_ids import FrozenIds
from models.key_bytes import hash_keys
from models.meetings import NAMED as NAMED_OF_MET
from models.meetings import Meetings
from models.moments import Moments
from models.request_columns import columns_of_moments

JOINT = "\x1f"
"""Between a field's table and a key of it, in the name of a segment."""
HISTORY = 50
"""Newest items of a history that shares are of."""
MET = "met"
"""Name of the history of what the user met, among those of a moment."""
_REQUEST = ("user", "context")
_MEETINGS = "meetings."


def _none() -> pa.Array:
    return pa.array([], pa.string())


def read_features(features: Sequence[FeatureConfig]) -> tuple[FeatureConfig, ...]:
    """Those that affinities are made of: categories of the user and the context, and of items."""
    return tuple(
        one
        for one in features
        if (one.source in _REQUEST and one.kind == "category")
        or (one.source == "item" and one.kind in ("category", "categories"))
    )


@dataclass(frozen=True, eq=False)
class Sides:
    """The features of affinities, by side. met: kinds of events by which a user meets an item, () = what
    users met is not read.
    """

    features: tuple[FeatureConfig, ...]
    met: tuple[str, ...] = ()

    @cached_property
    def request(self) -> FeatureColumns:
        """F fields."""
        return FeatureColumns(self.features, _REQUEST, "UTC")

    @cached_property
    def item(self) -> FeatureColumns:
        """G features."""
        return FeatureColumns(self.features, ("item",), "UTC")

    @property
    def fields(self) -> tuple[str, ...]:
        """Tables of the F fields ("user.age", "context.scene")."""
        return tuple(one.table for one in self.request.categories)

    @property
    def named(self) -> tuple[str, ...]:
        """Names of the values of an item: F, G, and those of what was met."""
        lifts = (f"lift by {table}" for table in self.fields)
        shares = (f"share of {one.table}" for one in self.item.categories)
        return (*lifts, *shares, *(NAMED_OF_MET if self.met else ()))

    def same(self, other: Sides) -> bool:
        """Whether the same is counted for both."""
        return (self.features, self.met) == (other.features, other.met)

    def stored(self) -> np.ndarray:
        """For of_stored(); the features alone where nothing is met, as bundles had them before."""
        features = [one.model_dump(mode="json") for one in self.features]
        declared = {"features": features, "met": self.met} if self.met else features
        return np.frombuffer(msgspec.json.encode(declared), np.uint8).copy()

    @classmethod
    def of_stored(cls, stored: np.ndarray) -> Sides:
        """What stored() described."""
        declared = msgspec.json.decode(np.asarray(stored, np.uint8).tobytes())
        if isinstance(declared, list):
            declared = {"features": declared, "met": []}
        features = (FeatureConfig.model_validate(one) for one in declared["features"])
        return cls(tuple(features), tuple(declared["met"]))


def codes_of(keys: pa.StringArray) -> Int64Array:
    """int64[N] codes of categories, -1 for "": 31 bits of a hash, so that nothing has to be numbered."""
    codes: Int64Array = hash_keys(keys) & 0x7FFF_FFFF
    codes[pc.equal(keys, "").to_numpy(zero_copy_only=False)] = -1
    return codes


@dataclass(frozen=True, eq=False)
class Askers:
    """Who asks, at n moments: the segments int64[n, F] they are in (-1 = none of the V), and the places of
    the newest items they took, int64[flat] by offsets int64[n+1] (-1 = none of the K). The same of what they
    met, with when that was, int64[flat] ms; and when they ask, int64[n] ms.
    """

    segments: Int64Array
    history: Int64Array
    offsets: Int64Array
    met: Int64Array
    met_ms: Int64Array
    met_offsets: Int64Array
    now_ms: Int64Array


@dataclass(frozen=True, eq=False)
class Affinities:
    """One reading of the counts (models/affinity_counts.py).

    segments: string[V] names (field, JOINT, key); items: string[K] key texts; lifts: float16[V, K] log of
    the item's share in the segment over its share in all; categories: int32[K, T] codes, -1 = none; meetings:
    of the K.
    """

    sides: Sides = field(default_factory=lambda: Sides(()))
    segments: pa.Array = field(default_factory=_none)
    items: pa.Array = field(default_factory=_none)
    lifts: Float16Array = field(default_factory=lambda: np.zeros((0, 0), np.float16))
    categories: Int32Array = field(default_factory=lambda: np.zeros((0, 0), np.int32))
    meetings: Meetings = field(default_factory=Meetings)

    def __post_init__(self) -> None:
        """Refuse parts that do not fit together (ValueError)."""
        k = len(self.items)
        lifts, categories = (len(self.segments), k), (k, self.sides.item.slots)
        if self.lifts.shape != lifts or not np.isfinite(self.lifts).all():
            raise ValueError(
                f"affinities: lifts: expected finite {list(lifts)}, got {list(self.lifts.shape)}"
            )
        if self.categories.shape != categories:
            raise ValueError(
                f"affinities: categories: expected {list(categories)}, got {list(self.categories.shape)}"
            )
        if len(self.meetings) != (k if self.sides.met else 0):
            raise ValueError(f"affinities: meetings: expected those of {k} items, got {len(self.meetings)}")

    @property
    def named(self) -> tuple[str, ...]:
        """Names of the values of an item."""
        return self.sides.named

    def places(self, keys: pa.Array) -> Int64Array:
        """int64[N] of items string[N], for of(); -1 = none of the K."""
        return self._ids.lookup(keys)

    def askers(self, moments: Moments) -> Askers:
        """For of()."""
        n, columns = len(moments), columns_of_moments(moments)
        segments = np.full((n, len(self.sides.fields)), -1, np.int64)
        bags = self.sides.request.keys(columns, moments.ts_ms)
        for place, (table, bag) in enumerate(zip(self.sides.fields, bags, strict=True)):
            segments[:, place] = [self._rows.get(table + JOINT + key, -1) for key in bag.keys.to_pylist()]
        flat = self.places(moments.history_id) if self.sides.item.slots else np.empty(0, np.int64)
        offsets = moments.history_offsets if len(flat) else np.zeros(n + 1, np.int64)
        met = moments.history_named(MET)
        return Askers(
            segments, flat, offsets, self.places(met.id), np.asarray(met.ts_ms), met.offsets, moments.ts_ms
        )

    def of(self, places: Int64Array, askers: Askers, at: int) -> Float32Array:
        """float32[N, values]: lifts and shares of the items `places` int64[N] for asker number `at`, and what
        meetings say of them; 0 where nothing is known.
        """
        end = int(askers.offsets[at + 1])
        history = askers.history[max(int(askers.offsets[at]), end - HISTORY) : end]
        parts = [self._lifts(places, askers.segments[at]), self._shares(places, history)]
        if self.sides.met:
            met = slice(int(askers.met_offsets[at]), int(askers.met_offsets[at + 1]))
            now_ms = int(askers.now_ms[at])
            parts.append(self.meetings.of(places, askers.met[met], askers.met_ms[met], now_ms))
        return np.concatenate(parts, axis=1)

    def _lifts(self, places: Int64Array, rows: Int64Array) -> Float32Array:
        if not self.lifts.size:
            return np.zeros((len(places), len(rows)), np.float32)
        found = self.lifts[np.maximum(rows, 0)[None, :], np.maximum(places, 0)[:, None]]
        known = (places >= 0)[:, None] & (rows >= 0)[None, :]
        return np.where(known, found, np.float32(0.0)).astype(np.float32)

    def _shares(self, places: Int64Array, history: Int64Array) -> Float32Array:
        """float32[N, G]: (of H items taken those with a category of the item, once for each) / (H + 1)."""
        item = self.sides.item
        shares = np.zeros((len(places), len(item.categories)), np.float32)
        taken = self.categories[history[history >= 0]] if item.slots else np.empty((0, 0), np.int32)
        if not len(taken):
            return shares
        asked = self.categories[np.maximum(places, 0)]
        for at, feature in enumerate(item.categories):
            slots = item.layout[feature.table]
            codes, counts = np.unique(taken[:, slots], return_counts=True)
            counts[codes < 0] = 0
            wanted = asked[:, slots]
            place = np.minimum(np.searchsorted(codes, wanted), len(codes) - 1)
            had = np.where(codes[place] == wanted, counts[place], 0)
            shares[:, at] = had.sum(1) / (len(history) + 1)
        shares[places < 0] = 0.0
        return shares

    def tensors(self, prefix: str = "") -> Tensors:
        """Everything from_tensors() needs."""
        return {
            **pack_keys(self.segments, prefix + "segments."),
            **pack_keys(self.items, prefix + "items."),
            prefix + "features": self.sides.stored(),
            prefix + "lifts": self.lifts,
            prefix + "categories": self.categories,
            **(self.meetings.tensors(prefix + _MEETINGS) if self.sides.met else {}),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray], prefix: str = "") -> Affinities:
        """What tensors() described. ValueError where the parts do not fit together."""
        segments, items = (unpack_keys(tensors, f"{prefix}{name}.") for name in ("segments", "items"))
        lifts = np.asarray(tensors[prefix + "lifts"], np.float16)
        categories = np.asarray(tensors[prefix + "categories"], np.int32)
        sides = Sides.of_stored(tensors[prefix + "features"])
        meetings = Meetings.from_tensors(tensors, prefix + _MEETINGS) if sides.met else Meetings()
        return cls(sides, segments, items, lifts, categories, meetings)

    @cached_property
    def _ids(self) -> FrozenIds:
        return FrozenIds.of_unique(self.items)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.segments.to_pylist())}
