"""Small event tables and an in-memory bundle for the learning tests."""

from functools import cache
from typing import get_args

import numpy as np
import pyarrow as pa
import pytest

from models.catalogue_columns import CatalogueColumns
from models.learner import FeatureConfig, Learner, ModelConfig
from models.model_config import Kind

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
START_MS = 1_700_000_000_000

FEATURES = (
    FeatureConfig(name="age", source="user", kind="number", transforms=("square", "sqrt", "log")),
    FeatureConfig(name="town", source="user", dim=4),
    FeatureConfig(name="interests", source="user", kind="categories", length=3, dim=4),
    FeatureConfig(name="device", source="context", dim=4),
    FeatureConfig(name="query", source="context", kind="tokens", length=5, dim=4),
    FeatureConfig(name="scene", source="context", dim=4),
    FeatureConfig(name="hour_of_day", source="time", dim=4),
    FeatureConfig(name="example_age", source="time", kind="number"),
    FeatureConfig(name="town_by_hour", source="context", kind="cross", of=("town", "hour_of_day"), dim=4),
    FeatureConfig(name="colour", source="item", dim=8),
    FeatureConfig(name="tags", source="item", kind="categories", length=2, separator="|", dim=4),
    FeatureConfig(name="price", source="item", kind="number", transforms=("log",)),
)
FEW = tuple(
    feature for feature in FEATURES if feature.name in ("town", "hour_of_day", "scene", "colour", "price")
)

KINDS = get_args(Kind)
VIEWS = {"views": {"kinds": ("view",), "length": 4}}
OPTIONS = {
    "plain": {},
    "shared_items": {"shared_items": True, "history_half_life_days": 0.2},
    "own_items": {"own_items": 10},
    "views": {"histories": VIEWS},
    "no_user_row": {"user_row": False},
    "no_history": {"use_history": False},
    "all": {
        "own_items": 5, "own_negatives": 3, "histories": VIEWS, "shared_items": True, "admit_after": 2,
        "popularity": ({"half_life_h": 12}, {"half_life_h": 3, "by": "scene", "values": 2}),
    },
}  # fmt: skip
# Every kind plain (with features of every sort) and with everything that goes together; each option alone on
# two kinds that read it in different ways: pooled or item by item, rows as vectors or through a tower.
ALONE = {
    "shared_items": ("youtube_dnn", "sequence"),
    "own_items": ("two_tower", "fm"),
    "views": ("fm", "mind"),
    "no_user_row": ("two_tower", "sequence"),
    "no_history": ("youtube_dnn", "mind"),
}
VARIANTS = [
    pytest.param(kind, option, id=f"{kind}-{option}")
    for kind in KINDS
    for option in OPTIONS
    if kind in ALONE.get(option, KINDS)
]


def config(kind="two_tower", **changes):
    small = {
        "dim": 16, "id_dim": 16, "hidden": (16,), "history_length": 6, "batch_size": 64,
        "batch_size_incremental": 16, "negatives": 32, "positives": ("purchase",), "epochs_first": 1,
        "popularity": (), "own_items": 0,
    }  # fmt: skip
    return ModelConfig(kind=kind, **{**small, **changes})


def events(n=400, users=20, items=40, seed=0, start_ms=START_MS, span_ms=DAY_MS, user_offset=0):
    rng = np.random.default_rng(seed)
    ts = np.sort(rng.integers(start_ms, start_ms + span_ms, n))
    user = rng.integers(0, users, n) + user_offset
    item = (rng.zipf(1.3, n) + 3 * user) % items  # users differ in taste
    context = [
        [("device", "phone" if value % 2 else "desk"), ("query", f"Blue no {value}" if value < 2 else "")]
        for value in rng.integers(0, 3, n)
    ]
    return pa.table(
        {
            "user_id": pa.array([f"#{value}" if value % 2 else f"u{value}" for value in user]),
            "item_id": pa.array([f"i{value}" for value in item]),
            "kind": pa.array(np.where(rng.random(n) < 0.9, "purchase", "view")),
            "scene": pa.array(np.where(rng.random(n) < 0.5, "home", "")),
            "request_id": pa.array(np.where(rng.random(n) < 0.2, "", [f"r{t // HOUR_MS}" for t in ts])),
            "ts_ms": ts,
            "value": pa.nulls(n, pa.float64()),
            "context": pa.array(context, pa.map_(pa.string(), pa.string())),
        }
    )


def catalogue(users=20, items=40):
    return CatalogueColumns(
        items=pa.table(
            {
                "item_id": [f"i{value}" for value in range(items)],
                "colour": [None if value % 7 == 0 else f"c{value % 5}" for value in range(items)],
                "tags": ["|".join(f"g{tag % 4}" for tag in range(value % 3)) for value in range(items)],
                "price": pa.array(
                    [None if value % 9 == 0 else value * 1.5 for value in range(items)], pa.float64()
                ),
            }
        ),
        users=pa.table(
            {
                "user_id": [f"#{value}" if value % 2 else f"u{value}" for value in range(users)],
                "age": pa.array(
                    [None if value % 6 == 0 else str(20 + value) for value in range(users)], pa.string()
                ),
                "town": [f"t{value % 3}" for value in range(users)],
                "interests": [[f"x{tag}" for tag in range(value % 4)] for value in range(users)],
            }
        ),
    )


class Files:
    """What a bundle gives: the arrays of one model's save()."""

    def __init__(self, learner: Learner, name="m"):
        self.manifest = {"models": {name: learner.describe()}}
        self._tensors = {
            f"models/{name}/{part}.safetensors": arrays for part, arrays in learner.save().items()
        }

    def tensors(self, name, only=None):
        held = {
            key: array.copy() for key, array in self._tensors[name].items() if only is None or key in only
        }
        for array in held.values():
            array.flags.writeable = only is None
        return held

    def mapped(self, name, tensor):
        return self.tensors(name, (tensor,))[tensor]


def contents(learner):
    """Every byte of a saved model."""
    return {
        (part, name): (array.dtype.str, array.shape, array.tobytes())
        for part, arrays in learner.save().items()
        for name, array in arrays.items()
    }


def trained(kind="two_tower", features=FEATURES, **changes):
    learner = Learner.fresh(config(kind, **changes), features)
    learner.train_full(learner.prepare(events(), catalogue()))
    return learner


@cache
def _trained_files(kind, option):
    return Files(trained(kind, FEATURES if option == "plain" else FEW, **OPTIONS[option]))


def variant(kind, option):
    """A trained model of its own, from a bundle of it."""
    return Learner.load(_trained_files(kind, option), "m")
