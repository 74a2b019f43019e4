"""From events to samples: IDs, attributes and features as of each moment; histories move on.

Events of `config.positives` are targets and the main history; those of a further history's kinds go into
that one. Either way an event with an item is a sighting of its user and its item: both get entries, are
counted for admission and stay unexpired, so that a user who only views has a row and a viewed item can be
in a history; only positives make samples. A history holds one entry per (request, item); an event without
a user is a sample of nobody known and no part of a history.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.arrays import BoolArray, Float32Array, Int32Array, Int64Array
from models.catalogue_columns import CatalogueColumns
from models.features import FeatureColumns
from models.history import HistoryTable
from models.item_store import ItemStore
from models.key_bytes import hash_keys, key_array
from models.model_config import ModelConfig
from models.popularity_dims import PopularityDims
from models.request_columns import columns_of_events
from models.samples import Samples
from models.tables import Tables
from models.target_counts import TargetCounts


class Preparation:
    """Takes events in canonical order; moves ID tables, item attributes, histories and popularity on.

    history: of the positives; histories: by name of config.histories; popularity: counts the targets.
    newest_ms: event time of the newest target.
    """

    def __init__(
        self,
        config: ModelConfig,
        features: FeatureColumns,
        tables: Tables,
        items: ItemStore,
        history: HistoryTable,
        histories: Mapping[str, HistoryTable],
        popularity: PopularityDims,
        targets: TargetCounts,
    ) -> None:
        if set(histories) != set(config.histories):
            raise ValueError(
                f"histories: the configuration names {sorted(config.histories)}, got {sorted(histories)}"
            )
        self._config = config
        self._features = features
        self._tables = tables
        self._items = items
        self._history = history
        self._histories = dict(histories)
        self._popularity = popularity
        self._targets = targets
        self._segments = {name: features.named(name).table for name in sorted(popularity.by)}
        self._segment_features = features.part(list(self._segments.values()))
        self._kinds = {*config.positives, *popularity.kinds}.union(
            *(further.kinds for further in config.histories.values())
        )
        self.events_taken = 0
        self.samples_made = 0
        self.newest_ms = 0

    def take(self, events: pa.Table, catalogue: CatalogueColumns, with_samples: bool) -> Samples:
        """Take in the events of the kinds above and give the samples of the positives. without samples: the
        same targets, but no features (C = M = 0) and no running numbers, which are not used up (-1).

        A late event goes into the histories at its own time, where samples made before may meet it. Of a
        (request, item) that is there twice the first event is the sample.
        """
        chosen = pc.and_(_of_kinds(events, self._kinds), pc.not_equal(key_array(events["item_id"]), ""))
        if not pc.all(chosen, skip_nulls=False).as_py():
            events = events.filter(chosen)
        events = events.combine_chunks()
        ts_ms = np.array(events["ts_ms"], np.int64)
        user = self._tables.observe("user", events["user_id"], ts_ms).astype(np.int32)
        item = self._tables.observe("item", events["item_id"], ts_ms).astype(np.int32)
        request = self._requests(events["request_id"])
        self._items.update(catalogue, self._tables, int(ts_ms[-1]) if len(ts_ms) else 0)
        self.events_taken += len(ts_ms)

        def observe(table: HistoryTable, places: Int64Array) -> BoolArray:
            if len(places) == len(user) and user.min(initial=0) >= 0:
                return table.observe(user, item, ts_ms, request)
            first = np.ones(len(places), np.bool_)
            known = user[places] >= 0
            at = places[known]
            first[known] = table.observe(user[at], item[at], ts_ms[at], request[at])
            return first

        for name, further in self._config.histories.items():
            observe(self._histories[name], _places(_of_kinds(events, further.kinds)))
        places = np.arange(len(events))
        if self._kinds != {*self._config.positives}:
            places = _places(_of_kinds(events, self._config.positives))
        places = places[observe(self._history, places)]
        if self._popularity:
            self._count(events, catalogue, item, ts_ms, places)
        self._targets.observe(item[places].astype(np.int64), self._tables.ids["item"].entry_capacity)
        self.newest_ms = max(self.newest_ms, int(ts_ms[places].max(initial=0)))
        if len(places) < len(events):
            events = events.take(pa.array(places))
        samples = Samples(
            sequence=np.full(len(places), -1, np.int64),
            ts_ms=ts_ms[places],
            user=user[places],
            item=item[places],
            weight=self._weights(events["kind"]),
            request=request[places],
            categories=np.empty((len(places), 0), np.int32),
            numbers=np.empty((len(places), 0), np.float32),
        )
        return self._numbered(samples, events, catalogue) if with_samples else samples

    def _numbered(self, targets: Samples, events: pa.Table, catalogue: CatalogueColumns) -> Samples:
        """Targets with their features and running numbers; events: theirs."""
        columns = columns_of_events(self._features, events, catalogue)
        first = self.samples_made
        self.samples_made += len(targets)
        return replace(
            targets,
            sequence=np.arange(first, self.samples_made, dtype=np.int64),
            categories=self._features.entries(columns, targets.ts_ms, self._tables.observe),
            numbers=self._features.raw_numbers(columns, targets.ts_ms),
        )

    def _count(
        self,
        events: pa.Table,
        catalogue: CatalogueColumns,
        item: Int32Array,
        ts_ms: Int64Array,
        places: Int64Array,
    ) -> None:
        """Popularity of the events; places: which of them are targets."""
        targets = np.zeros(len(events), np.bool_)
        targets[places] = True
        codes: dict[str, Int64Array] = {}
        if self._segments:
            features = self._segment_features
            columns = columns_of_events(features, events, catalogue)
            entries = features.entries(columns, ts_ms, self._tables.observe)
            codes = {
                name: entries[:, features.layout[table].start].astype(np.int64)
                for name, table in self._segments.items()
            }

        def of_kinds(kinds: tuple[str, ...]) -> BoolArray:
            return np.array(_of_kinds(events, kinds), np.bool_)

        self._popularity.observe(item.astype(np.int64), ts_ms, targets, of_kinds, codes)

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


def _of_kinds(events: pa.Table, kinds: set[str] | tuple[str, ...]) -> pa.ChunkedArray:
    return pc.is_in(events["kind"], value_set=pa.array(sorted(kinds), pa.string()))


def _places(mask: pa.ChunkedArray) -> Int64Array:
    return np.flatnonzero(np.array(mask, np.bool_))
