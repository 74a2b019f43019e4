"""Approximate structures for inner product on faiss: HNSW graphs and inverted lists."""

from __future__ import annotations

from typing import Any

import faiss as _faiss
import numpy as np

from models.arrays import Float32Array

faiss: Any = _faiss  # its type stubs do not describe the Python layer


def build_hnsw(vectors: Float32Array, links: int, construction: int) -> Any:
    """A graph built and walked by inner product: quickest where a few large norms lead."""
    index = faiss.IndexHNSWFlat(vectors.shape[1], links, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = construction
    index.add(vectors)
    return index


def build_lifted_hnsw(vectors: Float32Array, links: int, construction: int) -> Any:
    """A graph walked by inner product whose edges were chosen by distance: reaches clusters the other one
    cuts off.

    With one more coordinate, sqrt(max |v|^2 - |v|^2), and 0 there for a query, the nearest by L2 are the
    largest by inner product (Bachrach et al., RecSys 2014). So the edges fit the plain vectors, and no copy
    stays.
    """
    norms = np.einsum("nd,nd->n", vectors, vectors)
    lifted = np.hstack([vectors, np.sqrt(np.maximum(norms.max() - norms, 0))[:, None]]).astype(np.float32)
    graph = faiss.IndexHNSWFlat(lifted.shape[1], links, faiss.METRIC_L2)
    graph.hnsw.efConstruction = construction
    graph.add(lifted)
    index = faiss.IndexHNSWFlat(vectors.shape[1], links, faiss.METRIC_INNER_PRODUCT)
    index.storage.add(vectors)
    index.hnsw = graph.hnsw
    index.hnsw.is_similarity = True
    index.ntotal = len(vectors)
    return index


def build_ivf(vectors: Float32Array, training_per_list: int) -> Any:
    """Inverted lists of 8-bit vectors; about 4 sqrt(N) lists."""
    lists = 1 << max(0, int(np.log2(max(1.0, 4 * np.sqrt(len(vectors))))))
    lists = max(1, min(lists, len(vectors) // 40))
    index = faiss.index_factory(vectors.shape[1], f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
    step = max(1, len(vectors) // (lists * training_per_list))
    index.train(np.ascontiguousarray(vectors[::step]))
    index.add(vectors)
    return index
