import asyncio
import gc
import threading
import time
import weakref

import numpy as np
import pytest

from models.bundle import BundleFields
from models.index import IndexConfig
from models.query import Queries
from serving.errors import SnapshotRefused
from serving.snapshot import Snapshot
from tests.serving.world import HOUR, FakeTower, World


def rows_equal(a, b):
    """Two snapshots hold the same users, items and popularity."""
    one, two = a.channels["m"], b.channels["m"]
    names = sorted(one.tower.rows)
    assert names == sorted(two.tower.rows)
    for name in names:
        np.testing.assert_array_equal(one.tower.rows[name], two.tower.rows[name])
    assert len(one.items) == len(two.items)
    u = np.eye(8, dtype=np.float32)
    np.testing.assert_allclose(one.items.search(u, 10)[0], two.items.search(u, 10)[0], rtol=1e-5)
    assert a.popular_keys == b.popular_keys
    assert (a.delta, a.watermark_ms) == (b.delta, b.watermark_ms)


def test_nothing_then_bundle_then_deltas_then_next_bundle(world):
    assert world.swapper.step() is False
    first = world.bundle()
    assert world.swapper.step() is False  # published, but not pointed to
    assert world.serve(first).delta == 0
    for sequence in (1, 2, 3):
        world.delta(first, sequence)
    assert world.serve(first, 3).watermark_ms == HOUR + 3000
    assert world.swapper.step() is False
    second = world.bundle(1, watermark_ms=2 * HOUR)
    world.delta(second, 1, watermark_ms=2 * HOUR + 5)
    world.serve(second, 1, watermark_ms=2 * HOUR + 5)
    assert (world.snapshot.bundle, world.snapshot.delta) == (second, 1)
    assert world.counted("bundles_swapped") == 2
    assert world.counted("deltas_applied") == 4
    assert world.counted("swaps_refused", reason="version") == 0


def test_gap_is_recovered_by_the_cumulative_delta(world):
    base = world.bundle()
    world.delta(base, 1)
    world.serve(base, 1)
    world.delta(base, 3, since=1)  # 2 never arrived
    world.delta(base, 4)
    got = world.serve(base, 4)
    fresh = World(world.root)
    for sequence in (2, 3):
        fresh.delta(base, sequence)
    rows_equal(got, fresh.serve(base, 4))


def test_damaged_increment_is_gone_around(world):
    base = world.bundle()
    for sequence in (1, 2, 3):
        world.delta(base, sequence)
    world.delta(base, 2, since=1)
    whole = World(world.root).serve(base, 3)
    world.serve(base, force=True)
    world.damage("deltas", base, "000002", "rows.safetensors")
    got = world.serve(base, 3)
    rows_equal(got, whole)
    assert world.counted("swaps_recovered") == 1
    assert world.counted("swaps_refused", reason="delta") == 1


def test_damaged_cumulative_falls_back_to_the_bundle_and_its_chain(world):
    base = world.bundle()
    world.delta(base, 3, since=1)
    world.serve(base, 3)
    world.delta(base, 5, since=1)  # the only way on from 3, and it gets damaged
    for sequence in (1, 2, 4, 5):
        world.delta(base, sequence)
    world.damage("deltas", base, "000005", "rows.safetensors")
    world.damage("deltas", base, "000004", "rows.safetensors")
    assert world.serve(base, 5).delta == 5


def damage_delta(world, base):
    world.damage("deltas", base, "000001", "rows.safetensors")
    return "rows.safetensors", "blake3"


def truncate_delta(world, base):
    file = world.root / "deltas" / base / "000001" / "rows.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    return "rows.safetensors", "bytes"


def half_written_delta(world, base):
    (world.root / "deltas" / base / "000001" / "manifest.json").unlink()
    return "000001/manifest.json", "a manifest"


def missing_delta(world, base):
    (world.root / "deltas" / base / "000001").rename(world.root / "elsewhere")
    return "deltas 1..1", "none"


@pytest.mark.parametrize("harm", [damage_delta, truncate_delta, half_written_delta, missing_delta])
def test_bad_delta_is_refused_and_the_old_snapshot_keeps_serving(world, harm, caplog):
    base = world.bundle()
    old = world.serve(base)
    world.delta(base, 1)
    kept = (world.root / "deltas" / base / "000001").rename(world.root / "kept")
    world.delta(base, 1)
    where, word = harm(world, base)
    world.point(base, 1)
    assert world.swapper.step() is False
    assert world.snapshot is old
    assert world.counted("swaps_refused", reason="version") == 1
    assert where in caplog.text
    assert word in caplog.text
    assert "expected" in caplog.text
    # Not hammered: tried again after the interval, and served once it is repaired.
    assert world.swapper.step() is False
    assert world.counted("swaps_refused", reason="version") == 1
    bad = world.root / "deltas" / base / "000001"
    if bad.exists():
        bad.rename(world.root / "bad")
    kept.rename(bad)
    assert world.swapper.step() is False
    world.now_s += 6
    assert world.swapper.step() is True
    assert world.snapshot.delta == 1


@pytest.mark.parametrize(
    "file", ["models/m/items.safetensors", "models/m/users.safetensors", "manifest.json"]
)
def test_bad_bundle_is_refused_and_the_old_snapshot_keeps_serving(world, file):
    old = world.serve(world.bundle())
    second = world.bundle(1, watermark_ms=2 * HOUR)
    world.damage("bundles", second, file)
    world.point(second, watermark_ms=2 * HOUR)
    assert world.swapper.step() is False
    assert world.snapshot is old
    assert file in world.swapper.last_refusal
    assert "expected" in world.swapper.last_refusal


def test_wrong_base_gap_schema_and_shape_are_refused(world):
    base, other = world.bundle(), world.bundle(1)
    snapshot = world.serve(base)
    refs = [world.delta(base, 1), world.delta(base, 2), world.delta(other, 1)]
    first, second, strange = (world.registry.open_delta(ref) for ref in refs)
    with pytest.raises(SnapshotRefused, match=f"expected base {base}, got {other}"):
        snapshot.with_delta(strange)
    with pytest.raises(SnapshotRefused, match="expected to follow sequence 0, got previous sequence 1"):
        snapshot.with_delta(second)
    after = snapshot.with_delta(first)
    with pytest.raises(SnapshotRefused, match="expected to follow sequence 1"):
        after.with_delta(first)
    assert after.with_delta(second).delta == 2
    bad = World(world.root / "bad")
    base = bad.bundle()
    snapshot = bad.serve(base)
    schema = bad.registry.open_delta(bad.delta(base, 1, schema="other"))
    with pytest.raises(SnapshotRefused, match="expected schema s, got other"):
        snapshot.with_delta(schema)
    wide = bad.registry.open_delta(bad.delta(base, 2, since=1, width=3, items=False))
    with pytest.raises(SnapshotRefused, match="m: expected width 8, got 3"):
        snapshot.with_delta(wide)


def test_rollback_by_force_reloads(world):
    base = world.bundle()
    for sequence in (1, 2):
        world.delta(base, sequence)
    world.serve(base, 2)
    world.point(base, 1, force=True)
    assert world.swapper.step()
    assert world.snapshot.delta == 1
    rows_equal(world.snapshot, World(world.root).swapper.load(world.pointer.get()))


def test_a_tower_that_does_not_fit_or_is_not_finite_is_refused(world):
    base = world.bundle()
    opened = world.registry.open_bundle(base)

    class Wide(FakeTower):
        def queries(self, moments):
            return Queries.plain(np.ones((len(moments), 1, 3), np.float32))

    class Broken(FakeTower):
        def queries(self, moments):
            return Queries.plain(np.full((len(moments), 1, 8), np.nan, np.float32))

    for kind in (Wide, Broken):
        with pytest.raises(SnapshotRefused, match="expected finite user vectors of width 8"):
            Snapshot.load(opened, kind.load)
    with pytest.raises(SnapshotRefused, match="expected models nope, got m"):
        Snapshot.load(opened, FakeTower.load, ["nope"])


def test_golden_queries_catch_an_index_of_other_vectors(tmp_path):
    world = World(tmp_path, index=IndexConfig(exact_below=10, recall_at=5))
    one, two = world.bundle(items=200), world.bundle(1, items=200)
    opened, other = world.registry.open_bundle(one), world.registry.open_bundle(two)
    files = {name: opened.path(name) for name in opened.names()}
    files["models/m/index.faiss"] = other.path("models/m/index.faiss")
    fields = BundleFields(watermark_ms=HOUR, models=opened.manifest["models"], schema_hash="s")
    mixed = world.registry.publish_bundle(files, fields)
    with pytest.raises(SnapshotRefused, match="golden query"):
        Snapshot.load(world.registry.open_bundle(mixed), FakeTower.load)
    assert Snapshot.load(world.registry.open_bundle(two), FakeTower.load).channels["m"].items


def test_old_snapshots_are_released(world):
    base = world.bundle()
    world.serve(base)
    tower = weakref.ref(world.snapshot.channels["m"].tower)
    index = weakref.ref(world.snapshot.channels["m"].items.base)
    old = weakref.ref(world.snapshot)
    world.delta(base, 1)
    world.serve(base, 1)
    gc.collect()
    assert old() is None
    assert tower() is None
    assert index() is not None  # shared by the next snapshot of the same bundle
    world.serve(world.bundle(1, watermark_ms=2 * HOUR), watermark_ms=2 * HOUR)
    gc.collect()
    assert index() is None


def test_a_version_is_freed_without_the_collector_once_its_requests_are_answered(world):
    """What is kept for requests refers back to the snapshot; a whole version must not wait for that cycle."""
    world.serve(world.bundle())
    gc.collect()
    gc.disable()
    try:
        for hour in (2, 3):
            asyncio.run(recalled(world))
            index = weakref.ref(world.snapshot.channels["m"].items.base)
            world.serve(world.bundle(hour, watermark_ms=hour * HOUR), watermark_ms=hour * HOUR)
            assert index() is None
    finally:
        gc.enable()


async def recalled(world):
    async with world.client() as client:
        assert (await client.post("/v1/recall", json={"user_id": 1, "k": 5})).status_code == 200


def test_broken_pointer_file_keeps_the_old(world):
    old = world.serve(world.bundle())
    (world.root / "pointer.json").write_text("{")
    assert world.swapper.step() is False
    assert world.snapshot is old
    assert world.counted("swaps_refused", reason="pointer") == 1


def test_any_failure_of_loading_is_survived(world):
    old = world.serve(world.bundle())

    def fail(bundle, name):
        raise TypeError("a tower of another kind")

    world.swapper.load_tower = fail
    world.point(world.bundle(1, watermark_ms=2 * HOUR), watermark_ms=2 * HOUR)
    assert world.swapper.step() is False
    assert world.snapshot is old
    assert "another kind" in world.swapper.last_refusal


def test_the_watcher_follows_the_file_without_redis(tmp_path):
    world = World(tmp_path)
    world.swapper.config = world.config.model_copy(update={"poll_interval_s": 0.02})
    stop = threading.Event()
    thread = threading.Thread(target=world.swapper.follow, args=(stop,))
    thread.start()
    base = world.bundle()
    world.delta(base, 1)
    try:
        for sequence in (0, 1):
            world.point(base, sequence)
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline and (not world.snapshot or world.snapshot.delta != sequence):
                stop.wait(0.01)
            assert world.snapshot.delta == sequence
    finally:
        stop.set()
        thread.join(20)
    assert not thread.is_alive()
