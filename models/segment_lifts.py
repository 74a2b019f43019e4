"""How much more of an item a segment of users gets than everybody does: lifts, as they are published.

A segment is one value of a category of the request's side: an attribute of the user, a field of the context.
A pre-rank network reads the lifts of an item in the segments of the one who asks (models/prerank.py).

Shapes: F fields, V values of all fields, K items, N items of one request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa

from models.arrays import Float16Array, Float32Array, Int64Array, Tensors
from models.artifact import pack_keys, unpack_keys
from models.feature_config import FeatureConfig
from models.features import Columns, FeatureColumns
from models.id_table import IdTable

JOINT = "\x1f"
"""Between a field's table and a key of it, in the name of a segment."""


def _none() -> pa.Array:
    return pa.array([], pa.string())


def fields_of(features: Sequence[FeatureConfig]) -> tuple[str, ...]:
    """Tables ("user.age", "context.scene") of the features that segments can be made of."""
    sides = ("user", "context")
    return tuple(one.table for one in features if one.source in sides and one.kind == "category")


def named(fields: Sequence[str]) -> tuple[str, ...]:
    """Names of the lifts by these fields."""
    return tuple(f"lift by {table}" for table in fields)


def field_columns(fields: Sequence[str]) -> FeatureColumns:
    """What reads the keys of fields."""
    split = [table.split(".", 1) for table in fields]
    declared = [FeatureConfig.model_validate({"source": source, "name": name}) for source, name in split]
    return FeatureColumns(declared, ("user", "context"), "UTC")


@dataclass(frozen=True, eq=False)
class SegmentLifts:
    """One reading of the counts (models/segment_counts.py).

    fields: F tables; segments: string[V] names (field, JOINT, key); items: string[K] key texts; lifts:
    float16[V, K] log of the item's share in the segment over its share in all.
    """

    fields: tuple[str, ...] = ()
    segments: pa.Array = field(default_factory=_none)
    items: pa.Array = field(default_factory=_none)
    lifts: Float16Array = field(default_factory=lambda: np.zeros((0, 0), np.float16))

    def __post_init__(self) -> None:
        """Refuse parts that do not fit together (ValueError)."""
        expected = (len(self.segments), len(self.items))
        if self.lifts.shape != expected or not np.isfinite(self.lifts).all():
            raise ValueError(f"lifts: expected finite float16{list(expected)}, got {list(self.lifts.shape)}")

    @property
    def named(self) -> tuple[str, ...]:
        """Names of the F values of an item."""
        return named(self.fields)

    def places(self, keys: pa.Array) -> Int64Array:
        """int64[N] of items string[N], for of(); -1 = none of the K."""
        return self._ids.lookup(keys)

    def rows(self, columns: Columns, n: int) -> Int64Array:
        """int64[n, F]: the segments that n requests are in, for of(); -1 = none of the V."""
        found = np.full((n, len(self.fields)), -1, np.int64)
        bags = self._columns.keys(columns, np.zeros(n, np.int64))
        for place, (table, bag) in enumerate(zip(self.fields, bags, strict=True)):
            names = [self._rows.get(table + JOINT + key, -1) for key in bag.keys.to_pylist()]
            found[:, place] = names  # one of a column that is not there stands for all n
        return found

    def of(self, places: Int64Array, rows: Int64Array) -> Float32Array:
        """float32[N, F]: items `places` int64[N] in the segments `rows` int64[F] of one request; 0 = as
        everybody, and where nothing is known.
        """
        if not self.lifts.size:
            return np.zeros((len(places), len(rows)), np.float32)
        found = self.lifts[np.maximum(rows, 0)[None, :], np.maximum(places, 0)[:, None]]
        known = (places >= 0)[:, None] & (rows >= 0)[None, :]
        return np.where(known, found, np.float32(0.0)).astype(np.float32)

    def tensors(self, prefix: str = "") -> Tensors:
        """Everything from_tensors() needs."""
        names = "\n".join(self.fields).encode()
        packed = {
            f"{prefix}{name}.{part}": array
            for name, keys in (("segments", self.segments), ("items", self.items))
            for part, array in pack_keys(keys).items()
        }
        return {
            **packed,
            prefix + "fields": np.frombuffer(names, np.uint8).copy(),
            prefix + "lifts": self.lifts,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray], prefix: str = "") -> SegmentLifts:
        """What tensors() described. ValueError where the parts do not fit together."""
        names = np.asarray(tensors[prefix + "fields"], np.uint8).tobytes().decode()
        segments, items = (unpack_keys(tensors, f"{prefix}{name}.") for name in ("segments", "items"))
        lifts = np.asarray(tensors[prefix + "lifts"], np.float16)
        return cls(tuple(names.split("\n")) if names else (), segments, items, lifts)

    @cached_property
    def _ids(self) -> IdTable:
        return IdTable.of_unique(self.items)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.segments.to_pylist())}

    @cached_property
    def _columns(self) -> FeatureColumns:
        return field_columns(self.fields)
