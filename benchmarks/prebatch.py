"""Full training from rows written ahead (prebatch), against negatives drawn in the step: the same draws."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import torch

from benchmarks import data
from benchmarks.measure import Result, rates
from models.catalogue_columns import CatalogueColumns
from models.learner import FeatureConfig, Learner, ModelConfig
from models.prebatch_file import read_prebatch, write_prebatch
from models.samples import Samples

FEATURES = (
    FeatureConfig(name="category", source="item"),
    FeatureConfig(name="tags", source="item", kind="categories", length=4),
    FeatureConfig(name="price", source="item", kind="number"),
    FeatureConfig(name="scene", source="context"),
)


def prebatched(samples: int, users: int, items: int) -> list[Result]:
    """One pass of a two tower over samples of full histories of 50, ten negatives a row, one thread."""
    torch.set_num_threads(1)
    config = ModelConfig(loss="listwise", positives=("click",), popularity=(), own_items=0)
    (in_step, drawn), (ahead, same), (switched, through) = (
        _prepared(one, samples, users, items)
        for one in (config, config, config.model_copy(update={"prebatch": True}))
    )
    with TemporaryDirectory() as directory:
        path = Path(directory) / "rows.arrow"
        write_prebatch(path, ahead.prebatch(same), "b")
        of_file, from_file, whole = rates(
            samples,
            lambda: [in_step.train_full(drawn)],
            lambda: [ahead.train_prebatched(lambda: read_prebatch(path, "b"))],
            lambda: [switched.train_full(through)],
            rounds=3,
        )
        size = path.stat().st_size / samples
    params = {
        "history": config.history_length,
        "negatives": config.negatives_per_row,
        "batch": config.batch_size,
        "bytes_per_sample": round(size),
    }
    peer = "negatives drawn in the step"
    return [
        Result("prebatch.train", from_file, "samples/s", peer, of_file, params=params),
        Result("prebatch.write+train", whole, "samples/s", peer, of_file, params=params),
    ]


def _prepared(config: ModelConfig, samples: int, users: int, items: int) -> tuple[Learner, Samples]:
    """A model and the newest clicks, after fifty of every user."""
    rng = data.generator()
    n = data.LENGTH * users + samples
    who = np.concatenate([np.tile(np.arange(users), data.LENGTH), rng.integers(0, users, samples)])
    events = data.clicks(who, data.zipf(rng, n, items))
    tags = rng.integers(0, 500, (items, 4))
    known = {
        "item_id": data.key_texts(np.arange(items)),
        "category": [f"c{item % 100}" for item in range(items)],
        "tags": [",".join(f"t{tag}" for tag in row) for row in tags],
        "price": rng.random(items),
    }
    catalogue = CatalogueColumns(pa.table(known))
    learner = Learner.fresh(config, FEATURES)
    learner.observe(events.slice(0, n - samples), catalogue)
    return learner, learner.prepare(events.slice(n - samples), catalogue)
