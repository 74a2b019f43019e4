import faiss
import numpy as np
import pytest

from models.index_graphs import build_hnsw, build_ivf
from models.index_read import read_index


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_finds_what_the_written_index_finds_and_stays_in_its_block(tmp_path, kind):
    vectors = np.random.default_rng(0).standard_normal((3001, 24), np.float32)
    written = build_hnsw(vectors, 8, 40) if kind == "hnsw" else build_ivf(vectors, 40)
    path = tmp_path / "index.faiss"
    faiss.write_index(written, str(path))
    read = read_index(path)
    path.unlink()
    scores, found = read.search(vectors[:50], 20)
    expected = written.search(vectors[:50], 20)
    np.testing.assert_array_equal(scores, expected[0])
    np.testing.assert_array_equal(found, expected[1])
    block = read.referenced_objects[0]
    block[len(block) // 2 :] = 0
    assert not np.array_equal(read.search(vectors[:50], 20)[0], scores)


def test_the_vectors_of_a_graph_are_aligned(tmp_path):
    vectors = np.random.default_rng(0).standard_normal((301, 16), np.float32)
    path = tmp_path / "index.faiss"
    faiss.write_index(build_hnsw(vectors, 8, 40), str(path))
    index = read_index(path)
    stored = faiss.rev_swig_ptr(faiss.downcast_index(index.storage).get_xb(), vectors.size)
    assert stored.ctypes.data % 64 == 0
    np.testing.assert_array_equal(stored.reshape(vectors.shape), vectors)
