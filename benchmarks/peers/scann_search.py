"""ScaNN over the vectors of a measurement: all queries one after the other each time it is asked.

python -m benchmarks.peers.scann_search DATA.npz OPTIONS   (by benchmarks/search.py, in its own environment)

items float32[N, D]; asked and tuning float32[n, D] queries, with their exact best items asked_best and
tuning_best int[n, k]. As its documentation has it for so many items: a tree of partitions, about the
root of their number, asymmetric hashing with anisotropic quantisation, rescored by the vectors themselves.
How many partitions and candidates a search looks at is the fastest of GRID that finds the given share of the
best items of the tuning queries.
"""

from __future__ import annotations

import json
import math
import sys
import time
from typing import Any

import numpy as np
import scann

from benchmarks.worker import work

TRAINED_ON, THRESHOLD = 250_000, 0.2
GRID = [(leaves, reorder) for leaves in (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 128, 192, 256, 512)
        for reorder in (150, 200, 250, 300, 400, 500, 700, 1000)]  # fmt: skip


class Search:
    """An index, and how far a search of it goes: partitions, and candidates that are rescored."""

    def __init__(self, items: Any, k: int) -> None:
        began = time.perf_counter()
        leaves = max(1, math.isqrt(len(items)))
        self._index = (
            scann.scann_ops_pybind.builder(items, k, "dot_product")
            .set_n_training_threads(1)
            .tree(leaves, min(leaves, 64), training_sample_size=min(len(items), TRAINED_ON))
            .score_ah(2, anisotropic_quantization_threshold=THRESHOLD)
            .reorder(2 * k)
            .build()
        )
        self.seconds, self.partitions, self.k = time.perf_counter() - began, leaves, k
        self.looked = (min(leaves, 64), 2 * k)

    def all(self, queries: Any) -> list[Any]:
        """Positions int[k] of each query, asked one after the other."""
        leaves, reorder = self.looked
        return [
            self._index.search(query, self.k, pre_reorder_num_neighbors=reorder, leaves_to_search=leaves)[0]
            for query in queries
        ]

    def tune(self, queries: Any, best: Any, recall: float) -> None:
        """Look as far as is fastest of all in GRID that finds that much; ValueError where none does."""
        taken: list[tuple[float, tuple[int, int]]] = []
        for leaves, reorder in GRID:
            if any(fewer <= leaves and less <= reorder for _, (fewer, less) in taken):
                continue  # less of both is enough
            self.looked = (min(leaves, self.partitions), reorder)
            if recall_of(self.all(queries), best) >= recall:
                taken.append((min(self._cpu_s(queries) for _ in range(3)), self.looked))
        if not taken:
            raise ValueError(f"ScaNN: nothing in the grid finds {recall:.3f}; widen GRID")
        self.looked = min(taken)[1]

    def _cpu_s(self, queries: Any) -> float:
        """Processor time of all: a choice among many is not left to what neighbours do meanwhile."""
        began = time.process_time()
        self.all(queries)
        return time.process_time() - began


def recall_of(found: Any, best: Any) -> float:
    """Share of the best items that were found."""
    pairs = zip(found, best, strict=True)
    return sum(len(np.intersect1d(one, other)) for one, other in pairs) / best.size


def main(data: str, options: str) -> None:
    """options: recall."""
    given = np.load(data)
    search = Search(given["items"], given["asked_best"].shape[1])
    search.tune(given["tuning"], given["tuning_best"], json.loads(options)["recall"])

    def answer() -> dict[str, Any]:
        began = time.perf_counter()
        found = search.all(given["asked"])
        seconds = time.perf_counter() - began
        return {
            "seconds": seconds,
            "recall": recall_of(found, given["asked_best"]),
            "leaves": [search.looked[0], search.partitions],
            "reorder": search.looked[1],
            "build_s": search.seconds,
        }

    work(answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
