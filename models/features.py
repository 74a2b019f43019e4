"""Features declared once: the same columns, in the same order, for a training row and for a serving
request.

| kind | value of a row | missing |
|---|---|---|
| category | one key: the text of the value | "": the cold row |
| categories | a bag of keys (models/value_lists.py), averaged | no value left: the cold row |
| tokens | a bag of words and pairs of words (models/text_tokens.py), averaged | no word: the cold row |
| cross | one key: the keys of its parts joined by U+001F | any part missing: the cold row |
| number | itself and its transforms, standardised | 0 each, and a flag of 1 |

A column that is not there is a column of missing values. A key that no table knows counts as a value whose
row is the cold row. Training and serving read keys(); training keeps their entries in samples, `slots` int32
places a feature, -1 where there is no key.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.arrays import Float32Array, Int32Array, Int64Array, Tensors
from models.feature_config import FeatureConfig, SourceName, check_features, crossed
from models.id_table import IdTable
from models.key_bags import KeyBags, bag_slots, slot_bags
from models.key_bytes import key_array
from models.number_features import NumberScaling, number_values
from models.text_tokens import joined_words, text_tokens
from models.time_features import local_midnight_ms, local_ms, time_category
from models.value_lists import value_lists

__all__ = [
    "Columns",
    "FeatureColumns",
    "category_keys",
    "cross_keys",
    "local_midnight_ms",
    "local_ms",
]

_DAY_MS = 86_400_000
_JOINT = "\x1f"
_NO_KEY = pa.array([""], pa.string())

Columns = Mapping[tuple[str, str], pa.Array]
"""(source, name) -> array[N]."""
Lookup = Callable[[str, pa.StringArray, Int64Array], Int64Array]
"""(table, keys string[n], ts_ms int64[n]) -> entries int64[n], -1 for "": Tables.observe, for one."""


def category_keys(column: pa.Array | None, rows: int) -> pa.StringArray:
    """string[rows] keys of a category; "" = missing. TypeError for a column of lists."""
    if column is None:
        return _NO_KEY if rows == 1 else pa.nulls(rows, pa.string()).fill_null("")
    if pa.types.is_nested(column.type):
        raise TypeError(f"category: expected one value a row, got {column.type}; declare kind 'categories'")
    if not isinstance(column, pa.StringArray | pa.DictionaryArray):
        column = column.cast(pa.string())
    return key_array(column)


def cross_keys(parts: Sequence[pa.StringArray]) -> pa.StringArray:
    """string[N] of the parts' keys joined by U+001F; "" where any of them is missing."""
    if len(parts[0]) == 1:
        texts = [part[0].as_py() for part in parts]
        return pa.array([_JOINT.join(texts) if all(texts) else ""], pa.string())
    known = pc.not_equal(parts[0], "")
    for part in parts[1:]:
        known = pc.and_(known, pc.not_equal(part, ""))
    return pc.if_else(known, pc.binary_join_element_wise(*parts, _JOINT), "")


class FeatureColumns:
    """The features of one side (request: user, context, time; or item) and the fitted numbers that scale
    them.

    categories: the category-like features in order; layout: their `table` -> slice of the C = `slots` slots
    of a sample; numbers: the number features in order.
    """

    def __init__(self, features: Sequence[FeatureConfig], sources: Sequence[str], zone: str) -> None:
        """`features` are those of both sides; ValueError where they cannot stand together."""
        check_features(features)
        self._declared = tuple(features)
        self._sources = tuple(sources)
        chosen = [feature for feature in features if feature.source in sources]
        self.zone = zone
        self.categories = tuple(feature for feature in chosen if feature.kind != "number")
        self.numbers = tuple(feature for feature in chosen if feature.kind == "number")
        self.layout: dict[str, slice] = {}
        self.slots = 0
        for feature in self.categories:
            self.layout[feature.table] = slice(self.slots, self.slots + feature.slots)
            self.slots += feature.slots
        self._parts = {
            feature.table: [crossed(feature, name, features).table for name in feature.of]
            for feature in self.categories
        }
        self._scaling = NumberScaling(self.numbers)
        self.width = self._scaling.width

    def named(self, name: str) -> FeatureConfig:
        """The feature of one value a row that `name` ("scene", "context.scene") means; ValueError if none."""
        single = [feature for feature in self.categories if feature.slots == 1]
        for feature in single:
            if name in (feature.name, feature.table):
                return feature
        known = ", ".join(feature.table for feature in single) or "none"
        raise ValueError(
            f"features: expected a category of one value a row, got {name!r}; there are: {known}"
        )

    def part(self, tables: Collection[str]) -> FeatureColumns:
        """Only the category features with these tables, and the parts of crosses among them."""
        wanted = {*tables}.union(*(self._parts[table] for table in tables))
        return FeatureColumns(
            [one for one in self._declared if one.table in wanted and one.kind != "number"],
            self._sources,
            self.zone,
        )

    @property
    def side_width(self) -> int:
        """Width of all these features as tower inputs."""
        return sum(feature.dim for feature in self.categories) + self.width

    def reads(self, source: SourceName) -> list[str]:
        """Names of the columns that the features read from `source`."""
        features = (*self.categories, *self.numbers)
        return sorted({one.name for one in features if one.source == source and one.kind != "cross"})

    def keys(self, columns: Columns, ts_ms: Int64Array) -> list[KeyBags]:
        """The keys of N rows at ts_ms int64[N], one KeyBags per category-like feature, in their order."""
        bags: dict[str, KeyBags] = {}
        for feature in self.categories:
            if feature.kind != "cross":
                bags[feature.table] = self._keys(feature, columns, ts_ms)
        for feature in self.categories:
            if feature.kind == "cross":
                parts = [bags[table].keys for table in self._parts[feature.table]]
                bags[feature.table] = KeyBags(cross_keys(parts))
        return [bags[feature.table] for feature in self.categories]

    def _keys(self, feature: FeatureConfig, columns: Columns, ts_ms: Int64Array) -> KeyBags:
        if feature.source == "time":
            return KeyBags(time_category(feature.name, ts_ms, self.zone))
        column = columns.get((feature.source, feature.name))
        if column is None or feature.kind == "category":
            keys = category_keys(column, len(ts_ms))
            return KeyBags(keys, np.arange(len(keys) + 1) if feature.slots > 1 else None)
        if feature.kind == "tokens" or not pa.types.is_nested(column.type):
            column = category_keys(column, len(ts_ms))
        if feature.kind == "tokens":
            bags = text_tokens(column, feature.slots)
        else:
            bags = value_lists(column, feature.separator, feature.slots)
        return bags if feature.slots > 1 else KeyBags(bags.keys)

    def entries(self, columns: Columns, ts_ms: Int64Array, lookup: Lookup) -> Int32Array:
        """int32[N, slots]: the entries that `lookup` gives for keys(), laid out by `layout`; -1 = no key."""
        slots = np.empty((len(ts_ms), self.slots), np.int32)
        for feature, bags in zip(self.categories, self.keys(columns, ts_ms), strict=True):
            entries = lookup(feature.table, bags.keys, bags.times(ts_ms))
            place = self.layout[feature.table]
            if bags.offsets is None:
                slots[:, place.start] = entries
            else:
                slots[:, place] = bag_slots(entries, bags.offsets, feature.slots)
        return slots

    def columns_of(self, slots: Int32Array, raw: Float32Array, ids: Mapping[str, IdTable]) -> Columns:
        """Columns that entries() and raw_numbers() would read as slots int32[N, slots] and raw float32[N, M];
        ids: those that gave the entries.
        """
        columns: dict[tuple[str, str], pa.Array] = {}
        for place, feature in enumerate(self.numbers):
            if feature.source != "time":
                columns[feature.source, feature.name] = pa.array(raw[:, place], from_pandas=True)
        for feature in self.categories:
            if feature.source == "time" or feature.kind == "cross":
                continue
            entries, offsets, _ = slot_bags(slots[:, self.layout[feature.table]])
            keys = ids[feature.table].keys_of(entries)
            if feature.kind == "categories":
                keys = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), keys)
            elif feature.kind == "tokens":
                keys = joined_words(keys, offsets)
            columns[feature.source, feature.name] = keys
        return columns

    def raw_numbers(self, columns: Columns, ts_ms: Int64Array) -> Float32Array:
        """float32[N, number features], nan = missing; example_age is 0 here, as it is in serving."""
        raw = np.zeros((len(ts_ms), len(self.numbers)), np.float32)
        for place, feature in enumerate(self.numbers):
            if feature.source != "time":
                raw[:, place] = number_values(columns.get((feature.source, feature.name)), len(ts_ms))
        return raw

    def with_age(self, raw: Float32Array, age_ms: Int64Array) -> Float32Array:
        """Raw with example_age (days) filled in, for training."""
        for place, feature in enumerate(self.numbers):
            if feature.source == "time":
                raw = raw.copy()
                raw[:, place] = age_ms / _DAY_MS
        return raw

    def fit(self, raw: Float32Array) -> None:
        """Add rows to the running mean and deviation that standardise the numbers."""
        self._scaling.fit(raw)

    def standardised(self, raw: Float32Array) -> Float32Array:
        """float32[N, width]: (x - mean) / deviation; missing = 0; flags as they are."""
        return self._scaling.standardised(raw)

    def state(self) -> Tensors:
        """The fitted numbers."""
        return self._scaling.state()

    def restore(self, state: Tensors) -> None:
        """Take the fitted numbers of state()."""
        self._scaling.restore(state)
