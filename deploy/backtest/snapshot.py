"""A published version kept in memory: what production writes as a bundle and loads again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.arrays import Tensors
from models.item_to_item import HOUR_MS
from models.neighbours import Neighbours
from updater.state import TrainingState


class Snapshot:
    """The files of a training state. Every reader gets arrays of its own, so that forks share nothing.

    neighbours: of the item-to-item channels, by name; they never change.
    """

    def __init__(self, state: TrainingState, watermark_ms: int) -> None:
        self.watermark_ms = watermark_ms
        models = {name: learner.describe() for name, learner in state.learners.items()}
        self.manifest: Mapping[str, Any] = {
            "models": models,
            "channels": state.channels.describe(),
            "watermark_ms": watermark_ms,
        }
        self.neighbours = {
            name: Neighbours.over(rows, state.channels.held[name].config.recency_half_life_h * HOUR_MS)
            for name, rows in state.channels.neighbours().items()
        }
        self._files = {file: _copied(tensors) for file, tensors in state.files().items()}

    @property
    def root(self) -> Path:
        """A name for errors; there is no such folder."""
        return Path(f"memory-{self.watermark_ms}")

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return name in self._files

    def tensors(self, name: str) -> Tensors:
        """Arrays of one file."""
        return _copied(self._files[name])


def _copied(tensors: Tensors) -> Tensors:
    return {name: tensor.copy() for name, tensor in tensors.items()}
