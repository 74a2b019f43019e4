"""Items that came or went since the served version was made: from the catalogue into the snapshot.

A new item is encoded by the bundle's item towers (its features; nobody's row yet, so the cold one). It joins
the exact overlay of every model that has such a tower, and the pool of the channel `fresh`. A deleted one is
left out of every channel. A bundle or delta that brings an item's own vector takes its place.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.arrays import Int64Array

NO_ATTRIBUTES = frozenset({"item_id", "ts_ms", "born_ms", "deleted"})
"""Columns of CatalogueReader.item_changes that are no attributes."""
_NONE = pa.array([], pa.string())


class CatalogueReader(Protocol):
    """What is read of the catalogue (stream.catalogue.Catalogue)."""

    def sequence(self) -> int:
        """Changes taken in so far, of items and users."""
        ...

    def item_changes(self, after: int) -> tuple[pa.Table, int]:
        """Last versions of the items that changed after the first `after` changes of items, and how many
        changes of items there are now: item_id, ts_ms, born_ms, deleted, and a column per attribute.
        """
        ...


@dataclass(frozen=True)
class Fresh:
    """What a snapshot knows of the catalogue beside its version.

    keys: string[n] items of the pool, newest first; born_ms: int64[n] event time of their first upsert; gone:
    deleted items; read: changes of items taken in.
    """

    keys: pa.Array = field(default_factory=lambda: _NONE)
    born_ms: Int64Array = field(default_factory=lambda: np.empty(0, np.int64))
    gone: frozenset[str] = frozenset()
    read: int = 0

    @cached_property
    def key_set(self) -> frozenset[str]:
        """The pool's keys."""
        return frozenset(self.keys.to_pylist())

    def with_changes(self, changes: pa.Table, read: int, since_ms: int) -> Fresh:
        """The next one: upserts join unless they are in already or older than since_ms, deletions leave."""
        deleted = changes["deleted"].combine_chunks()
        gone_keys = changes["item_id"].combine_chunks().filter(deleted)
        upserts = changes.filter(pc.invert(deleted))
        keys = upserts["item_id"].combine_chunks()
        added = np.asarray(pc.invert(pc.is_in(keys, self.keys)))
        added &= upserts["born_ms"].to_numpy() >= since_ms
        kept = np.asarray(pc.invert(pc.is_in(self.keys, gone_keys))) & (self.born_ms >= since_ms)
        every = pa.concat_arrays([self.keys.filter(pa.array(kept)), keys.filter(pa.array(added))])
        born_ms = np.concatenate([self.born_ms[kept], upserts["born_ms"].to_numpy()[added]])
        order = np.argsort(-born_ms, kind="stable")
        return replace(
            self,
            keys=every.take(pa.array(order)),
            born_ms=born_ms[order],
            gone=(self.gone | set(gone_keys.to_pylist())) - set(keys.to_pylist()),
            read=read,
        )
