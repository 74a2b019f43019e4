"""Attributes of items and users as columns, findable by key without a Python loop."""

from dataclasses import dataclass, field
from functools import cached_property

import pyarrow as pa

from models.arrays import Int64Array
from models.feature_config import SourceName
from models.features import Columns, FeatureColumns
from models.id_table import IdTable


def _empty(key: str) -> pa.Table:
    return pa.table({key: pa.array([], pa.string())})


@dataclass(frozen=True)
class CatalogueColumns:
    """What is known about items and users at the time of a training run.

    items: `item_id` (string key texts, unique) + any string or number columns.
    users: `user_id` (string key texts, unique) + any string or number columns.
    sequence: how many changes of the catalogue had been taken in.
    Make one and keep it while the catalogue does not change: its key index is built once.
    """

    items: pa.Table = field(default_factory=lambda: _empty("item_id"))
    users: pa.Table = field(default_factory=lambda: _empty("user_id"))
    sequence: int = 0

    @cached_property
    def _item_index(self) -> IdTable:
        return IdTable.of_unique(self.items["item_id"].combine_chunks())

    @cached_property
    def _user_index(self) -> IdTable:
        return IdTable.of_unique(self.users["user_id"].combine_chunks())

    def item_positions(self, keys: pa.Array) -> Int64Array:
        """Row of `items` for every key; int64[N], -1 = not in the catalogue."""
        return self._item_index.lookup(keys)

    def user_positions(self, keys: pa.Array) -> Int64Array:
        """Row of `users` for every key; int64[N], -1 = not in the catalogue."""
        return self._user_index.lookup(keys)


def item_columns(features: FeatureColumns, table: pa.Table, positions: Int64Array) -> Columns:
    """Item attribute columns at catalogue positions (-1 = null)."""
    return _columns(features, table, positions, "item")


def user_columns(features: FeatureColumns, table: pa.Table, positions: Int64Array) -> Columns:
    """User attribute columns at catalogue positions (-1 = null)."""
    return _columns(features, table, positions, "user")


def _columns(features: FeatureColumns, table: pa.Table, positions: Int64Array, source: SourceName) -> Columns:
    index = pa.array(positions, mask=positions < 0)
    return {
        (source, name): table[name].combine_chunks().take(index)
        for name in features.reads(source)
        if name in table.column_names
    }
