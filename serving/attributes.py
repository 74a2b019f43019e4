"""Attributes of items as serving reads them: those columns of the catalogue that the configuration names.

Every item is an entry of one table and every column holds one code per entry, so that a rule about values is
a mask over entries. Values compare as text (stream.change.plain_text): 5, 5.0 and "5" are one value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.arrays import BoolArray, Int32Array, Int64Array
from models.frozen_ids import FrozenIds
from models.id_table import IdTable
from serving.fresh import CatalogueReader

Ids = IdTable | FrozenIds
"""Where the positions of an index come from."""


@dataclass(frozen=True, eq=False)
class Column:
    """One attribute: code of every entry, int32[entries], -1 = it has none; `values` numbers the texts."""

    values: IdTable = field(default_factory=IdTable)
    codes: Int32Array = field(default_factory=lambda: np.empty(0, np.int32))

    def among(self, texts: Sequence[str]) -> BoolArray:
        """Which entries have one of these values, bool[entries]."""
        known = self.values.lookup(pa.array(texts, pa.string()))
        return self.coded(known[known >= 0])

    def coded(self, codes: Int64Array | Sequence[int]) -> BoolArray:
        """Which entries have one of these codes, bool[entries]."""
        wanted = np.zeros(self.values.entry_capacity + 1, bool)  # the last: code -1
        wanted[np.asarray(codes, np.int64)] = True
        found: BoolArray = wanted[self.codes]
        return found

    def with_values(self, entries: Int64Array, texts: pa.Array, size: int) -> Column:
        """The next column, of `size` entries: those of `entries` have `texts` (null and "" = none)."""
        codes = np.full(size, -1, np.int32)
        codes[: len(self.codes)] = self.codes
        values, texts = self.values, pc.fill_null(texts, "")
        found = values.lookup(texts)
        if (found[pc.not_equal(texts, "").to_numpy(zero_copy_only=False)] < 0).any():
            values = values.copy()
            found = values.observe(texts, np.zeros(len(texts), np.int64))
        codes[entries] = found
        return Column(values, codes)


@dataclass(frozen=True, eq=False)
class ItemAttributes:
    """All named columns after `read` changes of items. Nothing in here changes; following() makes the next
    one. Entries stay: an item that is deleted has no values until it comes back.
    """

    columns: dict[str, Column] = field(default_factory=dict)
    ids: IdTable = field(default_factory=IdTable)
    read: int = 0
    _met: WeakKeyDictionary[Ids, tuple[int, Int32Array]] = field(default_factory=WeakKeyDictionary)

    @classmethod
    def named(cls, names: Sequence[str]) -> ItemAttributes:
        """Empty columns."""
        return cls({name: Column() for name in names})

    def __len__(self) -> int:
        """Entries."""
        return self.ids.entry_capacity

    def following(self, reader: CatalogueReader) -> ItemAttributes:
        """As the catalogue is now; itself where nothing changed."""
        changes, read = reader.item_changes(self.read)
        if read == self.read:
            return self
        keys, deleted = (changes[name].combine_chunks() for name in ("item_id", "deleted"))
        ids, entries = self.ids, self.ids.lookup(keys)
        if (entries < 0).any():
            ids = ids.copy()
            entries = ids.observe(keys, np.zeros(len(keys), np.int64))
        columns, none = {}, pa.scalar(None, pa.string())
        for name, column in self.columns.items():
            texts = pa.nulls(len(keys), pa.string())
            if name in changes.column_names:
                texts = changes[name].combine_chunks().cast(pa.string())
            columns[name] = column.with_values(entries, pc.if_else(deleted, none, texts), ids.entry_capacity)
        return replace(self, columns=columns, ids=ids, read=read, _met=WeakKeyDictionary(self._met))

    def entries(self, keys: Sequence[str]) -> Int64Array:
        """Entry of every item, int64[n]; -1 = the catalogue does not know it."""
        return self.ids.lookup(pa.array(keys, pa.string()))

    def codes(self, name: str, entries: Int64Array) -> Int64Array:
        """Code of entries in a column, int64[n]; -1 = none."""
        codes = np.full(len(entries), -1, np.int64)
        known = entries >= 0
        codes[known] = self.columns[name].codes[entries[known]]
        return codes

    def entries_of(self, table: Ids) -> Int32Array:
        """Entry of the item behind every entry of another table, int32[its entries], -1 = unknown.

        Remembered as long as that table lives, for it is long: later only what came since is looked up.
        """
        known, found = self._met.get(table, (-1, np.empty(0, np.int32)))
        if known < 0:
            found = self.ids.lookup(table.keys_of(np.arange(table.entry_capacity))).astype(np.int32)
        elif known < len(self):
            new = np.arange(known, len(self))
            places = table.lookup(self.ids.keys_of(new))
            found = found.copy()
            found[places[places >= 0]] = new[places >= 0]
        self._met[table] = (len(self), found)
        return found
