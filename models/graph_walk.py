"""A graph of items as faiss builds and writes it, walked by our own kernel: the same places in less than half
of the time (docs/performance.md, "Search").
"""

from __future__ import annotations

import threading

import numpy as np

from models.arrays import Float32Array, Int64Array, UInt8Array, UInt64Array
from models.frozen_ids import read_only
from models.graph_arrays import Graph
from models.graph_kernels import walk

_NO_MASK: UInt8Array = read_only(np.empty(0, np.uint8))


class _OfThread(threading.local):
    visited: UInt64Array = np.empty(0, np.uint64)


_here = _OfThread()


class GraphWalk:
    """Searches a graph. Thread-safe."""

    def __init__(self, graph: Graph) -> None:
        self._owner = graph.owner
        self._graph = (graph.vectors, graph.neighbours, graph.offsets, graph.ends, graph.entry, graph.top)
        self._words = (len(graph.vectors) + 63) // 64

    def search(
        self, u_BD: Float32Array, k: int, effort: int, allowed: UInt8Array | None
    ) -> tuple[Float32Array, Int64Array]:
        """(scores float32[B, k], positions int64[B, k]), best first, equal ones by position; -1 (score -inf)
        beyond what a walk of this effort (efSearch, at least k) met. allowed: bitmap uint8[ceil(N / 8)] of
        what may be returned (None = all).
        """
        if len(_here.visited) < self._words:
            _here.visited = np.zeros(self._words, np.uint64)
        scores, places = np.empty((len(u_BD), k), np.float32), np.empty((len(u_BD), k), np.int64)
        mask = _NO_MASK if allowed is None else read_only(allowed)
        walk(
            *self._graph, read_only(u_BD), k, effort, allowed is not None, mask, _here.visited, scores, places
        )
        return scores, places
