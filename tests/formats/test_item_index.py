import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.index import IndexConfig, build_index
from models.item_index import ItemIndex
from models.key_bytes import key_buffers, texts_at

DIM = 4
KINDS = {
    "exact": IndexConfig(),
    "hnsw": IndexConfig(exact_below=1, recall_at=5),
    "ivf": IndexConfig(exact_below=1, ivf_from=1, recall_at=5),
}


def base_index(kind, keys, vectors):
    config = KINDS[kind]
    built = build_index(vectors, config)
    assert built.kind in (kind, "exact")
    return ItemIndex.over(pa.array(keys, pa.string()), built)


def brute(merged, u, k, excluded):
    """The oracle: scores of every eligible item, best k."""
    rows = sorted(
        ((float(np.dot(v, u)), key) for key, v in merged.items() if key not in excluded), reverse=True
    )
    return rows[:k]


def vectors_for(rng, n):
    return rng.normal(size=(n, DIM)).astype(np.float32)


changes = st.lists(
    st.tuples(
        st.lists(st.integers(0, 45), unique=True, max_size=12),
        st.lists(st.integers(0, 45), unique=True, max_size=8),
    ),
    max_size=4,
)


@pytest.mark.parametrize("kind", ["exact", "hnsw", "ivf"])
@settings(max_examples=60)
@given(
    n=st.integers(0, 40),
    deltas=changes,
    k=st.integers(1, 60),
    excluded=st.lists(st.integers(0, 50), max_size=50),
    seed=st.integers(0, 2**31),
)
def test_overlay_equals_brute_force_over_the_merged_vectors(kind, n, deltas, k, excluded, seed):
    rng = np.random.default_rng(seed)
    keys = [f"i{x}" for x in range(n)]
    vectors = vectors_for(rng, n)
    index = base_index(kind, keys, vectors)
    merged = dict(zip(keys, vectors, strict=True))
    before = [index]
    for changed, removed in deltas:
        new = vectors_for(rng, len(changed))
        names, gone = [f"i{x}" for x in changed], [f"i{x}" for x in removed]
        index = index.with_changes(pa.array(names, pa.string()), new, pa.array(gone, pa.string()))
        before.append(index)
        for key in gone:
            merged.pop(key, None)
        merged.update(zip(names, new, strict=True))
    assert len(index) == len(merged)
    skip = {f"i{x}" for x in excluded}
    out = index.lookup(pa.array(sorted(skip), pa.string()))
    queries = vectors_for(rng, 2)
    scores, positions = index.search(queries, k, [out, np.empty(0, np.int64)])
    exact_everywhere = kind == "exact" or index.base.kind == "exact"
    for row, left_out in ((0, skip), (1, set())):
        wanted = brute(merged, queries[row], k, left_out)
        found = positions[row] >= 0
        # Never fewer than the eligible, whatever was masked or excluded.
        assert found.sum() == len(wanted)
        assert (np.diff(scores[row]) <= 0).all() if len(wanted) == k else True
        names = index.keys_of(positions[row][found])
        assert len(set(names)) == len(names)
        assert not set(names) & left_out
        np.testing.assert_allclose(
            scores[row][found], [np.dot(merged[name], queries[row]) for name in names], rtol=1e-4, atol=1e-5
        )
        np.testing.assert_array_equal(
            index.vectors_of(positions[row][found]),
            np.array([merged[name] for name in names]).reshape(-1, DIM),
        )
        if exact_everywhere:
            np.testing.assert_allclose(scores[row][found], [s for s, _ in wanted], rtol=1e-4, atol=1e-5)
    known = pa.array([*merged, "absent"], pa.string())
    found = index.lookup(known)
    assert (found[:-1] >= 0).all()
    assert found[-1] == -1
    # The one it came from is unchanged.
    assert len(before[0]) == n


@pytest.mark.parametrize("kind", ["exact", "hnsw", "ivf"])
@settings(max_examples=40)
@given(
    n=st.integers(0, 40),
    deltas=changes,
    k=st.integers(1, 60),
    allowed=st.lists(st.booleans(), min_size=100, max_size=100),
    excluded=st.lists(st.integers(0, 50), max_size=50),
    seed=st.integers(0, 2**31),
)
def test_a_masked_index_is_one_without_these_items(kind, n, deltas, k, allowed, excluded, seed):
    rng = np.random.default_rng(seed)
    vectors = vectors_for(rng, n)
    index = base_index(kind, [f"i{x}" for x in range(n)], vectors)
    merged = {f"i{x}": vectors[x] for x in range(n)}
    for changed, _ in deltas:
        new = vectors_for(rng, len(changed))
        names = [f"i{x}" for x in changed]
        index = index.with_changes(pa.array(names, pa.string()), new, pa.array([], pa.string()))
        merged |= dict(zip(names, new, strict=True))
    size = len(index.base) + len(index.overlay)
    masked = index.only(np.array(allowed[:size], bool))
    places = index.lookup(pa.array([*merged], pa.string()))
    left = {name: merged[name] for name, place in zip(merged, places, strict=True) if allowed[place]}
    assert len(masked) == len(left)
    found = masked.lookup(pa.array([*merged], pa.string()))
    np.testing.assert_array_equal(found, np.where(np.array(allowed, bool)[places], places, -1))
    out = masked.lookup(pa.array(sorted(f"i{x}" for x in excluded), pa.string()))
    query = vectors_for(rng, 1)
    scores, positions = masked.search(query, k, [out])
    wanted = brute(left, query[0], k, {f"i{x}" for x in excluded})
    assert (positions[0] >= 0).sum() == len(wanted)
    assert set(index.keys_of(positions[0][positions[0] >= 0])) <= set(left)
    if kind == "exact":
        np.testing.assert_allclose(
            scores[0][: len(wanted)], [score for score, _ in wanted], rtol=1e-4, atol=1e-5
        )


def test_wrong_width_and_repeated_keys_are_refused():
    index = base_index("exact", ["a"], np.ones((1, DIM), np.float32))
    with pytest.raises(ValueError, match=r"expected user vectors \[B, 4\], got \[1, 3\]"):
        index.search(np.ones((1, 3), np.float32), 1)
    with pytest.raises(ValueError, match="repetition"):
        index.with_changes(pa.array(["b", "b"]), np.ones((2, DIM), np.float32), pa.array([], pa.string()))
    with pytest.raises(ValueError, match="expected as many keys as vectors, got 2 and 1"):
        ItemIndex.over(pa.array(["a", "b"]), index.base)


@given(st.lists(st.text(max_size=60) | st.integers().map("#{}".format), min_size=1, max_size=30), st.data())
def test_keys_are_those_of_the_places(keys, data):
    column = pa.array(["in front", *keys], pa.string()).slice(1)
    places = np.array(data.draw(st.lists(st.integers(0, len(keys) - 1))), np.int64)
    assert texts_at(*key_buffers(column), places) == [keys[place] for place in places]
