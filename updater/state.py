"""What training carries from one interval to the next: every learner of a version, and popularity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.affinity_counts import AffinityCounts
from models.arrays import Float32Array, Tensors
from models.bundle import AFFINITIES_FILE, POPULARITY_FILE, model_file
from models.delta import PopularityList
from models.item_to_item import ItemToItemConfig
from models.learner import CatalogueColumns, FeatureConfig, Learner, ModelConfig, Samples
from models.popularity import Popularity
from updater.changes import Changes, table_changes
from updater.item_channels import ItemChannels
from updater.sample_order import SampleOrder

POPULARITY_STATE_FILE = "channels/popularity_state.safetensors"
AFFINITY_STATE_FILE = "channels/affinity_state.safetensors"
POPULARITY_LENGTH = 1000
"""Items of the published popularity list."""
POPULARITY_HALF_LIVES = 60
"""Half-lives without an event after which an item's popularity is forgotten (a factor of 1e-18)."""


Progress = Callable[[str, int, int], None]
"""Told (what is being done, units done, units in all)."""
BeforeTraining = Callable[[str, Learner, Samples], None]
"""Given a model's name, the model, and the samples it is about to train on."""
Stretch = tuple[pa.Table, CatalogueColumns]
"""Consecutive events in canonical order, and the catalogue that holds for all of them."""


def ask_nobody(name: str, learner: Learner, samples: Samples) -> None:
    """A BeforeTraining that does nothing."""


class StateFiles(Protocol):
    """What a state is loaded from: an opened bundle, or a state kept in memory."""

    @property
    def manifest(self) -> Mapping[str, Any]:
        """Has `models: {name: Learner.describe()}`, may have `channels: ItemChannels.describe()`."""
        ...

    @property
    def root(self) -> Path:
        """Where it is; its name is told in errors."""
        ...

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        ...

    def tensors(self, name: str) -> Tensors:
        """Arrays of one file of TrainingState.files()."""
        ...


@dataclass(frozen=True)
class Trained:
    """What training one model in full gave.

    loss: mean of the last epoch; queries: user vectors float32[Q, W] of the newest samples, for tuning the
    index.
    """

    loss: float
    queries: Float32Array


@dataclass(frozen=True)
class Recipe:
    """What is learned: the recall models by name, the features they share, the popularity channel's half-
    life, the item-to-item channels by name. affinities: count items by segment as well, by the same half-
    life; met: and what users meet, by these kinds of events.
    """

    models: Mapping[str, ModelConfig]
    features: tuple[FeatureConfig, ...]
    positives: tuple[str, ...]
    popularity_half_life_ms: int
    channels: Mapping[str, ItemToItemConfig] = field(default_factory=dict)
    affinities: bool = False
    met: tuple[str, ...] = ()

    @property
    def affinity_counts(self) -> AffinityCounts:
        """Those of a state that has seen nothing."""
        if not self.affinities:
            return AffinityCounts((), self.popularity_half_life_ms)
        return AffinityCounts(self.features, self.popularity_half_life_ms, self.met)

    @property
    def schema_hash(self) -> str:
        """Sixteen hex digits of the declared models and features: rows of another recipe never apply."""
        declared = {
            "features": [feature.model_dump(mode="json") for feature in self.features],
            "models": {name: config.model_dump(mode="json") for name, config in sorted(self.models.items())},
            "positives": self.positives,
        }
        return hashlib.sha256(json.dumps(declared, sort_keys=True).encode()).hexdigest()[:16]


class RecipeChanged(RuntimeError):
    """The configuration of a model no longer fits what a bundle holds of it."""


_STRUCTURE = (
    "kind", "dim", "id_dim", "hidden", "cross_layers", "interests", "heads", "blocks", "history_length",
    "histories", "shared_items", "popularity", "has_own_items", "admit_after",
    "admit_window_days",
)  # fmt: skip
"""Settings that the tensors of a bundle depend on; all others may change from one retrain to the next."""


class _ModelFiles:
    """One bundle as `Learner.load` wants to see it, its models configured as in `models`."""

    def __init__(self, bundle: StateFiles, models: Mapping[str, Any]) -> None:
        self._bundle = bundle
        self.manifest: Mapping[str, Any] = {**bundle.manifest, "models": models}

    def tensors(self, name: str) -> Tensors:
        return self._bundle.tensors(name)


@dataclass
class TrainingState:
    """The learners, the counts of popularity and by segment, and the item-to-item channels after some prefix
    of the archive.

    Popularity counts the targets of a model that has its positives: a (request, item) once, as in the item
    vectors. Where none has (their positives differ, popularity has all of them), it counts every event.
    """

    learners: dict[str, Learner]
    popularity: Popularity
    positives: tuple[str, ...]
    affinities: AffinityCounts
    channels: ItemChannels = field(default_factory=ItemChannels)

    @classmethod
    def fresh(cls, recipe: Recipe) -> TrainingState:
        """A state that has seen nothing."""
        learners = {
            name: Learner.fresh(config, recipe.features) for name, config in sorted(recipe.models.items())
        }
        channels = ItemChannels.fresh(recipe.channels)
        popularity = Popularity(recipe.popularity_half_life_ms)
        return cls(learners, popularity, recipe.positives, recipe.affinity_counts, channels)

    @classmethod
    def load(cls, bundle: StateFiles) -> TrainingState:
        """The state a bundle was written with, configured as it was then."""
        models = bundle.manifest["models"]
        files = _ModelFiles(bundle, models)
        learners = {name: Learner.load(files, name) for name in sorted(models)}
        positives = {kind for learner in learners.values() for kind in learner.config.positives}
        popularity = Popularity.from_state(bundle.tensors(POPULARITY_STATE_FILE))
        affinities = _affinities(bundle) or AffinityCounts((), popularity.half_life_ms)
        return cls(learners, popularity, tuple(sorted(positives)), affinities, ItemChannels.load(bundle))

    @classmethod
    def warm(cls, bundle: StateFiles, recipe: Recipe) -> TrainingState:
        """The state of a bundle, to be trained on as `recipe` says. Models that the bundle lacks start fresh.

        Raises RecipeChanged where the bundle's tensors do not fit the recipe.
        """
        held = bundle.manifest["models"]
        files = _ModelFiles(bundle, {n: _adopted(bundle, n, recipe) for n in recipe.models if n in held})
        learners = {
            name: Learner.load(files, name) if name in held else Learner.fresh(config, recipe.features)
            for name, config in sorted(recipe.models.items())
        }
        popularity = Popularity.from_state(bundle.tensors(POPULARITY_STATE_FILE))
        popularity.half_life_ms = recipe.popularity_half_life_ms
        affinities, wanted = _affinities(bundle), recipe.affinity_counts
        if affinities is None or not affinities.sides.same(wanted.sides):
            affinities = wanted
        affinities.half_life_ms = wanted.half_life_ms
        channels = ItemChannels.warm(bundle, recipe.channels)
        return cls(learners, popularity, recipe.positives, affinities, channels)

    def advance(
        self, events: pa.Table, catalogue: CatalogueColumns, end_ms: int, everything: bool = False
    ) -> Changes:
        """Take one interval that ends at `end_ms`: incremental steps in order; returns what a delta ships of
        the models (and of the channels: `channels.take_changes()`).

        Batches never cross an interval, so that catching up gives the same bytes as keeping up.
        everything: move every weight instead of `trained_tables` (a comparison; no delta can ship that).
        """
        changes: Changes = {}
        for name, learner in self.learners.items():
            samples = learner.prepare(events, catalogue)
            self._count_targets(name, samples)
            learner.train_incremental(samples, everything=everything)
            removed = learner.expire(end_ms)
            changes[name] = table_changes(learner.touched(), removed)
            learner.clear_touched()
        self._count_events(events)
        self.affinities.observe(events, catalogue)
        self.channels.observe(events)
        self.channels.expire(end_ms)
        return changes

    def observe(self, events: pa.Table, catalogue: CatalogueColumns) -> None:
        """Take events in without training on them: IDs, histories, popularity and channels move on."""
        for name, learner in self.learners.items():
            self._count_targets(name, learner.observe(events, catalogue))
        self._count_events(events)
        self.affinities.observe(events, catalogue)
        self.channels.observe(events)

    def retrain(
        self,
        stretches: Sequence[Stretch],
        end_ms: int,
        order: SampleOrder,
        first: bool,
        queries: int = 0,
        progress: Progress = lambda what, done, of: None,
        before: BeforeTraining = ask_nobody,
    ) -> dict[str, Trained]:
        """Train every model in full on the stretches, which end at `end_ms`: the daily update.

        first: nothing was trained before, so every model makes its `epochs_first` passes.
        queries: how many of the newest samples' user vectors are returned. before: called with each model's
        samples before it trains on them.
        """
        trained = {}
        for name, learner in self.learners.items():
            progress(f"prepare {name}", 0, 1)
            parts = [learner.prepare(events, known) for events, known in stretches]
            for part in parts:
                self._count_targets(name, part)
            samples = Samples.concatenate(parts)
            before(name, learner, samples)
            loss = _epochs(name, learner, samples, order, first, progress)
            newest = np.arange(max(0, len(samples) - queries), len(samples))
            trained[name] = Trained(loss, learner.queries(learner.moments(samples, newest)).flat)
            learner.expire(end_ms)
            learner.rebase(end_ms)
        progress("count", 0, 1)
        for events, catalogue in stretches:
            self._count_events(events)
            self.affinities.observe(events, catalogue)
            self.channels.observe(events)
        self.channels.expire(end_ms)
        self.channels.settle()
        self.forget_unpopular(end_ms)
        return trained

    @property
    def _counted_by(self) -> str | None:
        """The model whose targets popularity counts; None = every event counts."""
        same = (n for n, one in self.learners.items() if set(one.config.positives) == set(self.positives))
        return next(same, None)

    def _count_targets(self, name: str, targets: Samples) -> None:
        """Count the targets of model `name`, if it is the one; before the model may expire their items."""
        if name == self._counted_by:
            self.popularity.observe(self.learners[name].target_keys(targets), targets.ts_ms)

    def _count_events(self, events: pa.Table) -> None:
        """Count the positive events (EVENT_SCHEMA columns item_id, kind, ts_ms) where no model has the same
        positives.
        """
        if self._counted_by is not None:
            return
        positive = events.filter(
            pc.and_(
                pc.is_in(events["kind"], pa.array(self.positives, pa.string())),
                pc.not_equal(events["item_id"], ""),
            )
        )
        if len(positive):
            self.popularity.observe(positive["item_id"].combine_chunks(), positive["ts_ms"].to_numpy())

    def forget_unpopular(self, now_ms: int) -> None:
        """Drop counts that have faded to nothing; without this every item ever seen would stay."""
        self.popularity.expire(now_ms - POPULARITY_HALF_LIVES * self.popularity.half_life_ms)

    def popularity_list(self) -> PopularityList:
        """The published top of the popularity counts."""
        keys, scores = self.popularity.top(POPULARITY_LENGTH)
        return PopularityList(keys, scores.astype(np.float64))

    def files(self) -> dict[str, Tensors]:
        """Everything `load` needs: file name in the bundle -> tensors."""
        files = {
            model_file(name, part): tensors
            for name, learner in self.learners.items()
            for part, tensors in learner.save().items()
        }
        files |= self.channels.files()
        files[POPULARITY_STATE_FILE] = self.popularity.state()
        files[POPULARITY_FILE] = self.popularity_list().tensors()
        if self.affinities:
            files[AFFINITY_STATE_FILE] = self.affinities.state()
            files[AFFINITIES_FILE] = self.affinities.published().tensors()
        return files


def _affinities(bundle: StateFiles) -> AffinityCounts | None:
    if not bundle.has(AFFINITY_STATE_FILE):
        return None
    return AffinityCounts.from_state(bundle.tensors(AFFINITY_STATE_FILE))


def _epochs(
    name: str, learner: Learner, samples: Samples, order: SampleOrder, first: bool, progress: Progress
) -> float:
    epochs = learner.config.epochs_first if first else 1
    loss = float("nan")
    for epoch in range(epochs):
        done = epoch * len(samples)

        def step(seen: int, of: int, done: int = done) -> None:
            progress(f"train {name}", done + seen, epochs * of)

        loss = learner.train_full(samples, order(len(samples), epoch), step)
    return loss


def _adopted(bundle: StateFiles, name: str, recipe: Recipe) -> dict[str, Any]:
    """The manifest's entry of a model with the recipe's configuration in place of its own."""
    entry, config = bundle.manifest["models"][name], recipe.models[name]
    before = ModelConfig.model_validate(entry["config"])
    changed = [field for field in _STRUCTURE if getattr(before, field) != getattr(config, field)]
    if tuple(FeatureConfig.model_validate(feature) for feature in entry["features"]) != recipe.features:
        changed.append("features")
    if changed:
        raise RecipeChanged(
            f"model {name}: expected {', '.join(changed)} as in bundle {bundle.root.name}, got other values; "
            "undo the change, or give the model another name: it then starts fresh"
        )
    return {**entry, "config": config.model_dump(mode="json")}
