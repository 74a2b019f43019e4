"""A bundle as large as in production, without the days of training: IDs, rows and index are real, and the
rows are vectors in clusters, which a tower that was never trained passes through.
"""

from __future__ import annotations

import functools
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from benchmarks import data
from models.arrays import Float32Array, Int64Array
from models.artifact import Content
from models.bundle import BundleFields, model_file
from models.catalogue_columns import CatalogueColumns
from models.delta import Delta, DeltaFields, TableRows
from models.frozen_ids import read_only
from models.index import IndexConfig, item_files
from models.learner import Learner, ModelConfig
from models.moments import Moments
from models.registry import Registry
from updater.state import Recipe, TrainingState

MODEL = "two_tower"
HOUR_MS = 3_600_000
ASKED = 2000
"""Users with a history, who are asked for."""


@dataclass(frozen=True)
class Published:
    """A bundle in memory. histories: int64[ASKED, LENGTH] item IDs of those who are asked for, users of whom
    each has an ID that is `apart` larger than the one before; vectors: of the items 0, 1, ….
    """

    files: Mapping[str, Content]
    fields: BundleFields
    histories: Int64Array
    vectors: Float32Array
    apart: int = 1

    def publish(self, registry: Registry, hour: int = 0) -> str:
        """Its id there; another hour makes another bundle of the same content."""
        fields = msgspec.structs.replace(self.fields, watermark_ms=self.fields.watermark_ms + hour * HOUR_MS)
        return registry.publish_bundle(self.files, fields)

    def delta(self, base: str, sequence: int, table: str, changed: int) -> Delta:
        """An increment with new rows of the first `changed` users or items of what the bundle has."""
        rng = np.random.default_rng(sequence)
        rows = data.clustered(rng, changed)
        keys = data.key_texts(np.arange(changed))
        fields = DeltaFields(
            base=base,
            sequence=sequence,
            previous_sequence=sequence - 1,
            watermark_ms=self.fields.watermark_ms + sequence,
            schema_hash=self.fields.schema_hash,
        )
        return Delta(fields, {MODEL: {table: TableRows(keys, rows, rows if table == "item" else None)}})


@dataclass(frozen=True)
class Files:
    """A bundle in memory, as a model is loaded from it."""

    manifest: Mapping[str, Any]
    files: Mapping[str, Any]

    def tensors(self, name: str, only: Container[str] | None = None) -> Any:
        """Of one file."""
        held = self.files[name].items()
        return {part: read_only(array) for part, array in held if only is None or part in only}

    def mapped(self, name: str, tensor: str) -> Any:
        """One of them."""
        return self.tensors(name)[tensor]


def asking(histories: Int64Array, ts_ms: int, apart: int = 1) -> Moments:
    """The moments in which users ask: an index is tuned to the vectors that are asked for."""
    users, length = histories.shape
    return Moments(
        user_id=data.key_texts(apart * np.arange(users)),
        ts_ms=np.full(users, ts_ms),
        history_id=data.key_texts(histories.ravel()),
        history_offsets=np.arange(users + 1) * length,
        history_ts_ms=np.full(histories.size, ts_ms),
    )


@functools.lru_cache(maxsize=1)
def published(items: int, users: int, graph_from: int) -> Published:
    """Built once for all measurements of this size: the index takes minutes. It is a graph from so many items
    on.
    """
    rng = data.generator()
    recipe = Recipe({MODEL: ModelConfig(popularity=(), own_items=0)}, (), ("click",), 12 * HOUR_MS)
    state = TrainingState.fresh(recipe)
    everybody, everything = np.arange(users), np.arange(items)
    who = np.concatenate([np.full(items, -1), everybody])
    state.observe(data.clicks(who, np.concatenate([everything, everybody % items])), CatalogueColumns())
    learner = state.learners[MODEL]
    vectors, histories = data.clustered(rng, items), data.interests(rng, ASKED, items)
    files: dict[str, Content] = dict(state.files())
    for table in ("item", "history_item"):
        part = model_file(MODEL, f"table.{table}")
        weights = np.concatenate([np.zeros((1, data.WIDTH), np.float32), vectors])  # row 0 is the cold one
        files[part] = {**files[part], "weights": weights}  # type: ignore[dict-item]
    watermark_ms = int(data.START_MS + (items + users) * 1000) // HOUR_MS * HOUR_MS + HOUR_MS
    held = Files({"models": {MODEL: learner.describe()}}, files)
    tuning = Learner.load(held, MODEL).queries(asking(histories, watermark_ms)).flat
    indexed, entry = item_files(
        MODEL, data.key_texts(everything), vectors, IndexConfig(exact_below=graph_from), tuning
    )
    fields = BundleFields(
        watermark_ms=watermark_ms,
        models={MODEL: {**learner.describe(), "index": entry}},
        schema_hash=recipe.schema_hash,
    )
    return Published(files | indexed, fields, histories, vectors)
