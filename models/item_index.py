"""Searchable items of one model: the bundle's base index plus an exact overlay of new and changed items.

A changed or deleted item is masked out of the base, so that one search over both equals a search over the
merged vectors. Positions: base items are 0..N-1, overlay items N..N+M-1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa

from models.arrays import BoolArray, Float32Array, Int32Array, Int64Array, UInt8Array
from models.bitmap import bitmap_of, is_set, ones, without
from models.frozen_ids import FrozenIds
from models.index import BaseIndex, IndexConfig, build_index
from models.key_bytes import key_buffers, texts_at

_OVERLAY = IndexConfig(exact_below=1 << 62)


@dataclass(frozen=True)
class ItemIndex:
    """Immutable; `with_changes` gives the next one and shares the base."""

    base_keys: pa.Array
    base: BaseIndex
    base_lookup: FrozenIds
    alive: UInt8Array  # bitmap over the base: neither replaced nor deleted
    alive_count: int
    overlay_keys: pa.Array
    overlay: BaseIndex
    overlay_lookup: FrozenIds
    overlay_alive: UInt8Array  # bitmap over the overlay: all, but in what only() gives
    overlay_count: int

    @classmethod
    def over(cls, keys: pa.Array, base: BaseIndex) -> ItemIndex:
        """An index without changes. keys: string[N], unique (ValueError otherwise)."""
        if len(keys) != len(base):
            raise ValueError(f"items: expected as many keys as vectors, got {len(keys)} and {len(base)}")
        none = pa.array([], pa.string())
        empty = build_index(np.empty((0, base.vectors.shape[1]), np.float32), _OVERLAY)
        lookup = FrozenIds.of_unique(keys)
        nobody = FrozenIds.of_unique(none)
        return cls(keys, base, lookup, bitmap_of(len(base)), len(base), none, empty, nobody, bitmap_of(0), 0)

    def __len__(self) -> int:
        """Items that can be found."""
        return self.alive_count + self.overlay_count

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return int(self.base.vectors.shape[1])

    def with_changes(self, keys: pa.Array, vectors: Float32Array, removed: pa.Array) -> ItemIndex:
        """Items `keys` string[n] have `vectors` float32[n, D] from now on, `removed` string[m] are gone.

        A key in both is a changed item (removed, then back).
        """
        touched = pa.concat_arrays([keys.cast(pa.string()), removed.cast(pa.string())])
        if not len(touched):
            return self
        held = self.base_lookup.lookup(touched)
        is_stale = np.zeros(len(self.base), bool)
        is_stale[held[held >= 0]] = True
        stale = np.flatnonzero(is_stale)
        stale = stale[is_set(self.alive, stale)]
        kept = np.ones(len(self.overlay), bool)
        replaced = self.overlay_lookup.lookup(touched)
        kept[replaced[replaced >= 0]] = False
        overlay_keys = pa.concat_arrays([self.overlay_keys.filter(pa.array(kept)), keys.cast(pa.string())])
        overlay_vectors = np.concatenate([self.overlay.vectors[kept], np.asarray(vectors, np.float32)])
        return replace(
            self,
            alive=without(self.alive, stale),
            alive_count=self.alive_count - len(stale),
            overlay_keys=overlay_keys,
            overlay=build_index(overlay_vectors, _OVERLAY),
            overlay_lookup=FrozenIds.of_unique(overlay_keys),
            overlay_alive=bitmap_of(len(overlay_keys)),
            overlay_count=len(overlay_keys),
        )

    def only(self, allowed: BoolArray) -> ItemIndex:
        """The same index in which items at positions with `allowed` bool[N + M] False do not exist.

        It shares everything but two bitmaps, and is for searching: changes are made to the one it came from.
        """
        base, over = np.split(allowed, [len(self.base)])
        alive = self.alive & np.packbits(base, bitorder="little")
        late = self.overlay_alive & np.packbits(over, bitorder="little")
        return replace(
            self, alive=alive, alive_count=ones(alive), overlay_alive=late, overlay_count=ones(late)
        )

    def lookup(self, keys: pa.Array) -> Int64Array:
        """Position of every key, int64[n]; -1 for unknown and deleted items."""
        base = self.base_lookup.lookup(keys)
        if self.alive_count < len(self.base):
            held = np.flatnonzero(base >= 0)
            base[held[~is_set(self.alive, base[held])]] = -1
        if len(self.overlay):
            over = self.overlay_lookup.lookup(keys)
            if self.overlay_count < len(self.overlay):
                held = np.flatnonzero(over >= 0)
                over[held[~is_set(self.overlay_alive, over[held])]] = -1
            base = np.where(over >= 0, over + len(self.base), base)
        return base

    def keys_of(self, positions: Int64Array) -> list[str]:
        """Keys of positions int64[n] (no -1 among them)."""
        size = len(self.base)
        if not len(self.overlay):
            return texts_at(*self._base_bytes, positions)
        over = positions >= size
        keys = np.empty(len(positions), object)
        keys[~over] = texts_at(*self._base_bytes, positions[~over])
        keys[over] = texts_at(*self._overlay_bytes, positions[over] - size)
        found: list[str] = keys.tolist()
        return found

    @cached_property
    def _base_bytes(self) -> tuple[UInt8Array, Int32Array]:
        return key_buffers(self.base_keys)

    @cached_property
    def _overlay_bytes(self) -> tuple[UInt8Array, Int32Array]:
        return key_buffers(self.overlay_keys)

    @cached_property
    def key_texts(self) -> tuple[UInt8Array, Int32Array, UInt8Array, Int32Array]:
        """(bytes, offsets) of the base's and the overlay's keys, as key_buffers() gives them, read-only."""
        parts = (*self._base_bytes, *self._overlay_bytes)
        views = tuple(part.view() for part in parts)
        for view in views:
            view.flags.writeable = False  # one type for compiled code, wherever they come from
        return views  # type: ignore[return-value]

    def vectors_of(self, positions: Int64Array) -> Float32Array:
        """Published vectors float32[n, D] of positions int64[n] (no -1 among them)."""
        size = len(self.base)
        found = np.empty((len(positions), self.dim), np.float32)
        over = positions >= size
        found[~over] = self.base.vectors[positions[~over]]
        found[over] = self.overlay.vectors[positions[over] - size]
        return found

    def search(
        self, u_BD: Float32Array, k: int, excluded: Sequence[Int64Array] | None = None
    ) -> tuple[Float32Array, Int64Array]:
        """Best k items by inner product: (scores float32[B, k], positions int64[B, k]), best first.

        excluded: per row the positions that must not be returned (-1 among them is ignored). Rows with
        fewer than k eligible items end in position -1, score -inf; otherwise a row is never shorter than k.
        """
        u_BD = np.ascontiguousarray(u_BD, np.float32)
        if u_BD.ndim != 2 or u_BD.shape[1] != self.dim:
            raise ValueError(f"search: expected user vectors [B, {self.dim}], got {list(u_BD.shape)}")
        if excluded is None or not any(len(row) for row in excluded):
            return self._search_allowed(u_BD, k, np.empty(0, np.int64))
        rows = [self._search_allowed(u_BD[i : i + 1], k, excluded[i]) for i in range(len(u_BD))]
        return np.concatenate([scores for scores, _ in rows]), np.concatenate([found for _, found in rows])

    def _search_allowed(
        self, u_BD: Float32Array, k: int, excluded: Int64Array
    ) -> tuple[Float32Array, Int64Array]:
        size = len(self.base)
        allowed, count = self.alive, self.alive_count
        if len(excluded):
            excluded = np.unique(excluded[excluded >= 0])
            in_base = excluded[excluded < size]
            in_base = in_base[is_set(self.alive, in_base)]
            if len(in_base):
                allowed, count = without(self.alive, in_base), count - len(in_base)
        scores, positions = self.base.search(u_BD, k, allowed if count < size else None, count)
        if not len(self.overlay):
            return scores, positions
        in_over = excluded[excluded >= size] - size
        in_over = in_over[is_set(self.overlay_alive, in_over)]
        late_allowed, late_count = self.overlay_alive, self.overlay_count - len(in_over)
        if len(in_over):
            late_allowed = without(late_allowed, in_over)
        late_scores, late = self.overlay.search(
            u_BD, k, late_allowed if late_count < len(self.overlay) else None, late_count
        )
        scores = np.hstack([scores, late_scores])
        positions = np.hstack([positions, np.where(late >= 0, late + size, -1)])
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(positions, order, 1)
