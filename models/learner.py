"""One recall model that learns: its ID tables, features, towers, optimizers, histories and frequency
estimator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from models.encoding import encode_users, moments_of
from models.frequency import FrequencyEstimator
from models.history import HistoryTable
from models.item_store import ItemStore
from models.model_config import DAY_MS, FeatureConfig, ModelConfig
from models.moments import Moments
from models.preparation import Preparation
from models.published import PublishedModel
from models.samplers import UnigramSampler
from models.samples import Samples
from models.steps import Rows, Stepper, StepPlan
from models.table_names import ids_name
from models.tables import Tables

__all__ = [
    "CatalogueColumns",
    "FeatureConfig",
    "Learner",
    "ModelConfig",
    "ModelFiles",
    "Moments",
    "PublishedModel",
    "Samples",
    "Tensors",
    "TouchedRows",
]


@dataclass(frozen=True)
class TouchedRows:
    """Rows of one table that changed since the last clear_touched().

    keys: string[n]; rows: float32[n, E] embedding rows; vectors: float32[n, D] re-encoded item vectors, only
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
        self._history = HistoryTable(2 * config.history_length)
        self._estimator = FrequencyEstimator()
        self._model = build_model(config, self._request_features, self._item_features)
        self._adam = DenseAdam(self._model, config.lr_dense)
        self._touched: dict[str, BoolArray] = {}
        self._steps = 0
        self._passes = 0
        self._wire()

    def _wire(self) -> None:
        """Join the parts; again after load() has replaced some."""
        self._preparation = Preparation(
            self.config, self._request_features, self._tables, self._items, self._history
        )
        self._stepper = Stepper(
            self.config,
            self._model,
            self._tables,
            self._request_features,
            self._items,
            self._estimator,
            self._item_features,
        )

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
        learner._estimator = FrequencyEstimator.from_state(parts["frequency"])
        restore_weights(learner._model, parts["dense"])
        learner._adam.restore(parts["dense"])
        learner._wire()
        learner._steps, learner._passes, taken, made = (int(value) for value in parts["progress"]["counters"])
        learner._preparation.events_taken, learner._preparation.samples_made = taken, made
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
            "request_numbers",
            "item_numbers",
            "item_attributes",
            "history",
            "frequency",
            "dense",
            "progress",
            "touched",
        ]
        return [f"table.{name}" for name in self._tables.rows] + fixed

    def save(self) -> dict[str, Tensors]:
        """Everything load() needs: part -> tensors; the bundle keeps a part as
        `models/<name>/<part>.safetensors`.
        """
        preparation = self._preparation
        counters = [self._steps, self._passes, preparation.events_taken, preparation.samples_made]
        return self._tables.state() | {
            "request_numbers": self._request_features.state(),
            "item_numbers": self._item_features.state(),
            "item_attributes": self._items.state(),
            "history": self._history.state(),
            "frequency": self._estimator.state(),
            "dense": dense_weights(self._model) | self._adam.state(),
            "progress": {"counters": np.array(counters, np.int64)},
            "touched": {table: flags.astype(np.uint8) for table, flags in self._touched.items()},
        }

    def observe(self, events: pa.Table, catalogue: CatalogueColumns) -> None:
        """Take in events that are not trained on: IDs, attributes and histories move on, no rows are trained.

        Same input as prepare(); prepare() = observe() + the samples.
        """
        self._preparation.take(events, catalogue, with_samples=False)

    def prepare(self, events: pa.Table, catalogue: CatalogueColumns) -> Samples:
        """Samples of the next events in canonical order; advances IDs, attributes and histories.

        events: columns user_id, item_id (key texts), kind, scene, request_id, ts_ms, and context (map, may
        be absent).
            Only `config.positives` with an item become samples, one per (user, request, item); others are
            ignored here.
        Every sample sees its user's history as of its moment (earlier ts, other requests). Samples refer to
        entries: use them before the next expire().
        """
        return self._preparation.take(events, catalogue, with_samples=True)

    def target_keys(self, samples: Samples) -> pa.Array:
        """The targets' item keys, string[n]."""
        return self._tables.ids["item"].keys_of(samples.item.astype(np.int64))

    def train_full(
        self,
        samples: Samples,
        order: Int64Array | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> float:
        """One epoch over `samples` in `order` (int64[n] positions; None = a shuffle by seed and passes made).

        Trains every table and the dense layers. progress(samples done, of all) after each step. Returns the
        mean loss, nan for no samples. For the first training call it `config.epochs_first` times.
        """
        if len(samples) == 0:
            return float("nan")
        config = self.config
        if order is None:
            order = np.random.Generator(np.random.Philox(key=[config.seed, self._passes])).permutation(
                len(samples)
            )
        raw = self._request_features.with_age(samples.numbers, samples.ts_ms.max() - samples.ts_ms)
        self._request_features.fit(raw)
        self._item_features.fit(self._items.numbers)
        self._tables.spread(set(self._tables.rows) - {"user"})
        rate = 1.0 if self._passes < config.epochs_first else config.warm_rate
        for rows in self._tables.rows.values():
            rows.set_lr(rate * config.lr_rows)
        self._adam.set_lr(rate * config.lr_dense)
        plan = StepPlan(
            trained=frozenset(self._tables.rows),
            in_batch=config.kind == "two_tower",
            sampler=self._sampler(),
            numbers=self._request_features.standardised(raw),
            item_numbers=self._item_features.standardised(self._items.numbers),
            user_dropout=config.id_dropout,
            item_dropout=config.item_dropout if config.kind == "two_tower" else 0.0,
            salt=self._passes,
        )
        total = 0.0
        self._model.requires_grad_(True)
        for start in range(0, len(order), config.batch_size):
            positions = order[start : start + config.batch_size]
            self._adam.zero_grad()
            loss, _ = self._stepper.step(samples.take(positions), positions, plan, self._steps)
            self._adam.step()
            self._steps += 1
            total += loss * len(positions)
            if progress is not None:
                progress(start + len(positions), len(order))
        self._passes += 1
        return total / len(order)

    def train_incremental(self, samples: Samples) -> float:
        """One pass in order over one interval's samples; moves `config.trained_tables` only (row 0 never).

        Returns the mean loss, nan for no samples.
        """
        if len(samples) == 0:
            return float("nan")
        config = self.config
        trained = frozenset(config.trained_tables)
        plan = StepPlan(
            trained=trained,
            in_batch=False,  # an hour's own items are few and biased: draw negatives from the corpus
            sampler=self._sampler(),
            numbers=self._request_features.standardised(samples.numbers),
            item_numbers=self._item_features.standardised(self._items.numbers),
            user_dropout=0.0,
            item_dropout=0.0,
            salt=0,
        )
        for table in trained:
            self._tables.rows[table].set_lr(config.lr_rows_incremental)
        self._model.requires_grad_(False)
        total = 0.0
        for start in range(0, len(samples), config.batch_size_incremental):
            places = slice(start, min(start + config.batch_size_incremental, len(samples)))
            batch = samples.take(places)
            with self._tables.cold_rows_kept(trained):
                loss, rows = self._stepper.step(batch, places, plan, self._steps)
            self._steps += 1
            total += loss * len(batch)
            self._mark(rows)
        return total / len(samples)

    def _sampler(self) -> UnigramSampler:
        ids = self._tables.ids["item"]
        live = ids.live_entries()
        live = live[ids.entry_rows[live] > 0]
        return UnigramSampler(
            live, ids.counts(live), ids.entry_capacity, self.config.negative_power, self.config.seed
        )

    def _mark(self, touched: Rows) -> None:
        for table, parts in touched.items():
            if table in self.config.published_tables:
                rows = self._tables.rows[table].rows
                flags = self._touched.get(table, np.zeros(0, np.bool_))
                if len(flags) < rows:
                    flags = np.concatenate([flags, np.zeros(rows - len(flags), np.bool_)])
                for part in parts:
                    flags[part] = True
                flags[0] = False
                self._touched[table] = flags

    def touched(self) -> dict[str, TouchedRows]:
        """Per published table, the rows that incremental steps moved since clear_touched(), by entry."""
        answer: dict[str, TouchedRows] = {}
        for table in self.config.published_tables:
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
        self._touched = {}

    def expire(self, now_ms: int) -> dict[str, pa.Array]:
        """Remove IDs unseen for `config.expire_after_days`; "user" and "item" -> removed keys (tombstones).

        They leave every history, the item attributes and the touched set with them.
        """
        before_ms = now_ms - int(self.config.expire_after_days * DAY_MS)
        removed: dict[str, pa.Array] = {}
        for name in ("user", "item"):
            removed[name], entries, rows = self._tables.expire(name, before_ms)
            for table, flags in self._touched.items():
                if ids_name(table) == name:
                    flags[rows[rows < len(flags)]] = False
            if len(entries) and name == "user":
                self._history.drop_users(entries)
            elif len(entries):
                self._history.drop_items(entries, self._tables.ids["item"].entry_capacity)
                self._items.drop(entries)
        return removed

    def item_vectors(self) -> tuple[pa.Array, Float32Array]:
        """Every servable item (one with a row): keys string[N] and vectors float32[N, D] (inner product)."""
        ids = self._tables.ids["item"]
        live = ids.live_entries()
        live = live[ids.entry_rows[live] > 0]
        return ids.keys_of(live), self._encode(live)

    def _encode(self, entries: Int64Array) -> Float32Array:
        """Item vectors float32[n, D], in chunks that bound the memory."""
        vectors = np.empty((len(entries), self.config.dim), np.float32)
        numbers = self._item_features.standardised(self._items.numbers)
        for start in range(0, len(entries), 65_536):
            chunk = entries[start : start + 65_536]
            vectors[start : start + len(chunk)] = self._stepper.encode_items(chunk, numbers)
        return vectors

    def user_vectors(self, moments: Moments) -> Float32Array:
        """float32[N, D] for the moments; reads only."""
        return encode_users(self.config, self._request_features, self._model, moments, self._rows_of)

    def _rows_of(self, table: str, keys: pa.StringArray) -> torch.Tensor:
        ids = self._tables.ids[ids_name(table)]
        return self._tables.rows[table].weights[torch.from_numpy(ids.rows(ids.lookup(keys)))]

    def moments(self, samples: Samples, positions: Int64Array | None = None) -> Moments:
        """The moments of samples with IDs as keys, so that another model (or the server) can be asked the
        same.
        """
        if positions is not None:
            samples = samples.take(positions)
        return moments_of(samples, self._tables.ids, self._request_features)
