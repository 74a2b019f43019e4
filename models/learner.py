"""One recall model that learns: its ID tables, features, towers, optimizers, histories and frequency estimator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from models.catalogue_columns import CatalogueColumns
from models.model_config import FeatureConfig, ModelConfig
from models.moments import Moments
from models.samples import Samples
from models.arrays import Float32Array, Int64Array, Tensors

__all__ = ["CatalogueColumns", "FeatureConfig", "Learner", "ModelConfig", "ModelFiles", "Moments", "Samples", "TouchedRows"]


class ModelFiles(Protocol):
    """What load() reads: an opened artifact."""

    @property
    def manifest(self) -> Mapping[str, Any]:
        """Has `models: {name: {"kind", "config", "features"}}` (see Learner.describe)."""
        ...

    def tensors(self, name: str) -> Tensors:
        """Arrays of the file `models/<model>/<part>.safetensors`."""
        ...


@dataclass(frozen=True)
class TouchedRows:
    """Rows of one table that changed since the last clear_touched().

    keys: string[n]; rows: float32[n, E] embedding rows; vectors: float32[n, D] re-encoded item vectors, only for "item".
    """

    keys: pa.Array
    rows: Float32Array
    vectors: Float32Array | None


class Learner:
    """A recall model in training. One writer; not thread-safe. The caller sets torch's thread count."""

    config: ModelConfig
    features: tuple[FeatureConfig, ...]

    @classmethod
    def fresh(cls, config: ModelConfig, features: Sequence[FeatureConfig] = ()) -> Learner:
        """A model that has seen nothing; initial weights come from `config.seed`."""
        raise NotImplementedError

    @classmethod
    def load(cls, files: ModelFiles, name: str) -> Learner:
        """The model `name` of a bundle, ready to go on training: rows, optimizer state, histories, estimator."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """JSON-able entry of the manifest's `models[name]`: {"kind", "config", "features"}."""
        raise NotImplementedError

    def save(self) -> dict[str, Tensors]:
        """Everything load() needs: part -> tensors; the bundle keeps a part as `models/<name>/<part>.safetensors`."""
        raise NotImplementedError

    def observe(self, events: pa.Table, catalogue: CatalogueColumns) -> None:
        """Take in events that are not trained on: IDs, attributes and histories move on, no rows are trained.

        Same input as prepare(); prepare() = observe() + the samples.
        """
        raise NotImplementedError

    def prepare(self, events: pa.Table, catalogue: CatalogueColumns) -> Samples:
        """Samples of the next events in canonical order; advances IDs, attributes and histories.

        events: columns user_id, item_id (key texts), kind, scene, request_id, ts_ms, and context (map, may be absent).
            Only `config.positives` with an item become samples, one per (user, request, item); others are ignored here.
        Every sample sees its user's history as of its moment (earlier ts, other requests).
        """
        raise NotImplementedError

    def train_full(
        self,
        samples: Samples,
        order: Int64Array | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> float:
        """One epoch over `samples` in `order` (int64[n] positions; None = a shuffle by seed and step count).

        Trains every table and the dense layers. progress(samples done, of all) after each step. Returns the mean loss.
        For the first training call it `config.epochs_first` times.
        """
        raise NotImplementedError

    def train_incremental(self, samples: Samples) -> float:
        """One pass in order over one interval's samples; moves `config.trained_tables` only (row 0 never).

        Returns the mean loss, nan for no samples.
        """
        raise NotImplementedError

    def touched(self) -> dict[str, TouchedRows]:
        """Per published table, the rows that incremental steps moved since clear_touched(), by row number."""
        raise NotImplementedError

    def clear_touched(self) -> None:
        """Forget the touched set; call it after the delta is durable."""
        raise NotImplementedError

    def expire(self, now_ms: int) -> dict[str, pa.Array]:
        """Remove IDs unseen for `config.expire_after_days`; table -> removed keys (tombstones)."""
        raise NotImplementedError

    def item_vectors(self) -> tuple[pa.Array, Float32Array]:
        """Every servable item: keys string[N] and vectors float32[N, D] (what the index holds; inner product)."""
        raise NotImplementedError

    def user_vectors(self, moments: Moments) -> Float32Array:
        """float32[N, D] for the moments; reads only."""
        raise NotImplementedError

    def moments(self, samples: Samples, positions: Int64Array | None = None) -> Moments:
        """The moments of samples with IDs as keys, so that another model (or the server) can be asked the same."""
        raise NotImplementedError


class PublishedModel:
    """The serving side of one model: immutable, from the files of a bundle plus the rows of deltas."""

    config: ModelConfig
    features: tuple[FeatureConfig, ...]

    @classmethod
    def load(cls, files: ModelFiles, name: str) -> PublishedModel:
        """The model `name` of a bundle."""
        raise NotImplementedError

    def user_vectors(self, moments: Moments) -> Float32Array:
        """float32[N, D]; equal to Learner.user_vectors of the same state. Never mutates; thread-safe."""
        raise NotImplementedError

    def item_vectors(self, keys: pa.Array, attributes: Mapping[str, pa.Array]) -> Float32Array:
        """float32[N, D] of any items, unknown ones too, from their keys and attribute columns."""
        raise NotImplementedError

    def with_rows(
        self, rows: Mapping[str, tuple[pa.Array, Float32Array]], tombstones: Mapping[str, pa.Array] | None = None
    ) -> PublishedModel:
        """A new model with a delta's rows laid over: table -> (keys, rows float32[n, E]); tombstones -> the cold row."""
        raise NotImplementedError
