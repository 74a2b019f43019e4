"""What one strategy serves at a moment: its training state, and the items as last published."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deploy.backtest.settings import with_models
from deploy.backtest.snapshot import Snapshot
from deploy.backtest.strategies import Strategy
from deploy.backtest.targets import Targets
from models.arrays import Float32Array, Int32Array, Int64Array
from models.catalogue_columns import CatalogueColumns
from models.delta import TableRows
from updater.state import Recipe, TrainingState


@dataclass(frozen=True)
class Items:
    """K items that can be recommended, by code (deploy.backtest.targets), and their vectors float32[K, W]."""

    codes: Int64Array
    keys: pa.Array
    vectors: Float32Array

    @classmethod
    def of(cls, keys: pa.Array, vectors: Float32Array, all_keys: pa.Array) -> Items:
        """In the order of codes: `all_keys` gives every key its code."""
        codes = pc.index_in(keys, all_keys).to_numpy(zero_copy_only=False).astype(np.int64)
        order = np.argsort(codes)
        return cls(codes[order], keys.take(pa.array(order)), np.ascontiguousarray(vectors[order]))

    def laid_over(self, changed: TableRows, all_keys: pa.Array) -> Items:
        """With a delta's rows in place of theirs, new ones joined, tombstones gone."""
        keys, vectors = overlaid(self.keys, self.vectors, changed)
        if keys is self.keys:
            return self
        return Items.of(keys, vectors, all_keys)

    @cached_property
    def places(self) -> Int32Array:
        """Place of every code among the K, int32[codes], -1 = not there."""
        places = np.full(int(self.codes[-1]) + 1 if len(self.codes) else 1, -1, np.int32)
        places[self.codes] = np.arange(len(self.codes))
        return places

    def places_of(self, codes: Int32Array) -> Int32Array:
        """Places of item codes, -1 = not among the K."""
        known = codes < len(self.places)
        found: Int32Array = np.where(known, self.places[np.where(known, codes, 0)], -1).astype(np.int32)
        return found


def overlaid(keys: pa.Array, vectors: Float32Array, changed: TableRows) -> tuple[pa.Array, Float32Array]:
    """Item vectors with a delta's in place of theirs, new ones at the end, tombstones gone."""
    if changed.vectors is None or not len(changed.keys) + len(changed.tombstones):
        return keys, vectors
    gone = pa.concat_arrays([changed.keys, changed.tombstones])
    kept = pc.invert(pc.is_in(keys, gone))
    left = vectors[kept.to_numpy(zero_copy_only=False)]
    return pa.concat_arrays([keys.filter(kept), changed.keys]), np.concatenate([left, changed.vectors])


class Served:
    """One strategy on its way through event time."""

    def __init__(self, strategy: Strategy, recipe: Recipe, targets: Targets, version: Snapshot) -> None:
        self.strategy = strategy
        models = {name: strategy.configured(config) for name, config in recipe.models.items()}
        self._recipe = with_models(recipe, models)
        self._all_keys, self._first_ms = targets.item_keys, targets.first_ms
        self.hand_over(version)

    def hand_over(self, version: Snapshot) -> None:
        """Go on from a full retrain."""
        self.state = TrainingState.warm(version, self._recipe)
        self.watermark_ms = version.watermark_ms
        self.neighbours = dict(version.neighbours)
        self._encode()

    def advance(self, events: pa.Table, catalogue: CatalogueColumns, end_ms: int) -> None:
        """Take in an interval, as the strategy does."""
        if not self.strategy.moves:
            return
        if self.strategy.steps == "none":
            self.state.observe(events, catalogue)
        else:
            changes = self.state.advance(events, catalogue, end_ms, self.strategy.steps == "everything")
        self.watermark_ms = end_ms
        for name, rows in self.state.channels.take_changes().items():
            self.neighbours[name] = self.neighbours[name].with_rows(rows)
        if self.strategy.steps in ("none", "everything"):
            self._encode()
            return
        for name, tables in changes.items():
            if "item" in tables:
                self.items[name] = self.items[name].laid_over(tables["item"], self._all_keys)
        self._count()

    def _encode(self) -> None:
        self.items = {
            name: Items.of(*learner.item_vectors(), self._all_keys)
            for name, learner in self.state.learners.items()
        }
        self._count()

    def _count(self) -> None:
        codes = np.flatnonzero(self._first_ms < self.watermark_ms)
        keys = self._all_keys.take(pa.array(codes))
        self.popular = Items(codes, keys, self.state.popularity.scores(keys)[:, None])
        self.affinities = self.state.affinities.published()
