"""What moves rows and vectors: the embedding update of the hourly step, and changed items in a search."""

import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

import faiss as _faiss
import numpy as np
import torch

from benchmarks import data
from benchmarks import sparse_torch as plain
from benchmarks.bundles import MODEL, published
from benchmarks.measure import Result, rates, seconds, sha256
from models.arrays import Float32Array
from models.delta import Delta
from models.embedding import EmbeddingTable
from models.index import set_search_threads
from models.published import PublishedModel
from models.registry import Registry
from serving.snapshot import Snapshot

faiss: Any = _faiss  # its type stubs do not describe the Python layer
K = 100
LISTS, PROBES, PER_LIST = 4096, 64, 39
IN_PLACE = "faiss IVF of 8 bits, changed in place"


def visible(items: int, users: int, graph_from: int, changed: int, rounds: int) -> list[Result]:
    """ms from a delta of so many item rows and vectors in memory to the answer of a search that has them, in
    one thread; against inverted lists, where a vector can be changed in place, and a search of these.

    Raises RuntimeError where a search does not find what was changed.
    """
    made, sequences, others = published(items, users, graph_from), count(1), count(1)
    set_search_threads(1)
    with tempfile.TemporaryDirectory() as name:
        registry = Registry(Path(name))
        bundle_id = made.publish(registry)
        bundle = registry.open_bundle(bundle_id, verify=False)
        served = Snapshot.load(bundle, PublishedModel.load)
        lists = _lists(made.vectors)
        key = data.key_texts(np.arange(1))[0].as_py()

        def overlay() -> float:
            nonlocal served
            delta = made.delta(bundle_id, next(sequences), "item", changed)
            began = time.perf_counter()
            served = served.with_delta(delta)
            found = served.channels[MODEL].items
            _, positions = found.search(_vectors(delta)[:1], K)
            taken = time.perf_counter() - began
            if found.keys_of(positions[0, :1]) != [key]:
                raise RuntimeError(f"update.visible: expected item {key} first, it is not")
            return taken

        def in_place() -> float:
            vectors = _vectors(made.delta(bundle_id, next(others), "item", changed))
            positions = np.arange(changed)
            began = time.perf_counter()
            lists.update_vectors(positions, vectors)
            lists.search(vectors[:1], K)
            return time.perf_counter() - began

        ours, peer = seconds(overlay, in_place, rounds=rounds)
    params = {"k": K, "peer_lists": lists.nlist, "peer_probes": lists.nprobe}
    return [Result("update.visible", 1e3 * ours, "ms", IN_PLACE, 1e3 * peer, params=params)]


def _vectors(delta: Delta) -> Float32Array:
    """Of the items of a delta."""
    vectors = delta.tables[MODEL]["item"].vectors
    if vectors is None:
        raise RuntimeError("benchmark: expected a delta with item vectors")
    return vectors


def _lists(vectors: Float32Array) -> Any:
    """Inverted lists of vectors of 8 bits a number, which find them by position."""
    size = max(1, min(LISTS, len(vectors) // PER_LIST))
    lists = faiss.index_factory(data.WIDTH, f"IVF{size},SQ8", faiss.METRIC_INNER_PRODUCT)
    lists.cp.niter = 10
    lists.train(vectors[:: max(1, len(vectors) // (PER_LIST * size))])
    lists.add(vectors)
    lists.make_direct_map()
    lists.nprobe = min(PROBES, size)
    return lists


def rows(rows: int, batch: int, rounds: int) -> list[Result]:
    """Forward, backward and row update of pooled histories of 50 in a table of rows x 64, one thread."""
    torch.set_num_threads(1)
    ids = data.zipf(data.generator(), batch * data.LENGTH, rows)
    flat, offsets = torch.from_numpy(ids), torch.arange(0, len(ids) + 1, data.LENGTH)
    table = EmbeddingTable(data.WIDTH, lr=0.05, rows=rows)
    table.reserve(rows)
    bag = torch.nn.EmbeddingBag(rows, data.WIDTH, mode="sum", sparse=True, include_last_offset=True)
    adagrad = torch.optim.Adagrad(bag.parameters(), lr=0.05)

    def fused() -> None:
        table.trained(flat, offsets).sum().backward()

    def sparse() -> None:
        adagrad.zero_grad()
        bag(flat, offsets).sum().backward()
        adagrad.step()

    ours, peer = rates(batch, fused, sparse, rounds=rounds)
    params = {"dim": data.WIDTH, "history": data.LENGTH}
    return [Result("update.rows", ours, "events/s", plain.NAME, peer, params=params, data_sha256=sha256(ids))]
