"""Fill numba's on-disk cache: `python -m models.precompile`, once after installation.

A tiny model goes through everything that has compiled kernels, so that no first training, delta or request
has to wait for the compiler.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from models.item_to_item import ItemToItem, ItemToItemConfig
from models.learner import CatalogueColumns, FeatureConfig, Learner, ModelConfig
from models.neighbours import Neighbours
from models.popularity import Popularity

_FEATURES = (
    FeatureConfig(name="group", source="item"),
    FeatureConfig(name="price", source="item", kind="number"),
    FeatureConfig(name="age", source="user"),
    FeatureConfig(name="scene", source="context"),
    FeatureConfig(name="hour_of_day", source="time"),
    FeatureConfig(name="example_age", source="time", kind="number"),
)


def precompile() -> None:
    """Train, update, encode and expire a model of a few items."""
    n = 64
    place = np.arange(n)
    keys = pa.array([f"#{at % 8}" for at in place])
    times = 1_700_000_000_000 + 1000 * place.astype(np.int64)
    events = pa.table(
        {
            "user_id": keys,
            "item_id": keys,
            "kind": ["click"] * n,
            "scene": ["home"] * n,
            "request_id": [f"r{at // 2}" for at in place],
            "ts_ms": times,
        }
    )
    ids = pa.array([f"#{at}" for at in range(8)])
    catalogue = CatalogueColumns(
        pa.table({"item_id": ids, "group": ["a"] * 8, "price": [1.0] * 8}),
        pa.table({"user_id": ids, "age": ["b"] * 8}),
    )
    for half_life_days in (0.0, 1.0):
        config = ModelConfig(
            dim=8, id_dim=8, hidden=(8,), batch_size=32, negatives=8, positives=("click",),
            history_half_life_days=half_life_days,
        )  # fmt: skip
        learner = Learner.fresh(config, _FEATURES)
        samples = learner.prepare(events, catalogue)
        learner.train_full(samples)
        learner.train_incremental(samples)
        learner.touched()
        learner.item_vectors()
        moments = learner.moments(samples)
        learner.queries(moments)
        learner.expire(int(times[-1]) + 10**12)
    popularity = Popularity(3_600_000)
    popularity.observe(keys, times)
    popularity.top(3)
    for kind in ("item_cf", "swing"):
        channel = ItemToItem(ItemToItemConfig.model_validate({"kind": kind}))
        channel.observe(keys, pa.array([f"i{at % 5}" for at in place]), times)
        channel.expire(int(times[1]))
        neighbours = Neighbours.over(channel.neighbours(), 0.0).with_rows(channel.changed())
        neighbours.search(moments, 3)
        neighbours.dense_scores(moments, keys)


if __name__ == "__main__":
    precompile()
