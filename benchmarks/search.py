"""Item search as serving does it (masking, overlay, keys), against bare faiss."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks import data
from benchmarks.bundles import MODEL, published
from benchmarks.measure import Result, rates, sha256
from models.arrays import Float32Array
from models.index import BaseIndex, IndexConfig, build_index, load_items, set_search_threads
from models.item_index import ItemIndex
from models.registry import Registry

K = 100


def exact(items: int, queries: int) -> list[Result]:
    """Top 100 of items x 64 by inner product, one query at a time, one thread: a plain scan."""
    rng = data.generator()
    vectors = rng.standard_normal((items, data.WIDTH)).astype(np.float32)
    asked = rng.standard_normal((queries, 1, data.WIDTH)).astype(np.float32)
    ours = ItemIndex.over(data.key_texts(np.arange(items)), build_index(vectors, IndexConfig()))
    value, peer = _rates(ours, asked)
    params = {"dim": data.WIDTH, "k": K}
    name = "faiss.IndexFlatIP"
    return [
        Result("search.exact", value, "queries/s", name, peer, params=params, data_sha256=sha256(vectors))
    ]


def published_items(items: int, users: int, graph_from: int, queries: int) -> list[Result]:
    """The same over the items of a bundle, with the index they get, for users of it; users: rows of the
    bundle that other measurements share.
    """
    made = published(items, users, graph_from)
    asked = made.vectors[made.histories[:queries]].mean(1)[:, None]
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(Path(folder))
        loaded = load_items(registry.open_bundle(made.publish(registry), verify=False), MODEL)
        ours = ItemIndex.over(loaded.keys, loaded.base)
        value, peer = _rates(ours, asked)
    base = loaded.base
    params = {"dim": data.WIDTH, "k": K, "index": base.kind, "effort": base.effort, "recall": base.recall}
    digest = sha256(made.vectors, made.histories)
    return [
        Result(
            "search.1m",
            value,
            "queries/s",
            "bare faiss, the same index",
            peer,
            params=params,
            data_sha256=digest,
        )
    ]


def _rates(index: ItemIndex, asked: Float32Array) -> list[float]:
    set_search_threads(1)
    bare = _bare(index.base)

    def served() -> None:
        for query in asked:
            _, positions = index.search(query, K)
            index.keys_of(positions[0])

    return rates(len(asked), served, lambda: [bare(query) for query in asked])


def _bare(base: BaseIndex) -> Callable[[Float32Array], Any]:
    """A search of the index by itself at the effort it was tuned to."""
    parameters = None
    if base.kind == "hnsw":
        parameters = faiss.SearchParametersHNSW(efSearch=max(base.effort, K))
    elif base.kind == "ivf":
        parameters = faiss.SearchParametersIVF(nprobe=base.effort)
    return lambda query: base.index.search(query, K, params=parameters)
