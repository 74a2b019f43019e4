"""Fill numba's on-disk cache: `python -m models.precompile`, once after installation.

Tiny models go through everything that has compiled kernels, so that no first training, delta or request has
to wait for the compiler.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from models.arrays import Int64Array
from models.few_users import to_unit_length, weighted_sums
from models.frozen_ids import FrozenIds, read_only
from models.graph_arrays import Graph
from models.graph_walk import GraphWalk
from models.index import IndexConfig, build_index
from models.index_bytes import index_bytes, of_file
from models.index_graphs import build_hnsw
from models.item_index import ItemIndex
from models.item_start import similar_means
from models.item_to_item import ItemToItem, ItemToItemConfig
from models.items_json import items_json
from models.key_bytes import key_buffers, texts_at
from models.layer_kernels import packed, perceptron
from models.learner import CatalogueColumns, FeatureConfig, Learner, ModelConfig
from models.moments import Moments
from models.neighbours import Neighbours
from models.packed_entries import newest_entries, read_entries
from models.pages import touch
from models.popularity import Popularity

_EVENTS = 64
_START_MS = 1_700_000_000_000
_FEATURES = (
    FeatureConfig(name="group", source="item"),
    FeatureConfig(name="tags", source="item", kind="categories"),
    FeatureConfig(name="price", source="item", kind="number"),
    FeatureConfig(name="age", source="user"),
    FeatureConfig(name="likes", source="user", kind="categories"),
    FeatureConfig(name="scene", source="context"),
    FeatureConfig(name="query", source="context", kind="tokens"),
    FeatureConfig(name="age_and_scene", source="context", kind="cross", of=("age", "scene")),
    FeatureConfig(name="hour_of_day", source="time"),
    FeatureConfig(name="example_age", source="time", kind="number"),
)
_SMALL = {"dim": 8, "id_dim": 8, "hidden": (8,), "batch_size": 32, "negatives": 8, "positives": ("click",)}
_CONFIGS = (
    ModelConfig.model_validate(_SMALL),
    ModelConfig.model_validate(
        _SMALL
        | {
            "negative_source": "learned_unigram",
            "history_half_life_days": 1.0,
            "histories": {"views": {"kinds": ("view",)}},
            "own_items": 4,
            "popularity": ({"half_life_h": 12}, {"half_life_h": 3, "by": "scene"}),
            "hard_negatives": ("rejects",),
            "item2vec_passes": 1,
        }
    ),
    ModelConfig.model_validate(_SMALL | {"kind": "mind"}),
    ModelConfig.model_validate(
        _SMALL | {"kind": "youtube_dnn", "precision": "bfloat16", "trained_tables": ("user", "item")}
    ),
    ModelConfig.model_validate(_SMALL | {"precision": "bfloat16"}),
)


def precompile() -> None:
    """Train, update, serve and expire models of a few items, and item-to-item channels over them."""
    keys = pa.array([f"#{at % 8}" for at in range(_EVENTS)])
    times = _START_MS + 1000 * np.arange(_EVENTS, dtype=np.int64)
    for config in _CONFIGS:
        moments = _model(config, _events(keys, times), int(times[-1]))
    published = np.zeros((9, 4), np.float32)  # rows as a server reads them
    ids = FrozenIds.of_unique(keys.unique())
    ids.lookup(keys)
    touch(read_only(np.zeros(1, np.uint8)))  # of a file
    for rows in (published, published.astype(np.float16)):
        ids.read_rows(keys, read_only(rows), np.empty((_EVENTS, 4), np.float32))
    perceptron(published, *packed([(published[:4], published[4]), (published[:4], None)]))
    weighted_sums(published[0], published, np.array([0, 4]), published[:1], 0)
    to_unit_length(published, 1.0)
    data, offsets = key_buffers(keys)
    for of_bundle in (False, True):  # whose keys cannot be written
        data.flags.writeable = not of_bundle
        texts_at(data, offsets, np.arange(_EVENTS))
    items = ItemIndex.over(keys.unique(), build_index(published[:8], IndexConfig()))
    graph = build_hnsw(published[:8], 2, 4)
    for links in (Graph.of(graph, published[:8]), Graph.written(of_file(index_bytes(graph)))):
        GraphWalk(links).search(published[:2], 2, 4, None)
    items_json(items, np.arange(4).reshape(2, 2)[:, :1], published[:2, :1], "")
    _history()
    codes = np.zeros((2, 1), np.int64)
    similar_means(codes, codes, published[:2], most=1)
    popularity = Popularity(3_600_000)
    popularity.observe(keys, times)
    popularity.top(3)
    for kind in ("item_cf", "swing"):
        channel = ItemToItem(ItemToItemConfig.model_validate({"kind": kind}))
        channel.observe(keys, pa.array([f"i{at % 5}" for at in range(_EVENTS)]), times)
        channel.expire(int(times[1]))
        neighbours = Neighbours.over(channel.neighbours(), 0.0).with_rows(channel.changed())
        neighbours.search(moments, 3)
        neighbours.dense_scores(moments, keys)


def _history() -> None:
    """One entry, as a server reads it."""
    packed = np.frombuffer(b'\x92\xac["i","k","r"]\xa11', np.uint8)
    spans, times, kinds = np.empty((1, 6), np.int32), np.empty(1, np.int64), np.frombuffer(b"k", np.uint8)
    read_entries(packed, 0, spans, times)
    sizes, ends, items = np.array([[len(packed), 1]]), np.ones(1, np.int64), np.empty(len(packed), np.uint8)
    offsets, lists = np.empty(2, np.int32), np.zeros(2, np.int64)
    newest_entries(packed, spans, times, sizes, kinds, ends, ends, 1, items, offsets, times.copy(), lists)


def _events(keys: pa.Array, times: Int64Array) -> pa.Table:
    context = [[("query", "blue shoes")] if at % 2 else [] for at in range(_EVENTS)]
    return pa.table(
        {
            "user_id": keys,
            "item_id": pa.array([f"i{at % 5}" for at in range(_EVENTS)]),
            "kind": ["view" if at % 4 == 3 else "click" for at in range(_EVENTS)],
            "scene": ["home"] * _EVENTS,
            "request_id": [f"r{at // 2}" for at in range(_EVENTS)],
            "ts_ms": times,
            "context": pa.array(context, pa.map_(pa.string(), pa.string())),
        }
    )


def _catalogue() -> CatalogueColumns:
    names = range(8)
    items = {
        "item_id": [f"i{at}" for at in names],
        "group": ["a"] * 8,
        "tags": ["x,y"] * 8,
        "price": [1.0] * 8,
    }
    users = {"user_id": [f"#{at}" for at in names], "age": ["b"] * 8, "likes": [["p", "q"]] * 8}
    return CatalogueColumns(pa.table(items), pa.table(users))


def _model(config: ModelConfig, events: pa.Table, newest_ms: int) -> Moments:
    """One model's life; the moments it was asked at."""
    learner, catalogue = Learner.fresh(config, _FEATURES), _catalogue()
    samples = learner.prepare(events.slice(0, _EVENTS - 8), catalogue)
    stage, rank = np.zeros(len(samples), np.uint8), np.zeros(len(samples), np.int32)
    learner.rejects.observe(samples.user, samples.item[::-1].copy(), stage, rank, samples.ts_ms - 1)
    learner.train_full(samples)
    learner.train_incremental(learner.prepare(events.slice(_EVENTS - 8), catalogue))
    learner.prepare(events.slice(0, 8), catalogue)  # late, and seen before
    learner.touched()
    learner.item_vectors()
    moments = learner.moments(samples)
    learner.queries(moments)
    learner.expire(newest_ms + 10**12)
    return moments


if __name__ == "__main__":
    precompile()
