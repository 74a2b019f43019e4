import numpy as np
import pyarrow as pa
import pytest

from models.artifact import ArtifactError
from models.bundle import BundleFields, index_file
from models.index import IndexConfig, build_index, item_files, load_items
from models.item_index import ItemIndex
from models.registry import Registry


@pytest.fixture(scope="module")
def world():
    """Clustered items, and users that look like no item: what tuning has to cope with."""
    rng = np.random.default_rng(5)
    centres = rng.normal(size=(40, 24))
    items = (centres[rng.integers(0, 40, 6000)] + 0.5 * rng.normal(size=(6000, 24))).astype(np.float32)
    users = rng.normal(size=(400, 24)).astype(np.float32)
    return items, users


CONFIGS = {
    "exact": IndexConfig(),
    "hnsw": IndexConfig(exact_below=100, recall_at=50),
    "ivf": IndexConfig(exact_below=100, ivf_from=100, recall_at=50),
}


def recall(index, users, items, k):
    exact = np.argsort(-(users @ items.T), axis=1)[:, :k]
    _, found = index.search(users, k)
    return np.mean([len(set(a) & set(b)) / k for a, b in zip(exact, found, strict=True)])


@pytest.mark.parametrize("kind", CONFIGS)
def test_recall_against_exact_is_reached_and_recorded(world, kind, tmp_path):
    items, users = world
    config = CONFIGS[kind]
    keys = pa.array([f"i{n}" for n in range(len(items))])
    files, report = item_files("m", keys, items, config, users[:200])
    assert report["kind"] == kind
    assert report["recall"] >= config.recall_target
    registry = Registry(tmp_path)
    bundle = registry.publish_bundle(files, BundleFields(watermark_ms=1, models={"m": {"index": report}}))
    opened = registry.open_bundle(bundle)
    loaded = load_items(opened, "m")
    assert opened.manifest["models"]["m"]["index"] == report
    assert loaded.keys.equals(keys)
    assert (loaded.base.kind, loaded.base.effort) == (kind, report["effort"])
    np.testing.assert_array_equal(loaded.base.vectors, items)
    index = ItemIndex.over(loaded.keys, loaded.base)
    # Held-out users: the measured figure, not a lucky sample.
    assert recall(index, users[200:], items, 50) >= config.recall_target - 0.02
    scores, found = index.search(users[:3], 5)
    np.testing.assert_allclose(scores[:, 0], np.einsum("bd,bd->b", items[found[:, 0]], users[:3]), rtol=1e-5)
    golden, _ = index.search(loaded.golden_queries, loaded.golden_scores.shape[1])
    assert (golden[:, 0] >= loaded.golden_scores[:, 0] - 1e-4).mean() >= 0.8


def test_vectors_beside_inverted_lists_may_be_of_half_precision(world, tmp_path):
    items, users = world
    halves, keys = items.astype(np.float16), pa.array([f"i{n}" for n in range(len(items))])
    files, report = item_files("m", keys, items, CONFIGS["ivf"], users[:200], half=True)
    registry = Registry(tmp_path)
    bundle = registry.publish_bundle(files, BundleFields(watermark_ms=1, models={"m": {"index": report}}))
    loaded = load_items(registry.open_bundle(bundle), "m")
    assert loaded.base.vectors.dtype == np.float16
    np.testing.assert_array_equal(loaded.base.vectors, halves)
    index, rounded = ItemIndex.over(loaded.keys, loaded.base), halves.astype(np.float32)
    assert recall(index, users[200:], items, 50) >= CONFIGS["ivf"].recall_target - 0.02  # of the whole ones
    few = np.full((len(items) + 7) // 8, 0, np.uint8)
    few[0] = 0b10010110
    for scores, found in (index.search(users[:9], 5), loaded.base.search(users[:9], 5, few, 4)):
        there = found >= 0
        products = np.einsum("bkd,bd->bk", rounded[np.maximum(found, 0)], users[:9])
        np.testing.assert_allclose(scores[there], products[there], rtol=1e-5, atol=1e-5)
    assert np.sort(found[:, :4], axis=1).tolist() == [[1, 2, 4, 7]] * 9
    np.testing.assert_array_equal(index.vectors_of(np.array([3, 5])), rounded[[3, 5]])
    best = np.sort(loaded.golden_queries @ rounded.T, axis=1)[:, :-11:-1]
    np.testing.assert_allclose(loaded.golden_scores, best, rtol=1e-5)
    for kind in ("exact", "hnsw"):  # which hold the vectors themselves
        config = CONFIGS[kind]
        whole, half = (item_files("m", keys, items, config, users, half)[0] for half in (False, True))
        for file, content in whole.items():
            if isinstance(content, dict):
                for name, array in content.items():
                    np.testing.assert_array_equal(array, half[file][name])
            else:
                assert bytes(content) == bytes(half[file])


def test_unreachable_target_falls_back_to_exact(world):
    items, users = world
    strict = IndexConfig(exact_below=100, hnsw_links=2, hnsw_construction=4, recall_target=1.0)
    built = build_index(items, strict, users)
    assert built.kind == "exact"
    assert built.recall == 1.0


def test_same_vectors_give_the_same_bytes(world):
    items, users = world[0][:2000], world[1]
    keys = pa.array([f"{n}" for n in range(2000)])
    first, report = item_files("m", keys, items, CONFIGS["hnsw"], users)
    again, _ = item_files("m", keys, items, CONFIGS["hnsw"], users)
    assert report["kind"] == "hnsw"
    assert bytes(first[index_file("m")]) == bytes(again[index_file("m")])


def test_masked_search_never_underfills(world):
    """Nearly everything changed: the graph cannot lead to what is left, the exact scan does."""
    items, users = world
    keys = pa.array([f"i{n}" for n in range(len(items))])
    for config in CONFIGS.values():
        index = ItemIndex.over(keys, build_index(items, config, users))
        gone = index.with_changes(
            pa.array([], pa.string()), np.empty((0, 24), np.float32), keys[: len(keys) - 30]
        )
        scores, found = gone.search(users[:4], 25)
        assert (found >= 5970).all()
        left = np.sort(users[:4] @ items[5970:].T, axis=1)[:, ::-1][:, :25]
        np.testing.assert_allclose(scores, left, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bad", [np.full((3, 2), np.nan, np.float32), np.zeros(3, np.float32)])
def test_bad_vectors_are_refused(bad):
    with pytest.raises(ValueError, match="expected finite float32"):
        build_index(bad, IndexConfig())


def test_parts_that_do_not_fit_are_refused(world, tmp_path):
    items, _ = world
    files, report = item_files("m", pa.array(["a", "b"]), items[:2], IndexConfig())
    registry = Registry(tmp_path)
    fields = BundleFields(watermark_ms=1, models={"m": {"index": {**report, "items": 3}}})
    with pytest.raises(ArtifactError, match="expected 3 keys, got 2"):
        load_items(registry.open_bundle(registry.publish_bundle(files, fields)), "m")
    with pytest.raises(ValueError, match="as many keys"):
        item_files("m", pa.array(["a"]), items[:2], IndexConfig())


def test_vectors_outlive_their_index(world):
    items, users = world
    vectors = build_index(items, IndexConfig()).vectors
    del users
    np.testing.assert_array_equal(vectors, items)
    with pytest.raises(ValueError, match="read-only"):
        vectors[0] = 0
