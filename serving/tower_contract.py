"""What serving reads of a recall model: the contract of its tower and of its configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import pyarrow as pa

from models.arrays import Float32Array
from models.artifact import Artifact
from models.moments import Moments
from models.query import Queries


class HistoryConfig(Protocol):
    """What serving reads of the configuration of a further history."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of events that make it up."""
        ...

    @property
    def length(self) -> int:
        """Newest entries the model reads."""
        ...


class TowerConfig(Protocol):
    """What serving reads of the configuration of a model or of an item-to-item channel."""

    @property
    def positives(self) -> tuple[str, ...]:
        """Kinds of events that make up the model's history."""
        ...

    @property
    def read_length(self) -> int:
        """Newest entries of that history the model reads."""
        ...

    @property
    def histories(self) -> Mapping[str, HistoryConfig]:
        """Further histories by name: kinds of events, and the newest entries read."""
        ...


class ModelConfig(TowerConfig, Protocol):
    """What serving reads of the configuration of a model."""

    @property
    def has_item_tower(self) -> bool:
        """Whether an item that nobody has met can be encoded from its features."""
        ...


class UserTower(Protocol):
    """A recall model as it is served (models.published.PublishedModel)."""

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""
        ...

    @property
    def together(self) -> int:
        """How many moments queries() may be asked for at once so that what it gives for each is, to the bit,
        what it gives for it alone.
        """
        ...

    def queries(self, moments: Moments) -> Queries:
        """What the item index is asked for the moments; never mutates."""
        ...

    def item_vectors(self, keys: pa.Array, attributes: Mapping[str, pa.Array]) -> Float32Array:
        """float32[n, W] of any items, unknown ones too, from their attributes."""
        ...

    def with_rows(
        self,
        rows: Mapping[str, tuple[pa.Array, Float32Array]],
        tombstones: Mapping[str, pa.Array] | None = None,
    ) -> UserTower:
        """The same model with changed rows."""
        ...


LoadTower = Callable[[Artifact, str], UserTower]
