"""The arrays of a written graph against those that faiss reads back from it."""

import faiss
import numpy as np
import pytest

from models.graph_arrays import Graph
from models.graph_walk import GraphWalk
from models.index_bytes import index_bytes, mapped_bytes
from models.index_graphs import build_hnsw, build_lifted_hnsw

VECTORS = np.random.default_rng(0).standard_normal((3001, 24), np.float32)


def written(index, path):
    path.write_bytes(index_bytes(index).tobytes())
    return mapped_bytes(path)


@pytest.mark.parametrize("build", [build_hnsw, build_lifted_hnsw])
@pytest.mark.parametrize("items", [1, 40, 3001])
def test_they_are_what_faiss_reads(build, items, tmp_path):
    index = build(VECTORS[:items], 8, 40)
    data = written(index, tmp_path / "index")
    theirs = faiss.deserialize_index(data)
    expected = Graph.of(theirs, faiss.downcast_index(theirs.storage).reconstruct_n(0, items))
    graph = Graph.written(data)
    for name in ("vectors", "neighbours", "offsets", "ends"):
        np.testing.assert_array_equal(getattr(graph, name), getattr(expected, name))
        assert getattr(graph, name).dtype == getattr(expected, name).dtype
        assert not getattr(graph, name).flags.writeable or name == "ends"
    assert (graph.entry, graph.top) == (expected.entry, expected.top)
    for name in ("vectors", "neighbours", "offsets"):  # where they were written
        assert np.shares_memory(getattr(graph, name), data)


def test_a_walk_through_a_file_finds_what_one_through_what_was_built_finds(tmp_path):
    index, users = build_hnsw(VECTORS, 8, 40), VECTORS[::100] * 2
    built = GraphWalk(Graph.of(index, VECTORS)).search(users, 20, 50, None)
    data = written(index, tmp_path / "index")
    (tmp_path / "index").unlink()
    for ours, expected in zip(GraphWalk(Graph.written(data)).search(users, 20, 50, None), built, strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_what_is_no_such_graph_is_named(tmp_path):
    data = written(build_hnsw(VECTORS[:100], 8, 40), tmp_path / "index")
    for size in (0, 30, 60, 1000, len(data) - 1):
        with pytest.raises(ValueError, match=r"expected \d+ bytes at \d+, got \d+"):
            Graph.written(data[:size])
    flat = faiss.IndexFlatIP(24)
    flat.add(VECTORS[:100])
    with pytest.raises(ValueError, match="expected b'IHNf' by inner product, got b'IxFI' by metric 0"):
        Graph.written(faiss.serialize_index(flat))
    by_distance = faiss.IndexHNSWFlat(24, 8)
    with pytest.raises(ValueError, match="got b'IHNf' by metric 1"):
        Graph.written(faiss.serialize_index(by_distance))
    index = build_hnsw(VECTORS[:100], 8, 40)
    index.ntotal = 99  # of 100 vectors
    with pytest.raises(ValueError, match=r"'levels': 99.*'levels': 100"):
        Graph.written(faiss.serialize_index(index))
