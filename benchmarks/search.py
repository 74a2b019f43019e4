"""Item search as serving does it (masking, overlay, keys), against bare faiss."""

import faiss
import numpy as np
import pyarrow as pa

from benchmarks.measure import Result, rates
from models.index import IndexConfig, build_index, set_search_threads
from models.item_index import ItemIndex


def exact(items: int, queries: int) -> list[Result]:
    """Top 100 of items x 64 by inner product, one query at a time, one thread."""
    rng = np.random.default_rng(7)
    dim = 64
    vectors = rng.standard_normal((items, dim)).astype(np.float32)
    asked = rng.standard_normal((queries, 1, dim)).astype(np.float32)
    set_search_threads(1)
    ours = ItemIndex.over(pa.array([f"#{n}" for n in range(items)]), build_index(vectors, IndexConfig()))
    bare = faiss.IndexFlatIP(dim)
    bare.add(vectors)

    def served() -> None:
        for query in asked:
            _, positions = ours.search(query, 100)
            ours.keys_of(positions[0])

    value, peer = rates(queries, served, lambda: [bare.search(query, 100) for query in asked])
    params = {"dim": dim, "k": 100}
    return [Result("search.exact", value, "queries/s", "faiss.IndexFlatIP", peer, params=params)]
