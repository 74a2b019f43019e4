"""Item search as serving does it (masking, overlay, keys), against bare faiss and against ScaNN."""

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks import data
from benchmarks.bundles import MODEL, Published, published
from benchmarks.measure import Result, rates, sha256
from benchmarks.worker import SCANN_PYTHON, peer
from models.arrays import Float32Array, Int64Array
from models.bundle import index_file
from models.index import BaseIndex, IndexConfig, build_index, load_items, set_search_threads
from models.index_bytes import read_index
from models.item_index import ItemIndex
from models.registry import Registry

K = 100


def exact(items: int, queries: int) -> list[Result]:
    """Top 100 of items x 64 by inner product, one query at a time, one thread: a plain scan."""
    rng = data.generator()
    vectors = rng.standard_normal((items, data.WIDTH)).astype(np.float32)
    asked = rng.standard_normal((queries, 1, data.WIDTH)).astype(np.float32)
    ours = ItemIndex.over(data.key_texts(np.arange(items)), build_index(vectors, IndexConfig()))
    value, bare = _rates(ours, asked, ours.base.index)
    params = {"dim": data.WIDTH, "k": K}
    name = "faiss.IndexFlatIP"
    return [
        Result("search.exact", value, "queries/s", name, bare, params=params, data_sha256=sha256(vectors))
    ]


def published_items(items: int, users: int, graph_from: int, queries: int) -> list[Result]:
    """The same over the items of a bundle, with the index they get, for users of it; users: rows of the
    bundle that other measurements share.
    """
    made = published(items, users, graph_from)
    asked = made.vectors[made.histories[:queries]].mean(1)[:, None]
    with _opened(made) as (ours, index):
        value, bare = _rates(ours, asked, index)
        params = _params(ours.base)
    digest = sha256(made.vectors, made.histories)
    return [
        Result(
            "search.1m",
            value,
            "queries/s",
            "bare faiss, the same index",
            bare,
            params=params,
            data_sha256=digest,
        )
    ]


def beside_scann(items: int, users: int, graph_from: int, queries: int, peer_queries: int) -> list[Result]:
    """The same search against ScaNN, which is tuned on peer_queries of other users to find as many of the
    exact best 100 as ours finds for them. 0 leaves it and its environment out.
    """
    made = published(items, users, graph_from)
    of_users = made.vectors[made.histories].mean(1)
    asked, tuning = of_users[:queries], of_users[len(of_users) - peer_queries :]
    exact_of = {"asked_best": _best(made.vectors, asked), "tuning_best": _best(made.vectors, tuning)}
    with contextlib.ExitStack() as stack:
        ours, _ = stack.enter_context(_opened(made))
        params = _params(ours.base) | {"recall": _recall(ours, asked, exact_of["asked_best"])}
        if not peer_queries:
            (value,) = rates(queries, _one_by_one(ours, asked[:, None]))
            return [Result("search.scann", value, "queries/s", params=params)]
        recall = _recall(ours, tuning, exact_of["tuning_best"])
        file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "data.npz"
        np.savez(file, items=made.vectors, asked=asked, tuning=tuning, **exact_of)
        words = [str(file), json.dumps({"recall": recall})]
        scann = stack.enter_context(peer("benchmarks.peers.scann_search", words, SCANN_PYTHON))
        told = scann.ask()
        value, theirs = rates(
            queries, _one_by_one(ours, asked[:, None]), lambda: float(scann.ask()["seconds"])
        )
    params |= {f"peer_{name}": told[name] for name in ("recall", "leaves", "reorder", "build_s")}
    name = "ScaNN, tuned to the same recall"
    digest = sha256(made.vectors, made.histories)
    return [Result("search.scann", value, "queries/s", name, theirs, params=params, data_sha256=digest)]


@contextlib.contextmanager
def _opened(made: Published) -> Iterator[tuple[ItemIndex, Any]]:
    """The items of a bundle as they are served, and the index of faiss in it."""
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(Path(folder))
        bundle = registry.open_bundle(made.publish(registry), verify=False)
        loaded = load_items(bundle, MODEL)
        index = (
            loaded.base.index if loaded.base.kind == "exact" else read_index(bundle.path(index_file(MODEL)))
        )
        yield ItemIndex.over(loaded.keys, loaded.base), index


def _params(base: BaseIndex) -> dict[str, Any]:
    return {"dim": data.WIDTH, "k": K, "index": base.kind, "effort": base.effort, "recall": base.recall}


def _best(vectors: Float32Array, queries: Float32Array) -> Int64Array:
    """int64[n, K] exact best items of each query, by one scan for all."""
    found: Int64Array = faiss.knn(queries, vectors, K, metric=faiss.METRIC_INNER_PRODUCT)[1]
    return found


def _recall(index: ItemIndex, queries: Float32Array, best: Int64Array) -> float:
    """Share of the exact best that the index finds."""
    found = [index.search(query[None], K)[1][0] for query in queries]
    return sum(len(np.intersect1d(*pair)) for pair in zip(found, best, strict=True)) / best.size


def _one_by_one(index: ItemIndex, asked: Float32Array) -> Callable[[], None]:
    """Every query's search and keys, as a request has them."""
    set_search_threads(1)

    def served() -> None:
        for query in asked:
            _, positions = index.search(query, K)
            index.keys_of(positions[0])

    return served


def _rates(items: ItemIndex, asked: Float32Array, index: Any) -> list[float]:
    """Of searches of ours, and of faiss in its index of the same items."""
    served, bare = _one_by_one(items, asked), _bare(items.base, index)
    return rates(len(asked), served, lambda: [bare(query) for query in asked])


def _bare(base: BaseIndex, index: Any) -> Callable[[Float32Array], Any]:
    """A search of the index by itself at the effort it was tuned to."""
    parameters = None
    if base.kind == "hnsw":
        parameters = faiss.SearchParametersHNSW(efSearch=max(base.effort, K))
    elif base.kind == "ivf":
        parameters = faiss.SearchParametersIVF(nprobe=base.effort)
    return lambda query: index.search(query, K, params=parameters)
