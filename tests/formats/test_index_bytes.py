import faiss
import numpy as np
import pytest

from models.index_bytes import index_bytes, read_index
from models.index_graphs import build_hnsw, build_ivf


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
@pytest.mark.parametrize("by_faiss", [True, False])
def test_finds_what_the_written_index_finds_and_stays_in_its_file(tmp_path, kind, by_faiss):
    vectors = np.random.default_rng(0).standard_normal((3001, 24), np.float32)
    written = build_hnsw(vectors, 8, 40) if kind == "hnsw" else build_ivf(vectors, 40)
    path = tmp_path / "index.faiss"
    if by_faiss:
        faiss.write_index(written, str(path))
    else:
        path.write_bytes(index_bytes(written).tobytes())
    read = read_index(path)
    path.unlink()
    scores, found = read.search(vectors[:50], 20)
    expected = written.search(vectors[:50], 20)
    np.testing.assert_array_equal(scores, expected[0])
    np.testing.assert_array_equal(found, expected[1])
    block = read.referenced_objects[0]
    if kind == "hnsw":
        place = int(faiss.downcast_index(read.storage).get_xb())
    else:
        place = int(faiss.downcast_InvertedLists(read.invlists).get_codes(0))
    assert 0 < place - block.ctypes.data < len(block)


@pytest.mark.parametrize("items", [300, 301, 333, 340, 351, 377])
def test_the_vectors_of_a_graph_are_aligned(tmp_path, items):
    vectors = np.random.default_rng(0).standard_normal((items, 16), np.float32)
    path = tmp_path / "index.faiss"
    path.write_bytes(index_bytes(build_hnsw(vectors, 8, 40)).tobytes())
    assert path.stat().st_size % 64 == 0
    index = read_index(path)
    stored = faiss.rev_swig_ptr(faiss.downcast_index(index.storage).get_xb(), vectors.size)
    assert stored.ctypes.data % 64 == 0
    np.testing.assert_array_equal(stored.reshape(vectors.shape), vectors)


@pytest.mark.parametrize("zeros", range(64))
def test_any_number_of_zeros_may_lead(tmp_path, zeros):
    written = faiss.serialize_index(build_hnsw(np.eye(8, dtype=np.float32), 8, 40)).tobytes()
    path = tmp_path / "index.faiss"
    path.write_bytes(bytes(zeros + 1) + written)
    assert read_index(path).ntotal == 8
