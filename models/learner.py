"""One recall model that learns: its ID tables, features, towers, optimizers, histories, item popularity and
frequency estimator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from models.architecture import (
    ModelFiles,
    build_model,
    dense_weights,
    described,
    feature_sides,
    restore_weights,
)
from models.arrays import BoolArray, Float32Array, Int64Array, Tensors
from models.catalogue_columns import CatalogueColumns
from models.dense_adam import DenseAdam
from models.encoding import encode_queries, moments_of
from models.frequency import FrequencyEstimator
from models.hard_negatives import HardNegatives
from models.history import HistoryTable
from models.item_start import start_new_items
from models.item_store import ItemStore
from models.lookup import Rows, mark
from models.model_config import DAY_MS, FeatureConfig, ModelConfig
from models.moments import Moments
from models.popularity_dims import PopularityDims
from models.prebatch import PrebatchedRows
from models.preparation import Preparation
from models.published import PublishedModel
from models.query import Queries
from models.reject_events import rejects_among
from models.samples import Samples
from models.steps import ModelParts
from models.table_names import ids_name
from models.tables import Tables
from models.target_counts import TargetCounts
from models.time_features import local_midnight_ms
from models.training import Progress, Training

__all__ = [
    "CatalogueColumns",
    "FeatureConfig",
    "Learner",
    "ModelConfig",
    "ModelFiles",
    "Moments",
    "PublishedModel",
    "Queries",
    "Samples",
    "Tensors",
    "TouchedRows",
]

_SKIPPED = 64
"""Events kept beyond what is read: a reader passes over those of its own instant."""


@dataclass(frozen=True)
class TouchedRows:
    """Rows of one table that changed since the last clear_touched().

    keys: string[n]; rows: float32[n, E] embedding rows; vectors: float32[n, W] re-encoded item vectors, only
    for "item".
    """

    keys: pa.Array
    rows: Float32Array
    vectors: Float32Array | None


class Learner:
    """A recall model in training. One writer; not thread-safe. The caller sets torch's thread count."""

    def __init__(self, config: ModelConfig, features: Sequence[FeatureConfig]) -> None:
        """Use fresh() or load()."""
        self.config = config
        self.features = tuple(features)
        self._tables = Tables(config, self.features)
        self._request_features, self._item_features = feature_sides(config, self.features)
        self._items = ItemStore(self._item_features)
        self._history = HistoryTable(config.read_length + _SKIPPED)
        self._histories = {
            name: HistoryTable(kinds.length + _SKIPPED) for name, kinds in config.histories.items()
        }
        self._estimator = FrequencyEstimator()
        self._popularity = PopularityDims(config.popularity, config.positives)
        self._targets = TargetCounts()
        self.rejects = HardNegatives()
        self._model = build_model(config, self._request_features, self._item_features)
        self._adam = DenseAdam(self._model, config.lr_dense)
        self._touched: dict[str, BoolArray] = {}
        self._anchor_ms = 0
        self._wire()

    def _wire(self) -> None:
        """Join the parts; again after load() has replaced some."""
        self._preparation = Preparation(
            self.config,
            self._request_features,
            self._tables,
            self._items,
            self._history,
            self._histories,
            self._popularity,
            self._targets,
        )
        parts = ModelParts(
            self.config,
            self._model,
            self._tables,
            self._request_features,
            self._item_features,
            self._items,
            self._history,
            self._histories,
            self._estimator,
            self._popularity,
            self._targets,
        )
        self._model.eval()
        self._training = Training(parts, self._adam, self.rejects)

    @classmethod
    def fresh(cls, config: ModelConfig, features: Sequence[FeatureConfig] = ()) -> Learner:
        """A model that has seen nothing; initial weights come from `config.seed`."""
        return cls(config, features)

    @classmethod
    def load(cls, files: ModelFiles, name: str) -> Learner:
        """The model `name` of a bundle, ready to go on training: rows, optimizer state, histories,
        estimator.
        """
        learner = cls(*described(files.manifest, name))
        parts = {part: files.tensors(f"models/{name}/{part}.safetensors") for part in learner._part_names()}
        learner._tables.restore(parts)
        learner._request_features.restore(parts["request_numbers"])
        learner._item_features.restore(parts["item_numbers"])
        learner._items.restore(parts["item_attributes"])
        learner._history = HistoryTable.from_state(parts["history"])
        learner._histories = {
            further: HistoryTable.from_state(parts[f"history.{further}"]) for further in learner._histories
        }
        learner._estimator = FrequencyEstimator.from_state(parts["frequency"])
        learner._popularity.restore(parts["popularity"])
        learner._targets = TargetCounts.from_state(parts["targets"])
        learner.rejects = HardNegatives.from_state(parts["rejects"])
        restore_weights(learner._model, parts["dense"])
        learner._adam.restore(parts["dense"])
        learner._wire()
        counters = [int(value) for value in parts["progress"]["counters"]]
        learner._training.steps, learner._training.passes = counters[:2]
        learner._preparation.events_taken, learner._preparation.samples_made = counters[2:4]
        learner._preparation.newest_ms, learner._anchor_ms = counters[4:6]
        for table, flags in parts["touched"].items():
            learner._touched[table] = np.array(flags, np.bool_)
        return learner

    def describe(self) -> dict[str, Any]:
        """JSON-able entry of the manifest's `models[name]`: {"kind", "config", "features"}."""
        return {
            "kind": self.config.kind,
            "config": self.config.model_dump(mode="json"),
            "features": [feature.model_dump(mode="json") for feature in self.features],
        }

    def _part_names(self) -> list[str]:
        fixed = [
            "request_numbers", "item_numbers", "item_attributes", "history", "frequency", "popularity",
            "targets", "rejects", "dense", "progress", "touched",
        ]  # fmt: skip
        further = [f"history.{name}" for name in self._histories]
        return [f"table.{name}" for name in self._tables.rows] + further + fixed

    def save(self) -> dict[str, Tensors]:
        """Everything load() needs: part -> tensors; the bundle keeps a part as
        `models/<name>/<part>.safetensors`.
        """
        self._mark_counted()
        preparation, training = self._preparation, self._training
        counters = [training.steps, training.passes, preparation.events_taken, preparation.samples_made]
        counters += [preparation.newest_ms, self._anchor_ms]
        histories = {f"history.{name}": table.state() for name, table in self._histories.items()}
        return (
            self._tables.state()
            | histories
            | {
                "request_numbers": self._request_features.state(),
                "item_numbers": self._item_features.state(),
                "item_attributes": self._items.state(),
                "history": self._history.state(),
                "frequency": self._estimator.state(),
                "popularity": self._popularity.state(),
                "targets": self._targets.state(),
                "rejects": self.rejects.state(),
                "dense": dense_weights(self._model) | self._adam.state(),
                "progress": {"counters": np.array(counters, np.int64)},
                "touched": {table: flags.astype(np.uint8) for table, flags in self._touched.items()},
            }
        )

    def observe(self, events: pa.Table, catalogue: CatalogueColumns) -> Samples:
        """Take in events that are not trained on: IDs, attributes, histories and popularity move on, no rows
        are trained. New rows get their start (models/item_start.py).

        Same input as prepare(), and the same targets, but without features: they cannot be trained on.
        """
        targets = self._preparation.take(events, catalogue, with_samples=False)
        self._take_rejects(events, targets)
        self._start_new_items()
        return targets

    def prepare(self, events: pa.Table, catalogue: CatalogueColumns) -> Samples:
        """Samples of the next events in canonical order; advances IDs, attributes, histories, popularity.

        events: columns user_id, item_id (key texts), kind, scene, request_id, ts_ms, and context (map, may
        be absent).
            Only `config.positives` with an item become samples, one per (user, request, item); kinds of
            further histories only go there, and others are ignored.
        Every sample sees its user's history as of its moment (earlier ts, other requests). Samples refer to
        entries and histories: use them before the next expire().
        """
        samples = self._preparation.take(events, catalogue, with_samples=True)
        self._take_rejects(events, samples)
        self._start_new_items()
        return samples

    def _take_rejects(self, events: pa.Table, targets: Samples) -> None:
        """What later stages turned down joins the pool; what its user took in spite of that leaves it."""
        if "rejects" not in self.config.hard_negatives:
            return
        found = rejects_among(events)
        users = self._tables.ids["user"].lookup(found.user_id).astype(np.int32)
        items = self._tables.ids["item"].lookup(found.item_id).astype(np.int32)
        self.rejects.observe(users, items, found.stage, found.rank, found.ts_ms)
        self.rejects.remove(targets.user, targets.item)

    def target_keys(self, samples: Samples) -> pa.Array:
        """The targets' item keys, string[n]."""
        return self._tables.ids["item"].keys_of(samples.item.astype(np.int64))

    def train_full(
        self, samples: Samples, order: Int64Array | None = None, progress: Progress | None = None
    ) -> float:
        """One epoch over `samples` in `order` (int64[n] positions; None = a shuffle by seed and passes made).

        Trains every table and the dense layers; with `config.prebatch` by prebatch() into a temporary file
        and train_prebatched() from it. progress(samples done, of all) after each step. Returns the mean loss,
        nan for no samples. For the first training call it `config.epochs_first` times.
        """
        return self._training.full(samples, order, progress, self._ranking())

    def prebatch(self, samples: Samples, order: Int64Array | None = None) -> Iterator[PrebatchedRows]:
        """Complete rows of `samples`, a batch at a time, in the order that train_full() would take now; for
        models/prebatch_file.py and train_prebatched(). The model is only read.

        Histories and item attributes are as of now, so write them before the next events are taken.
        ValueError for a model whose rows cannot be written ahead.
        """
        return self._training.written(samples, order)

    def train_prebatched(
        self, read: Callable[[], Iterable[PrebatchedRows]], progress: Progress | None = None
    ) -> float:
        """One epoch over written rows as they lie: train_full() with negatives, histories and attributes
        taken from the rows. read() gives all batches and is called twice, first for the scale of the numbers.

        Where the loss takes each row's own negatives this is train_full() on the same draws; softmax and nce
        have a row's own negatives here, not shared ones. Returns the mean loss, nan for no rows.
        """
        return self._training.prebatched(read, progress)

    def train_incremental(self, samples: Samples, everything: bool = False) -> float:
        """One pass in order over one interval's samples; moves `config.trained_tables` only (row 0 never).

        everything: every table and the dense weights move; only to measure what that is worth.
        Returns the mean loss, nan for no samples.
        """
        loss = self._training.incremental(samples, everything, self._mark)
        self._mark_counted()
        return loss

    @property
    def resampled(self) -> dict[str, int]:
        """Samples that the last full training dropped or repeated, by reason."""
        return dict(self._training.resampled)

    def rebase(self, watermark_ms: int) -> None:
        """A bundle begins here: nothing is touched yet, and item popularity is counted in this moment's
        frame, which deltas keep: between two bundles only items with new events change.
        """
        self.clear_touched()
        self._anchor_ms = watermark_ms

    @property
    def _shipped(self) -> frozenset[str]:
        """Tables whose changes a delta carries."""
        with_items = {"item"} if self._popularity else set()
        return frozenset(self.config.published_tables) | with_items

    def _mark_counted(self) -> None:
        """What was counted since the last call changed its items' vectors."""
        changed = self._popularity.take_changed()
        if len(changed):
            self._mark({"item": [self._tables.ids["item"].rows(changed)]})

    def _start_new_items(self) -> None:
        """Without an item tower, and where deltas ship items: a new item begins at its most similar ones."""
        if not self.config.has_item_tower and "item" in self._shipped:
            moved = start_new_items(self._tables, self._item_features, self._items, spread=False)
            if len(moved):
                self._mark({"item": [moved]})

    def _mark(self, touched: Rows) -> None:
        for table, parts in touched.items():
            if table in self._shipped:
                rows = self._tables.rows[table].rows
                flags = self._touched.get(table, np.zeros(0, np.bool_))
                if len(flags) < rows:
                    flags = np.concatenate([flags, np.zeros(rows - len(flags), np.bool_)])
                for part in parts:
                    mark(flags, part)
                flags[0] = False
                self._touched[table] = flags

    def touched(self) -> dict[str, TouchedRows]:
        """Per shipped table, what incremental steps moved since clear_touched(), by entry.

        Item popularity counts as a change of the item.
        """
        self._mark_counted()
        answer: dict[str, TouchedRows] = {}
        for table in sorted(self._shipped):
            flags = self._touched.get(table, np.zeros(0, np.bool_))
            ids = self._tables.ids[ids_name(table)]
            entries = ids.live_entries()
            rows = ids.rows(entries)
            entries = entries[np.isin(rows, np.flatnonzero(flags))]
            values = self._tables.rows[table].weights.numpy()[ids.rows(entries)]
            vectors = self._encode(entries) if table == "item" else None
            answer[table] = TouchedRows(ids.keys_of(entries), values, vectors)
        return answer

    def clear_touched(self) -> None:
        """Forget the touched set; call it after the delta is durable."""
        self._popularity.take_changed()
        self._touched = {}

    def expire(self, now_ms: int) -> dict[str, pa.Array]:
        """Remove IDs unseen for `config.expire_after_days`; "user" and "item" -> removed keys (tombstones).

        They leave every history, the item attributes, the touched set and the counts with them. Histories
        are cut to what will be read.
        """
        before_ms = now_ms - int(self.config.expire_after_days * DAY_MS)
        histories = [self._history, *self._histories.values()]
        removed: dict[str, pa.Array] = {}
        for name in ("user", "item"):
            removed[name], entries, rows = self._tables.expire(name, before_ms)
            for table, flags in self._touched.items():
                if ids_name(table) == name:
                    flags[rows[rows < len(flags)]] = False
            if len(entries) and name == "user":
                for history in histories:
                    history.drop_users(entries)
                self.rejects.drop_users(entries)
            elif len(entries):
                for history in histories:
                    history.drop_items(entries, self._tables.ids["item"].entry_capacity)
                self._items.drop(entries)
                self._popularity.drop_items(entries)
                self._targets.drop(entries)
                self.rejects.drop_items(entries)
        for history in histories:
            history.trim()
        self._popularity.trim(now_ms)
        self.rejects.trim(now_ms - int(self.config.rejects_days * DAY_MS))
        return removed

    def item_vectors(self) -> tuple[pa.Array, Float32Array]:
        """Every servable item (one with a row): keys string[N] and vectors float32[N, W] (inner product)."""
        ids = self._tables.ids["item"]
        live = ids.live_entries()
        live = live[ids.entry_rows[live] > 0]
        return ids.keys_of(live), self._encode(live)

    def _encode(self, entries: Int64Array) -> Float32Array:
        """Item vectors float32[n, W], in chunks that bound the memory."""
        dim = self.config.dim
        vectors = np.empty((len(entries), dim + self._popularity.layout.width), np.float32)
        numbers = self._item_features.standardised(self._items.numbers)
        for start in range(0, len(entries), 65_536):
            chunk = entries[start : start + 65_536]
            vectors[start : start + len(chunk), :dim] = self._training.stepper.encode_items(chunk, numbers)
        if self._popularity:
            newest_ms = self._preparation.newest_ms
            anchor = self._anchor_ms or local_midnight_ms(newest_ms, self.config.day_timezone)
            now_ms = max(newest_ms + 1, self._popularity.trimmed_ms)
            vectors[:, dim:] = self._popularity.published(entries, now_ms, anchor)
        return vectors

    def queries(self, moments: Moments) -> Queries:
        """What the model asks for at the moments; reads only."""
        return encode_queries(
            self.config, self._request_features, self._model, moments, self._rows_of, self._entries_of
        )

    def _entries_of(self, table: str, keys: pa.StringArray) -> Int64Array:
        return self._tables.ids[table].lookup(keys)

    def _rows_of(self, table: str, keys: pa.StringArray) -> torch.Tensor:
        ids = self._tables.ids[ids_name(table)]
        return self._tables.rows[table].weights[torch.from_numpy(ids.rows(ids.lookup(keys)))]

    def moments(self, samples: Samples, positions: Int64Array | None = None) -> Moments:
        """The moments of samples with IDs as keys, so that another model (or the server) can be asked the
        same.
        """
        if positions is not None:
            samples = samples.take(positions)
        return moments_of(
            self.config, samples, self._tables.ids, self._request_features, self._history, self._histories
        )

    def _ranking(self) -> Callable[[Samples], Float32Array]:
        """Scores float32[n, entries] of samples against all items by item entry, -inf for what has no row."""
        ids = self._tables.ids["item"]
        vectors: list[tuple[Int64Array, Float32Array]] = []

        def scores(samples: Samples) -> Float32Array:
            if not vectors:
                live = ids.live_entries()
                live = live[ids.entry_rows[live] > 0]
                vectors.append((live, self._encode(live)))
            live, v_NW = vectors[0]
            queries = self.queries(self.moments(samples))
            found = np.full((len(samples), ids.entry_capacity), -np.inf, np.float32)
            found[:, live] = (queries.flat @ v_NW.T).reshape(*queries.vectors.shape[:2], -1).max(1)
            return found

        return scores
