"""From events to samples: IDs, attributes and histories as of each moment."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.arrays import Float32Array, Int64Array
from models.catalogue_columns import CatalogueColumns
from models.features import Columns, FeatureColumns
from models.history import HistoryTable
from models.item_store import ItemStore, user_columns
from models.key_bytes import hash_keys, key_array
from models.model_config import ModelConfig
from models.samples import Samples
from models.tables import Tables


class Preparation:
    """Takes events in canonical order; moves ID tables, item attributes and histories on."""

    def __init__(
        self,
        config: ModelConfig,
        features: FeatureColumns,
        tables: Tables,
        items: ItemStore,
        history: HistoryTable,
    ) -> None:
        self._config = config
        self._features = features
        self._tables = tables
        self._items = items
        self._history = history
        self.events_taken = 0
        self.samples_made = 0

    def take(self, events: pa.Table, catalogue: CatalogueColumns, with_samples: bool) -> Samples:
        """Take in the positives among `events`; without samples the answer is empty and numbers are not used
        up.
        """
        chosen = pc.and_(
            pc.is_in(events["kind"], value_set=pa.array(self._config.positives)),
            pc.not_equal(key_array(events["item_id"]), ""),
        )
        events = events.filter(chosen).combine_chunks()
        ts_ms = np.array(events["ts_ms"], np.int64)
        user = self._tables.observe("user", events["user_id"], ts_ms).astype(np.int32)
        item = self._tables.observe("item", events["item_id"], ts_ms).astype(np.int32)
        self._items.update(catalogue, self._tables, int(ts_ms[-1]) if len(ts_ms) else 0)
        history, age_s, first = self._history.observe_and_read(
            user,
            item,
            ts_ms,
            self._requests(events["request_id"]),
            self._config.history_length if with_samples else 0,
        )
        self.events_taken += len(ts_ms)
        if not with_samples:
            return Samples.empty(
                self._config.history_length, len(self._features.categories), len(self._features.numbers)
            )
        columns = self._columns(events, catalogue)
        categories = np.empty((len(ts_ms), len(self._features.categories)), np.int32)
        for place, keys in enumerate(self._features.keys(columns, ts_ms)):
            categories[:, place] = self._tables.observe(self._features.categories[place].table, keys, ts_ms)
        samples = Samples(
            sequence=np.arange(len(ts_ms)),
            ts_ms=ts_ms,
            user=user,
            item=item,
            weight=self._weights(events["kind"]),
            history=history,
            history_age_s=age_s,
            categories=categories,
            numbers=self._features.raw_numbers(columns, ts_ms),
        )
        samples = samples if first.all() else samples.take(np.flatnonzero(first))
        samples = samples.renumbered(self.samples_made)
        self.samples_made += len(samples)
        return samples

    def _requests(self, request_id: pa.ChunkedArray) -> Int64Array:
        """int64[N] hash of every request; an event without one is a request of its own."""
        hashes = hash_keys(request_id)
        alone = np.array(pc.equal(key_array(request_id), "").to_numpy(zero_copy_only=False), np.bool_)
        hashes[alone] = -1 - (self.events_taken + np.flatnonzero(alone))
        return hashes

    def _weights(self, kind: pa.ChunkedArray) -> Float32Array:
        weights = np.ones(len(kind), np.float32)
        for name, weight in self._config.weights.items():
            weights[pc.equal(kind, name).to_numpy()] = weight
        return weights

    def _columns(self, events: pa.Table, catalogue: CatalogueColumns) -> Columns:
        columns: dict[tuple[str, str], pa.Array] = {}
        features = (*self._features.categories, *self._features.numbers)
        for name in {feature.name for feature in features if feature.source == "context"}:
            if name == "scene" and "scene" in events.column_names:
                columns["context", name] = key_array(events["scene"])
            elif "context" in events.column_names:
                column = pc.map_lookup(events["context"].combine_chunks(), name, "last")
                columns["context", name] = column
        if any(feature.source == "user" for feature in features):
            positions = catalogue.user_positions(events["user_id"])
            columns |= user_columns(self._features, catalogue.users, positions)
        return columns
