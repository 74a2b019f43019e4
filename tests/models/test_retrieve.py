"""The best k through an index are the first k of all scores sorted, with own items, exclusions and several
vectors; exact scores are those of a loop over items.
"""

import numpy as np
import pyarrow as pa
import pytest

from models.index import IndexConfig, build_index
from models.item_index import ItemIndex
from models.query import Queries
from models.retrieve import dense_scores, retrieve
from tests.models.learning_data import DAY_MS, START_MS, VARIANTS, catalogue, events, variant

ITEMS, WIDTH, N = 60, 6, 12
KEYS = pa.array([f"i{at}" for at in range(ITEMS)])


def queries_of(vectors, own, seed=0):
    """Random queries whose users have up to `own` own items, some of them unknown to the index."""
    generator = np.random.default_rng(seed)
    lists = [
        generator.choice(ITEMS + 5, generator.integers(0, own + 1), replace=False).tolist() for _ in range(N)
    ]
    flat = [f"i{item}" for row in lists for item in row]
    return Queries(
        generator.normal(size=(N, vectors, WIDTH)).astype(np.float32),
        generator.normal(size=(N, vectors, WIDTH)).astype(np.float32),
        np.concatenate([[0], np.cumsum([len(row) for row in lists])]).astype(np.int64),
        pa.array(flat, pa.string()),
        generator.normal(size=len(flat)).astype(np.float32) * 3,
    )


def index_of(vectors):
    return ItemIndex.over(KEYS, build_index(vectors, IndexConfig()))


def by_loops(queries, vectors):
    scores = np.empty((N, ITEMS))
    for n in range(N):
        added = {}
        for at in range(queries.own_offsets[n], queries.own_offsets[n + 1]):
            added[queries.own_id[at].as_py()] = queries.own_score[at]
        for place, key in enumerate(KEYS.to_pylist()):
            asking = queries.own_vectors if key in added else queries.vectors
            best = max(float(u @ vectors[place]) for u in asking[n].astype(np.float64))
            scores[n, place] = best + added.get(key, 0.0)
    return scores


@pytest.mark.parametrize("excluded", [False, True])
@pytest.mark.parametrize("own", [0, 9])
@pytest.mark.parametrize("vectors", [1, 4])
@pytest.mark.parametrize("k", [7, ITEMS + 3])
def test_retrieve_is_sorting_every_score(vectors, own, excluded, k):
    generator = np.random.default_rng(1)
    v_IW = generator.normal(size=(ITEMS, WIDTH)).astype(np.float32)
    queries = queries_of(vectors, own)
    dense = dense_scores(queries, KEYS, v_IW)
    np.testing.assert_allclose(dense, by_loops(queries, v_IW), atol=1e-4)
    barred = None
    if excluded:  # among them own items and places outside the best
        barred = [generator.choice(ITEMS, 20, replace=False).astype(np.int64) for _ in range(N)]
        for n in range(N):
            dense[n, barred[n]] = -np.inf
    scores, places = retrieve(queries, index_of(v_IW), k, barred)
    assert scores.shape == places.shape == (N, k)
    order = np.argsort(-dense, axis=1, kind="stable")[:, :k]
    for n in range(N):
        held = min(k, int(np.isfinite(dense[n]).sum()))
        assert places[n, :held].tolist() == order[n, :held].tolist()
        np.testing.assert_allclose(scores[n, :held], dense[n, order[n, :held]], atol=1e-5)
        assert (places[n, held:] == -1).all()
        assert (scores[n, held:] == -np.inf).all()


def test_own_items_of_changed_and_deleted_items():
    generator = np.random.default_rng(2)
    v_IW = generator.normal(size=(ITEMS, WIDTH)).astype(np.float32)
    queries = queries_of(1, 9)
    changed = v_IW.copy()
    changed[:5] = generator.normal(size=(5, WIDTH))
    index = index_of(v_IW).with_changes(KEYS.slice(0, 5), changed[:5], KEYS.slice(50, 10))
    dense = dense_scores(queries, KEYS.slice(0, 50), changed[:50])
    scores, places = retrieve(queries, index, 10)
    best = np.argsort(-dense, axis=1, kind="stable")[:, :10]
    names = [[KEYS[int(at)].as_py() for at in row] for row in best]
    assert [index.keys_of(row) for row in places] == names
    np.testing.assert_allclose(scores, np.take_along_axis(dense, best, 1), atol=1e-5)


@pytest.mark.parametrize(("kind", "option"), VARIANTS)
def test_what_a_model_answers_is_its_exact_order(kind, option):
    learner = variant(kind, option)
    samples = learner.prepare(events(40, users=25, seed=4, start_ms=START_MS + DAY_MS), catalogue())
    queries = learner.queries(learner.moments(samples))
    keys, vectors = learner.item_vectors()
    dense = dense_scores(queries, keys, vectors)
    index = ItemIndex.over(keys, build_index(vectors, IndexConfig()))
    barred = [np.argsort(-row)[:2] for row in dense]  # the best two are forbidden
    for row, places in zip(dense, barred, strict=True):
        row[places] = -np.inf
    scores, places = retrieve(queries, index, 10, barred)
    np.testing.assert_allclose(scores, -np.sort(-dense, axis=1)[:, :10], atol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(dense, places, 1), scores, atol=1e-4)
    if learner.config.own_items:
        assert len(queries.own_id)
        assert (queries.own_score != 0).any()
