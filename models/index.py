"""The base item index: an exact scan, HNSW or IVF on faiss by size, tuned at build time to a target recall.

Inner product over [N, D]. Scores are always fp32 dot products of the published vectors. Every search
takes a bitmap of the items that may be returned, and returns min(k, allowed) of them, whatever the index
kind.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import faiss as _faiss
import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from models.arrays import Float32Array, Float64Array, Int64Array, UInt8Array
from models.artifact import Artifact, ArtifactError, Content, pack_keys, unpack_keys
from models.bitmap import is_set
from models.bundle import index_file, items_file
from models.graph_arrays import Graph
from models.graph_walk import GraphWalk
from models.half_rows import Rows, halved
from models.index_bytes import index_bytes, mapped_bytes, read_index
from models.index_graphs import build_hnsw, build_ivf, build_lifted_hnsw

Kind = Literal["exact", "hnsw", "ivf"]
faiss: Any = _faiss  # its type stubs do not describe the Python layer


class IndexConfig(BaseModel):
    """How an item index is chosen, built and tuned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    exact_below: int = Field(default=100_000, ge=0, description="Fewer items than this are scanned exactly.")
    ivf_from: int = Field(
        default=2_000_000, ge=1, description="From this many items on IVF, between them HNSW."
    )
    recall_target: float = Field(
        default=0.97, gt=0, le=1, description="Share of the exact top items to find."
    )
    recall_at: int = Field(default=100, ge=1, description="k of the recall target.")
    tuning_queries: int = Field(default=256, ge=1, description="Queries the tuning measures recall on.")
    hnsw_links: int = Field(default=16, ge=2, description="Links per node of HNSW (M).")
    hnsw_construction: int = Field(
        default=80, ge=1, description="Candidates while building HNSW (efConstruction)."
    )
    ivf_training_per_list: int = Field(
        default=64, ge=39, description="Vectors per list the IVF is trained on."
    )
    threads: int = Field(
        default=1, ge=1, description="OpenMP threads while building; 1 makes HNSW reproducible."
    )


@dataclass(frozen=True)
class BaseIndex:
    """An immutable index over vectors [N, D] (row = position), float16 only beside inverted lists.

    index: of faiss; of a graph that was loaded, its Graph. effort: efSearch of HNSW, nprobe of IVF, 0 for
    exact. recall: measured against exact at build time.
    """

    kind: Kind
    index: Any
    vectors: Rows
    effort: int = 0
    recall: float = 1.0
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.vectors)

    @cached_property
    def _walk(self) -> GraphWalk:
        graph = self.index
        if not isinstance(graph, Graph):
            graph = Graph.of(graph, np.asarray(self.vectors, np.float32))
        return GraphWalk(graph)

    def search(
        self, u_BD: Float32Array, k: int, allowed: UInt8Array | None = None, allowed_count: int | None = None
    ) -> tuple[Float32Array, Int64Array]:
        """(scores float32[B, k], positions int64[B, k]), best first; -1 (score -inf) beyond the allowed
        items.

        allowed: bitmap uint8[ceil(N / 8)], bit i = position i may be returned (None = all); allowed_count:
        its ones.
        """
        eligible = len(self) if allowed_count is None else allowed_count
        wanted = min(k, eligible)
        if wanted == 0 or not len(u_BD):
            return _nothing(len(u_BD), k)
        scores, positions = self._search(u_BD, wanted, allowed, self.effort)
        last = positions[:, -1].tolist()  # few: a minimum by NumPy takes longer
        if self.kind != "exact" and min(last) < 0:
            # The graph or the probed lists ran out of allowed items; the exact scan never does.
            for row in np.flatnonzero(positions[:, -1] < 0):
                one = slice(row, row + 1)  # by itself: products of several round otherwise
                scores[one], positions[one] = _scan(self.vectors, u_BD[one], wanted, allowed)
        if wanted < k:
            rest = _nothing(len(u_BD), k - wanted)
            return np.hstack([scores, rest[0]]), np.hstack([positions, rest[1]])
        return scores, positions

    def _search(
        self, u_BD: Float32Array, k: int, allowed: UInt8Array | None, effort: int
    ) -> tuple[Float32Array, Int64Array]:
        if self.kind == "hnsw":
            return self._walk.search(u_BD, k, max(effort, k), allowed)
        if self.kind == "exact":
            mask = None if allowed is None else faiss.SearchParameters(sel=faiss.IDSelectorBitmap(allowed))
            found: tuple[Float32Array, Int64Array] = self.index.search(u_BD, k, params=mask)
            return found
        effort = min(effort, self.index.nlist)
        parameters = _unmasked(effort) if allowed is None else _parameters(effort, allowed)
        # Quantised lists propose twice as many; the vectors decide, by products in fp32.
        _, proposed = self.index.search(u_BD, min(2 * k, len(self)), params=parameters)
        return rescored(self.vectors, u_BD, proposed, k)


def _parameters(effort: int, allowed: UInt8Array | None) -> Any:
    """Of one search in inverted lists."""
    selector = None if allowed is None else faiss.IDSelectorBitmap(allowed)
    return faiss.SearchParametersIVF(sel=selector, nprobe=effort)


@lru_cache(maxsize=64)
def _unmasked(effort: int) -> Any:
    """The same without a mask, made once: a search only reads it."""
    return _parameters(effort, None)


def rescored(
    vectors: Rows, u_BD: Float32Array, proposed_BM: Int64Array, k: int
) -> tuple[Float32Array, Int64Array]:
    """The best k of proposed positions int64[B, M] (-1 = none) by fp32 dot product, best first."""
    v_BMD = np.asarray(vectors[np.maximum(proposed_BM, 0)], np.float32)
    scores = np.einsum("bmd,bd->bm", v_BMD, u_BD).astype(np.float32)
    scores[proposed_BM < 0] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(proposed_BM, order, 1)


def build_index(
    vectors: Float32Array, config: IndexConfig, queries: Float32Array | None = None, half: bool = False
) -> BaseIndex:
    """Build and tune an index over vectors float32[N, D]; half: those beside inverted lists are kept in half
    precision, and it is tuned with them.

    queries: float32[Q, D] user vectors to tune on (item-like queries do not stand for users); without them,
    items. When no effort reaches `recall_target` the exact index is taken instead.
    """
    began = time.perf_counter()
    vectors = np.ascontiguousarray(vectors, np.float32)
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise ValueError(f"vectors: expected finite float32[N, D], got shape {vectors.shape} or NaN in it")
    faiss.omp_set_num_threads(config.threads)
    if len(vectors) < config.exact_below or len(vectors) == 0:
        return _exact(vectors, began)
    sample = vectors if queries is None or not len(queries) else np.ascontiguousarray(queries, np.float32)
    sample = sample[np.linspace(0, len(sample) - 1, min(config.tuning_queries, len(sample))).astype(np.int64)]
    kind: Kind = "ivf" if len(vectors) >= config.ivf_from else "hnsw"
    kept: Rows = halved(vectors, "item vectors") if half and kind == "ivf" else vectors
    for index in _candidates(kind, vectors, config):
        effort, recall = _tune(BaseIndex(kind, index, kept), sample, config)
        if recall >= config.recall_target:
            return BaseIndex(kind, index, kept, effort, recall, time.perf_counter() - began)
    return _exact(vectors, began)


def _candidates(kind: Kind, vectors: Float32Array, config: IndexConfig) -> Iterator[Any]:
    if kind == "ivf":
        yield build_ivf(vectors, config.ivf_training_per_list)
    else:
        yield build_hnsw(vectors, config.hnsw_links, config.hnsw_construction)
        yield build_lifted_hnsw(vectors, config.hnsw_links, config.hnsw_construction)


def item_files(
    model: str,
    keys: pa.Array,
    vectors: Float32Array,
    config: IndexConfig,
    queries: Float32Array | None = None,
    half: bool = False,
) -> tuple[dict[str, Content], dict[str, Any]]:
    """Everything a bundle holds about one model's items: (files, the manifest's `models[model]["index"]`).
    half: as in build_index().

    Golden queries (some of `queries`, else of the items) and their exact best scores go along: a server
    checks its loaded index with them.
    """
    if len(keys) != len(vectors):
        raise ValueError(f"{model}: expected as many keys as vectors, got {len(keys)} and {len(vectors)}")
    base = build_index(vectors, config, queries, half)
    source: Rows = base.vectors
    if queries is not None and len(queries):
        source = np.ascontiguousarray(queries, np.float32)
    some = np.linspace(0, len(source) - 1, min(8, len(source))).astype(np.int64)
    golden = np.asarray(source[some], np.float32)
    scores, _ = (
        _scan(base.vectors, golden, min(10, len(base)), None) if len(base) else _nothing(len(golden), 0)
    )
    files: dict[str, Content] = {
        items_file(model): {
            **pack_keys(keys, "keys."),
            "vectors": base.vectors,
            "golden.queries": golden,
            "golden.scores": scores,
        }
    }
    if base.kind != "exact":
        files[index_file(model)] = index_bytes(base.index).data
    entry = {
        "kind": base.kind,
        "items": len(base),
        "dim": int(base.vectors.shape[1]),
        "effort": base.effort,
        "recall": round(base.recall, 5),
        "recall_at": config.recall_at,
        "recall_target": config.recall_target,
    }
    return files, entry


_BESIDE_VECTORS = ("keys.bytes", "keys.offsets", "golden.queries", "golden.scores")


@dataclass(frozen=True)
class LoadedItems:
    """A model's items as a bundle holds them: keys string[N], their base index, golden queries and scores."""

    keys: pa.Array
    base: BaseIndex
    golden_queries: Float32Array
    golden_scores: Float32Array


def load_items(bundle: Artifact, model: str) -> LoadedItems:
    """Read what `item_files` wrote. Raises ArtifactError when the parts do not fit each other."""
    entry: Mapping[str, Any] = bundle.manifest["models"][model]["index"]
    path, shape = bundle.path(items_file(model)), (entry["items"], entry["dim"])
    tensors = bundle.tensors(items_file(model), _BESIDE_VECTORS)
    keys = unpack_keys(tensors, "keys.")
    if len(keys) != shape[0]:
        raise ArtifactError(path, f"{shape[0]} keys", f"{len(keys)}")
    index, vectors = _read(bundle, model, entry["kind"])
    if vectors.shape != shape:
        raise ArtifactError(path, f"vectors {shape}", f"{vectors.shape}")
    base = BaseIndex(entry["kind"], index, vectors, entry["effort"], entry["recall"])
    return LoadedItems(keys, base, tensors["golden.queries"], tensors["golden.scores"])


def _read(bundle: Artifact, model: str, kind: Kind) -> tuple[Any, Rows]:
    """(index, vectors [N, D])."""
    if kind == "hnsw":  # a graph holds the vectors itself
        graph = _read_graph(bundle.path(index_file(model)))
        return graph, graph.vectors
    vectors = bundle.tensors(items_file(model), ("vectors",))["vectors"]
    if kind == "exact":
        index = _flat(vectors)
        return index, _stored(index, vectors.shape)
    path = bundle.path(index_file(model))
    index = read_index(path)
    if (index.ntotal, index.d) != vectors.shape:
        raise ArtifactError(path, f"{vectors.shape} vectors", f"({index.ntotal}, {index.d})")
    return index, vectors


def _read_graph(path: Path) -> Graph:
    try:
        return Graph.written(mapped_bytes(path))
    except ValueError as error:
        raise ArtifactError(path, "a graph as faiss writes it", str(error)) from error


def set_search_threads(threads: int) -> None:
    """OpenMP threads of searches made by the calling thread (the setting belongs to the thread)."""
    faiss.omp_set_num_threads(threads)


def _nothing(rows: int, k: int) -> tuple[Float32Array, Int64Array]:
    return np.full((rows, k), -np.inf, np.float32), np.full((rows, k), -1, np.int64)


def _exact(vectors: Float32Array, began: float) -> BaseIndex:
    index = _flat(vectors)
    return BaseIndex("exact", index, _stored(index, vectors.shape), seconds=time.perf_counter() - began)


def _flat(vectors: Float32Array) -> Any:
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index


class _Stored:
    """Lends the vectors inside a flat index to NumPy without a copy, and keeps the index alive meanwhile."""

    def __init__(self, flat: Any, shape: tuple[int, ...]) -> None:
        self.flat = flat
        view = faiss.rev_swig_ptr(flat.get_xb(), max(1, shape[0] * shape[1]))
        self.__array_interface__ = {
            **view.__array_interface__,
            "shape": shape,
            "data": (view.ctypes.data, True),
        }


def _stored(flat: Any, shape: tuple[int, ...]) -> Float32Array:
    """The vectors of a flat index, read-only float32 of `shape`."""
    if not shape[0]:
        return np.empty(shape, np.float32)
    return np.asarray(_Stored(flat, shape), np.float32)


def _tune(index: BaseIndex, queries: Float32Array, config: IndexConfig) -> tuple[int, float]:
    """The smallest effort that reaches the recall target, and the recall measured with it.

    It has to be reached by two standard errors more: other users are asked for than those it is tuned on.
    """
    k = min(config.recall_at, len(index))
    exact, _ = _scan(index.vectors, queries, k, None)
    most = index.index.nlist if index.kind == "ivf" else min(len(index), 4096)
    steps = (size for n in range(max(1, most).bit_length()) for size in (1 << n, 3 << n >> 1))
    recall, effort = 0.0, 1
    for effort in sorted({size for size in steps if size <= max(1, most)}):
        if index.kind == "hnsw" and effort < min(k, most) // 2:
            continue  # an efSearch below k is raised to k
        found = _found(index, queries, k, exact, effort)
        recall = float(found.mean())
        if recall - 2 * float(found.std()) / np.sqrt(len(found)) >= config.recall_target:
            break
    return effort, recall


def _found(index: BaseIndex, queries: Float32Array, k: int, exact: Float32Array, effort: int) -> Float64Array:
    """Of each query the share of the k returned that score at least the exact k-th best (ties count as
    found).
    """
    scores, _ = index._search(queries, k, None, effort)
    kth = exact[:, -1:]
    shares: Float64Array = (scores >= kth - 1e-6 * np.abs(kth)).mean(1)
    return shares


def _scan(
    vectors: Rows, u_BD: Float32Array, k: int, allowed: UInt8Array | None
) -> tuple[Float32Array, Int64Array]:
    """Exact best k by brute force over chunks of items (the fallback, and the yardstick of the tuning)."""
    best = _nothing(len(u_BD), k)
    for first in range(0, len(vectors), 1 << 18):
        part = np.asarray(vectors[first : first + (1 << 18)], np.float32)
        positions = np.arange(first, first + len(part))
        scores = u_BD @ part.T
        if allowed is not None:
            scores[:, ~is_set(allowed, positions)] = -np.inf
        top = np.argpartition(-scores, min(k, len(part)) - 1, axis=1)[:, :k]
        merged = np.hstack([best[0], np.take_along_axis(scores, top, 1)])
        found = np.hstack([best[1], positions[top]])
        order = np.argsort(-merged, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(merged, order, 1), np.take_along_axis(found, order, 1)
    best[1][np.isneginf(best[0])] = -1
    return best
