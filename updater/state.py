"""What training carries from one interval to the next: every learner of a version, and popularity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.arrays import Tensors
from models.artifact import Artifact
from models.bundle import POPULARITY_FILE, model_file
from models.delta import PopularityList
from models.learner import FeatureConfig, Learner, ModelConfig
from models.popularity import Popularity

POPULARITY_STATE_FILE = "channels/popularity_state.safetensors"
POPULARITY_LENGTH = 1000
"""Items of the published popularity list."""
POPULARITY_HALF_LIVES = 60
"""Half-lives without an event after which an item's popularity is forgotten (a factor of 1e-18)."""


@dataclass(frozen=True)
class Recipe:
    """What is learned: the recall models by name, the features they share, the popularity channel's half-
    life.
    """

    models: Mapping[str, ModelConfig]
    features: tuple[FeatureConfig, ...]
    positives: tuple[str, ...]
    popularity_half_life_ms: int

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
    "kind", "dim", "id_dim", "hidden", "history_length", "shared_items", "admit_after", "admit_window_days",
)  # fmt: skip
"""Settings that the tensors of a bundle depend on; all others may change from one retrain to the next."""


class _ModelFiles:
    """One bundle as `Learner.load` wants to see it, its models configured as in `models`."""

    def __init__(self, bundle: Artifact, models: Mapping[str, Any]) -> None:
        self._bundle = bundle
        self.manifest: Mapping[str, Any] = {**bundle.manifest, "models": models}

    def tensors(self, name: str) -> Tensors:
        return self._bundle.tensors(name)


@dataclass
class TrainingState:
    """The learners and the popularity counts after some prefix of the archive."""

    learners: dict[str, Learner]
    popularity: Popularity
    positives: tuple[str, ...]

    @classmethod
    def fresh(cls, recipe: Recipe) -> TrainingState:
        """A state that has seen nothing."""
        learners = {
            name: Learner.fresh(config, recipe.features) for name, config in sorted(recipe.models.items())
        }
        return cls(learners, Popularity(recipe.popularity_half_life_ms), recipe.positives)

    @classmethod
    def load(cls, bundle: Artifact) -> TrainingState:
        """The state a bundle was written with, configured as it was then."""
        models = bundle.manifest["models"]
        files = _ModelFiles(bundle, models)
        learners = {name: Learner.load(files, name) for name in sorted(models)}
        positives = {kind for learner in learners.values() for kind in learner.config.positives}
        popularity = Popularity.from_state(bundle.tensors(POPULARITY_STATE_FILE))
        return cls(learners, popularity, tuple(sorted(positives)))

    @classmethod
    def warm(cls, bundle: Artifact, recipe: Recipe) -> TrainingState:
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
        return cls(learners, popularity, recipe.positives)

    def observe_popularity(self, events: pa.Table) -> None:
        """Count the positive events of an interval (EVENT_SCHEMA columns item_id, kind, ts_ms)."""
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
        files[POPULARITY_STATE_FILE] = self.popularity.state()
        files[POPULARITY_FILE] = self.popularity_list().tensors()
        return files


def _adopted(bundle: Artifact, name: str, recipe: Recipe) -> dict[str, Any]:
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
