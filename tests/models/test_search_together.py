"""What several queries find together is, to the bit, what each finds alone: answers do not depend on who else
waits.
"""

import numpy as np
import pyarrow as pa
import pytest

from models.index import IndexConfig, build_index
from models.item_index import ItemIndex

ITEMS, WIDTH, TOGETHER = 3000, 24, 16
CONFIGS = {
    "exact": IndexConfig(),
    "hnsw": IndexConfig(exact_below=100, recall_target=0.5),
    "ivf": IndexConfig(exact_below=100, ivf_from=200, recall_target=0.5),
}


@pytest.fixture(scope="module", params=CONFIGS)
def items(request):
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(ITEMS, WIDTH)).astype(np.float32)
    base = build_index(vectors, CONFIGS[request.param])
    assert base.kind == request.param
    return ItemIndex.over(pa.array([f"i{at}" for at in range(ITEMS)]), base)


@pytest.mark.parametrize("k", [1, 10, 100, 1000])
@pytest.mark.parametrize("late", [0, 50])
@pytest.mark.parametrize("left", [ITEMS, 1200])
def test_searches(items, k, late, left):
    rng = np.random.default_rng(4)
    keys = pa.array([f"i{at}" for at in range(late)], pa.string())
    gone = pa.array([f"i{at}" for at in range(left, ITEMS)], pa.string())
    items = items.with_changes(keys, rng.normal(size=(late, WIDTH)).astype(np.float32), gone)
    u_BD = rng.normal(size=(TOGETHER, WIDTH)).astype(np.float32)
    excluded = [rng.choice(ITEMS, 20) if at % 3 == 0 else np.empty(0, np.int64) for at in range(TOGETHER)]
    for barred in (None, excluded):
        for size in (2, 8, TOGETHER):
            scores, places = items.search(u_BD[:size], k, barred and barred[:size])
            for row in range(size):
                one = items.search(u_BD[row : row + 1], k, barred and barred[row : row + 1])
                np.testing.assert_array_equal(scores[row], one[0][0])
                np.testing.assert_array_equal(places[row], one[1][0])
