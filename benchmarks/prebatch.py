"""Full training from rows written ahead (prebatch), against negatives drawn in the step: the same draws."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import torch

from benchmarks.measure import Result, rates
from models.catalogue_columns import CatalogueColumns
from models.learner import FeatureConfig, Learner, ModelConfig
from models.prebatch_file import read_prebatch, write_prebatch
from models.samples import Samples

SAMPLES, USERS, ITEMS = 4096, 500, 20_000
FEATURES = (
    FeatureConfig(name="category", source="item"),
    FeatureConfig(name="tags", source="item", kind="categories", length=4),
    FeatureConfig(name="price", source="item", kind="number"),
    FeatureConfig(name="scene", source="context"),
)


def run() -> list[Result]:
    """One pass of a two tower over 4,096 samples of full histories of 50, ten negatives a row, one thread."""
    torch.set_num_threads(1)
    config = ModelConfig(loss="listwise", positives=("click",), popularity=(), own_items=0)
    (in_step, samples), (ahead, same), (switched, through) = (
        _prepared(one) for one in (config, config, config.model_copy(update={"prebatch": True}))
    )
    with TemporaryDirectory() as directory:
        path = Path(directory) / "rows.arrow"
        write_prebatch(path, ahead.prebatch(same), "b")
        of_file, from_file, whole = rates(
            SAMPLES,
            lambda: in_step.train_full(samples),
            lambda: ahead.train_prebatched(lambda: read_prebatch(path, "b")),
            lambda: switched.train_full(through),
            rounds=3,
        )
        size = path.stat().st_size / SAMPLES
    params = {
        "samples": SAMPLES,
        "items": ITEMS,
        "history": config.history_length,
        "negatives": config.negatives_per_row,
        "batch": config.batch_size,
        "bytes_per_sample": round(size),
    }
    peer = "negatives drawn in the step"
    return [
        Result("prebatch.train", from_file, "samples/s", peer, of_file, params),
        Result("prebatch.write+train", whole, "samples/s", peer, of_file, params),
    ]


def _prepared(config: ModelConfig) -> tuple[Learner, Samples]:
    """A model and the newest 4,096 clicks, after fifty of every user."""
    rng = np.random.default_rng(7)
    n = 50 * USERS + SAMPLES
    users = np.concatenate([np.tile(np.arange(USERS), 50), rng.integers(0, USERS, SAMPLES)])
    events = pa.table(
        {
            "user_id": pa.array([f"#{user}" for user in users]),
            "item_id": pa.array([f"#{item}" for item in rng.zipf(1.2, n) % ITEMS]),
            "kind": pa.repeat("click", n),
            "scene": pa.repeat("home", n),
            "request_id": pa.repeat("", n),
            "ts_ms": 1_700_000_000_000 + 1000 * np.arange(n, dtype=np.int64),
        }
    )
    tags = rng.integers(0, 500, (ITEMS, 4))
    items = {
        "item_id": [f"#{item}" for item in range(ITEMS)],
        "category": [f"c{item % 100}" for item in range(ITEMS)],
        "tags": [",".join(f"t{tag}" for tag in row) for row in tags],
        "price": rng.random(ITEMS),
    }
    catalogue = CatalogueColumns(pa.table(items))
    learner = Learner.fresh(config, FEATURES)
    learner.observe(events.slice(0, n - SAMPLES), catalogue)
    return learner, learner.prepare(events.slice(n - SAMPLES), catalogue)
