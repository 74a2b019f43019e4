import faiss
import numpy as np
import pytest

from models.index_graphs import build_hnsw, build_ivf
from models.index_read import read_index


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_finds_what_the_written_index_finds_and_stays_in_its_file(tmp_path, kind):
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
    if kind == "hnsw":
        place = int(faiss.downcast_index(read.storage).get_xb())
    else:
        place = int(faiss.downcast_InvertedLists(read.invlists).get_codes(0))
    assert 0 < place - block.ctypes.data < len(block)
