"""Attributes of every item entry, as table entries and raw numbers, ready for the item tower."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from models.arrays import Float32Array, Int32Array, Int64Array, Tensors
from models.catalogue_columns import CatalogueColumns, item_columns
from models.features import FeatureColumns
from models.tables import Tables


class ItemStore:
    """By item entry: categories int32[n, C] entries of the feature tables, laid out by FeatureColumns.layout
    (-1 = none), numbers float32[n, M] raw.
    """

    def __init__(self, features: FeatureColumns) -> None:
        self._features = features
        self._categories: Int32Array = np.full((64, features.slots), -1, np.int32)
        self._numbers: Float32Array = np.full((64, len(features.numbers)), np.nan, np.float32)
        self._used = 0
        self._seen: CatalogueColumns | None = None

    @property
    def categories(self) -> Int32Array:
        """int32[entries, C]; a view."""
        return self._categories[: self._used]

    @property
    def numbers(self) -> Float32Array:
        """float32[entries, M]; a view."""
        return self._numbers[: self._used]

    def update(self, catalogue: CatalogueColumns, tables: Tables, ts_ms: int) -> None:
        """Read the attributes of items that are new here, or of all items when the catalogue is another
        one.
        """
        ids = tables.ids["item"]
        have, self._used = self._used, ids.entry_capacity
        if self._used > len(self._categories):
            self._grow(max(self._used, 2 * len(self._categories)))
        if not (self._features.categories or self._features.numbers):
            return
        fresh = np.arange(have, self._used) if catalogue is self._seen else ids.live_entries()
        self._seen = catalogue
        if len(fresh):
            self._fill(fresh, catalogue, tables, ts_ms)

    def _fill(self, entries: Int64Array, catalogue: CatalogueColumns, tables: Tables, ts_ms: int) -> None:
        positions = catalogue.item_positions(tables.ids["item"].keys_of(entries))
        columns = item_columns(self._features, catalogue.items, positions)
        times = np.full(len(entries), ts_ms, np.int64)

        def known_or_new(table: str, keys: pa.StringArray, key_times: Int64Array) -> Int64Array:
            """Reading the same attributes again, after a restart, changes nothing."""
            known = tables.ids[table].lookup(keys)
            new = np.flatnonzero(known < 0)
            known[new] = tables.observe(table, keys.take(pa.array(new)), key_times[new])
            return known

        self._categories[entries] = self._features.entries(columns, times, known_or_new)
        self._numbers[entries] = self._features.raw_numbers(columns, times)

    def drop(self, entries: Int64Array) -> None:
        """Forget removed items. Their entries may be given again, so the next update() reads everything
        anew.
        """
        self._categories[entries] = -1
        self._numbers[entries] = np.nan
        self._seen = None

    def state(self) -> Tensors:
        """Everything restore() needs."""
        return {"categories": self.categories.copy(), "numbers": self.numbers.copy()}

    def restore(self, state: Tensors) -> None:
        """Take what state() described."""
        self._used = len(state["categories"])
        self._grow(max(64, self._used), keep=False)
        self._categories[: self._used] = state["categories"]
        self._numbers[: self._used] = state["numbers"]

    def _grow(self, capacity: int, keep: bool = True) -> None:
        categories = np.full((capacity, self._categories.shape[1]), -1, np.int32)
        numbers = np.full((capacity, self._numbers.shape[1]), np.nan, np.float32)
        if keep:
            categories[: len(self._categories)] = self._categories
            numbers[: len(self._numbers)] = self._numbers
        self._categories, self._numbers = categories, numbers
