"""A bundle of tens of millions of users, made of blocks: what a server reads of it and nothing else, rows of
half precision, and never more of it in memory than a block and the index.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import data
from benchmarks.bundles import ASKED, HOUR_MS, MODEL, Files, Published, asking
from models.arrays import Float16Array, Float32Array, Tensors
from models.artifact import Content
from models.bundle import BundleFields, model_file
from models.index import IndexConfig, item_files
from models.key_bytes import key_buffers
from models.learner import Learner, ModelConfig
from models.published import PublishedModel
from models.registry import Registry

BLOCK = 5000 * data.CLUSTER
"""Rows drawn at once; those of users repeat after so many."""


def published_into(registry: Registry, items: int, users: int, index: IndexConfig) -> tuple[str, Published]:
    """Its id there, and the bundle, whose files are those: published again, they are copied."""
    rng = data.generator()
    learner = Learner.fresh(ModelConfig(popularity=(), own_items=0))
    entry = {**learner.describe(), "rows": "float16"}
    histories, watermark_ms = data.interests(rng, ASKED, items), data.START_MS // HOUR_MS * HOUR_MS + HOUR_MS
    apart = max(1, users // ASKED)
    with tempfile.TemporaryDirectory(dir=registry.root.parent) as name:
        vectors = _vectors(rng, items, Path(name))
        of_items = np.empty((items + 1, data.WIDTH), np.float16)  # row 0 is the cold one
        of_items[0], of_items[1:] = 0, vectors
        of_users = _user_rows(rng, users, Path(name))
        kept = ("dense", "request_numbers", "item_numbers")
        files: dict[str, Content] = {model_file(MODEL, part): learner.save()[part] for part in kept}
        files[_served("history_item")] = {"weights": of_items}
        item_keys = data.key_texts(np.arange(items))
        files[_served("item")] = {**_ids(item_keys), "weights": of_items}
        asked = apart * np.arange(ASKED)
        few = {**_ids(data.key_texts(asked)), "weights": of_users[np.concatenate([[0], asked + 1])]}
        tuned = Files({"models": {MODEL: entry}}, {**files, _served("user"): few})
        queries = PublishedModel.load(tuned, MODEL).queries(asking(histories, watermark_ms, apart)).flat
        indexed, report = item_files(MODEL, item_keys, vectors, index, queries, half=True)
        fields = BundleFields(watermark_ms=watermark_ms, models={MODEL: {**entry, "index": report}})
        files |= indexed
        files[_served("user")] = {**_ids(data.key_texts(np.arange(users))), "weights": of_users}
        bundle = registry.publish_bundle(files, fields)
    held = registry.open_bundle(bundle, verify=False)
    copies: dict[str, Content] = {file: held.path(file) for file in held.names()}
    return bundle, Published(copies, fields, histories, np.empty((0, data.WIDTH), np.float32), apart)


def _served(table: str) -> str:
    return model_file(MODEL, f"served.{table}")


def _ids(keys: object) -> Tensors:
    """Of a table whose entries have all a row, in order."""
    text, offsets = key_buffers(keys)
    rows = np.arange(1, len(offsets), dtype=np.int32)
    return {"ids.key_bytes": text[: offsets[-1]], "ids.key_offsets": offsets, "ids.row": rows}


def _vectors(rng: np.random.Generator, items: int, folder: Path) -> Float32Array:
    """float32[items, WIDTH] in a file, clusters of one space."""
    vectors: Float32Array = _in_file(folder / "vectors", items, np.float32)
    space = rng.standard_normal((data.INTRINSIC, data.WIDTH), np.float32)
    for begin in range(0, items, BLOCK):
        part = vectors[begin : begin + BLOCK]
        part[:] = data.clustered(rng, len(part), space)
    return vectors


def _user_rows(rng: np.random.Generator, users: int, folder: Path) -> Float16Array:
    """float16[users + 1, WIDTH] in a file, the cold row first."""
    rows: Float16Array = _in_file(folder / "users", users + 1, np.float16)
    drawn = data.clustered(rng, min(users, BLOCK)).astype(np.float16)
    for block in range(math.ceil(users / BLOCK)):
        part = rows[1 + block * BLOCK :][:BLOCK]
        part[:] = drawn[: len(part)]
    return rows


def _in_file(path: Path, rows: int, dtype: type[np.generic]) -> Any:
    return np.memmap(path, dtype, "w+", shape=(rows, data.WIDTH))
