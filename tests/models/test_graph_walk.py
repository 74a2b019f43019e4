"""The compiled walk against the same walk in plain Python, and against faiss on the same graph."""

import threading

import faiss
import numpy as np
import pytest

from models.bitmap import bitmap_of, is_set, without
from models.graph_arrays import Graph
from models.graph_kernels import LEFT_TOGETHER, SEEN_PER_EFFORT
from models.graph_walk import GraphWalk
from models.index_graphs import build_hnsw, build_lifted_hnsw

ITEMS, WIDTH, LINKS = 3000, 20, 6


@pytest.fixture(scope="module", params=[build_hnsw, build_lifted_hnsw])
def world(request):
    rng = np.random.default_rng(11)
    centres = rng.normal(size=(60, WIDTH))
    items = (centres[np.arange(ITEMS) % 60] + 0.6 * rng.normal(size=(ITEMS, WIDTH))).astype(np.float32)
    users = rng.normal(size=(50, WIDTH)).astype(np.float32)
    return items, users, request.param(items, LINKS, 40)


def in_python(index, vectors, user, effort):
    """What a walk meets, {place: score}: greedily down the levels, then by fours through the bottom."""
    graph = index.hnsw
    links, first = faiss.vector_to_array(graph.neighbors), faiss.vector_to_array(graph.offsets)
    ends = faiss.vector_to_array(graph.cum_nneighbor_per_level)

    def score(place):
        return np.dot(vectors[place].astype(np.float64), user)

    def linked(place, level):
        begin = int(first[place])
        of = links[begin + ends[level] : begin + ends[level + 1]].tolist()
        return of[: of.index(-1)] if -1 in of else of

    here = graph.entry_point
    for level in range(graph.max_level, 0, -1):
        while True:
            best = max([here, *linked(here, level)], key=score)
            if best == here:
                break
            here = best
    met = {here: score(here)}
    pool, left = {here}, set()
    while True:
        found = []
        for _ in range(LEFT_TOGETHER):
            if not pool - left:
                break
            place = max(pool - left, key=met.__getitem__)
            left.add(place)
            found += [at for at in dict.fromkeys(linked(place, 0)) if at not in met and at not in found]
        if not found and not pool - left:
            return met
        for at in found:
            met[at] = score(at)
            pool = set(sorted({*pool, at}, key=met.__getitem__)[-effort:])


def best_of(met, k, allowed=None):
    ranked = sorted((place for place in met if allowed is None or allowed[place]), key=lambda at: -met[at])
    return ranked[:k]


@pytest.mark.parametrize("effort", [12, 40])
def test_it_meets_what_the_same_walk_in_python_meets(world, effort):
    items, users, index = world
    allowed = np.random.default_rng(2).random(ITEMS) < 0.5
    mask = np.packbits(allowed, bitorder="little")
    walk = GraphWalk(Graph.of(index, items))
    scores, places = walk.search(users, 12, effort, None)
    _, masked = walk.search(users, 12, effort, mask)
    for user, found, its_scores, under_mask in zip(users, places, scores, masked, strict=True):
        met = in_python(index, items, user, effort)
        assert found.tolist() == best_of(met, 12)
        np.testing.assert_allclose(its_scores, items[found] @ user, rtol=1e-5, atol=1e-5)
        expected = best_of(met, 12, allowed)
        assert under_mask.tolist() == expected + [-1] * (12 - len(expected))


@pytest.mark.parametrize("masked", [False, True])
def test_it_finds_what_faiss_finds(world, masked):
    """At the same effort as many of the best as faiss does, with a mask and without."""
    items, users, index = world
    allowed = np.ones(ITEMS, bool)
    if masked:
        allowed[np.random.default_rng(3).integers(0, ITEMS, ITEMS // 3)] = False
    mask = np.packbits(allowed, bitorder="little") if masked else None
    selector = faiss.IDSelectorBitmap(mask) if masked else None
    theirs = index.search(users, 20, params=faiss.SearchParametersHNSW(sel=selector, efSearch=60))[1]
    ours = GraphWalk(Graph.of(index, items)).search(users, 20, 60, mask)[1]
    exact = np.argsort(-np.where(allowed, users @ items.T, -np.inf), axis=1)[:, :20]

    def recall(found):
        return np.mean([np.isin(row, best).mean() for row, best in zip(found, exact, strict=True)])

    assert recall(theirs) > 0.75
    assert recall(ours) >= recall(theirs) - 0.01
    assert allowed[ours[ours >= 0]].all()


def test_equal_scores_are_in_the_order_of_places():
    items = np.ones((40, 4), np.float32)
    scores, places = GraphWalk(Graph.of(build_hnsw(items, 8, 40), items)).search(
        np.ones((1, 4), np.float32), 40, 40, None
    )
    held = places[0][places[0] >= 0]
    assert len(held) > 8
    assert held.tolist() == sorted(held.tolist())
    assert (scores[0][: len(held)] == 4).all()


def test_where_it_meets_too_few_the_rest_is_empty(world):
    items, users, index = world
    mask = without(bitmap_of(ITEMS), np.arange(5, ITEMS))
    scores, places = GraphWalk(Graph.of(index, items)).search(users, 10, 10, mask)
    assert is_set(mask, places[places >= 0]).all()
    assert (places >= 0).sum(1).max() <= 5
    assert np.isneginf(scores[places < 0]).all()
    assert (np.sort(-scores, axis=1) == -scores).all()


def test_a_walk_is_bounded():
    """Pairs of places far apart, and an effort of one: it ends, whatever the graph is like."""
    rng = np.random.default_rng(4)
    items = rng.normal(size=(SEEN_PER_EFFORT * 8, 4)).astype(np.float32)
    index = build_hnsw(items, 2, 4)
    _, places = GraphWalk(Graph.of(index, items)).search(items[:20], 1, 1, None)
    assert (places >= 0).all()


def test_queries_and_threads_do_not_meet(world):
    """A search alone, among others, and in other threads beside searches of a larger graph."""
    items, users, index = world
    walk = GraphWalk(Graph.of(index, items))
    large = np.random.default_rng(6).normal(size=(2 * ITEMS, WIDTH)).astype(np.float32)
    other = GraphWalk(Graph.of(build_hnsw(large, LINKS, 40), large))
    together = walk.search(users, 15, 50, None)
    wrong = []

    def ask():
        for row, user in enumerate(users):
            other.search(user[None], 15, 50, None)
            scores, places = walk.search(user[None], 15, 50, None)
            if places[0].tolist() != together[1][row].tolist() or (scores[0] != together[0][row]).any():
                wrong.append(row)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_scores_of_any_sign_keep_their_order():
    items = np.array([[3.0], [-2.0], [0.0], [-0.5], [1e-30], [-1e30], [7e20]], np.float32)
    index = build_hnsw(items, 8, 40)
    scores, places = GraphWalk(Graph.of(index, items)).search(np.ones((1, 1), np.float32), 7, 7, None)
    assert places[0].tolist() == [6, 0, 4, 2, 3, 1, 5]
    assert scores[0].tolist() == items[places[0], 0].tolist()
