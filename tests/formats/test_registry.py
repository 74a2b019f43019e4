from dataclasses import replace

import numpy as np
import pytest

from models import artifact
from models.artifact import ArtifactError, PublishConflict, open_artifact
from models.bundle import items_file
from models.delta import delta_path
from models.neighbour_rows import NeighbourRows
from models.pointer import Pointer, PointerStore
from models.registry import DeltaRef, MissingDelta, Registry
from tests.formats.sample import HOUR, bundle_fields, bundle_files, delta, keys


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path)


def test_bundle_id_follows_content_and_watermark(registry):
    first = registry.publish_bundle(bundle_files(), bundle_fields(created_ms=1, git="abc"))
    assert registry.publish_bundle(bundle_files(), bundle_fields(created_ms=2)) == first
    other = registry.publish_bundle(bundle_files(1), bundle_fields())
    later = registry.publish_bundle(
        bundle_files(), bundle_fields(2 * HOUR, parent=first, positions={"0:1": 5})
    )
    assert first.startswith("19700101T010000000-")
    assert sorted({first, other, later}) == registry.bundles()
    assert registry.latest_bundle() == later
    opened = registry.open_bundle(later)
    assert opened.manifest["parent"] == first
    assert opened.manifest["positions"] == {"0:1": 5}
    assert opened.tensors(items_file("m"))["vectors"].shape == (5, 4)


def test_a_copied_bundle_under_another_name_is_refused(registry, tmp_path):
    bundle = registry.publish_bundle(bundle_files(), bundle_fields())
    (tmp_path / "bundles" / bundle).rename(tmp_path / "bundles" / "20200101T000000000-aaaaaaaaaaaa")
    with pytest.raises(ArtifactError, match="the content of"):
        registry.open_bundle("20200101T000000000-aaaaaaaaaaaa")


def test_delta_round_trip(registry):
    base = registry.publish_bundle(bundle_files(), bundle_fields())
    sent = delta(base, 2, value=3.0, positions={"0:0": 9}, seal_sequence=4)
    ref = registry.publish_delta(sent)
    assert ref == DeltaRef(base, 2, False)
    got = registry.open_delta(ref)
    assert got.fields == sent.fields
    rows = got.tables["m"]["user"]
    assert rows.keys.to_pylist() == ["u2"]
    assert rows.tombstones.to_pylist() == ["gone"]
    assert rows.vectors is None
    np.testing.assert_array_equal(rows.rows, np.full((1, 2), 3.0, np.float32))
    assert got.popularity.keys.to_pylist() == ["i1", "i0"]
    assert got.popularity.scores.tolist() == [2.0, 1.0]


def test_channels_of_a_delta(registry):
    base = registry.publish_bundle(bundle_files(), bundle_fields())
    rows = NeighbourRows(
        keys("i1", "gone"),
        np.array([0, 2, 2]),
        keys("i2", "i3"),
        np.array([1, 0], np.int32),
        np.array([0.5, 0.25], np.float32),
    )
    ref = registry.publish_delta(replace(delta(base, 1), channels={"cf": rows}))
    got = registry.open_delta(ref).channels["cf"]
    assert (got.triggers.to_pylist(), got.items.to_pylist()) == (["i1", "gone"], ["i2", "i3"])
    assert got.offsets.tolist() == [0, 2, 2]
    assert (got.neighbours.tolist(), got.scores.tolist()) == ([1, 0], [0.5, 0.25])
    # A version that knew no channels wrote these bytes; they are still the same delta.
    assert registry.publish_delta(delta(base, 2)) == registry.publish_delta(
        replace(delta(base, 2), channels={})
    )
    manifest = open_artifact(delta_path(registry.root, base, 2, False)).manifest
    assert "channels" not in manifest
    assert open_artifact(delta_path(registry.root, base, 1, False)).manifest["channels"] == {
        "cf": {"triggers": 2}
    }
    damaged = replace(rows, neighbours=np.array([1, 2], np.int32))
    ref = registry.publish_delta(replace(delta(base, 3), channels={"cf": damaged}))
    with pytest.raises(ArtifactError, match=r"the tensors of channel cf.*positions among 2 items"):
        registry.open_delta(ref)


def test_bundle_with_and_without_channels(registry):
    without = registry.publish_bundle(bundle_files(), bundle_fields())
    assert "channels" not in registry.open_bundle(without).manifest
    held = {"cf": {"kind": "item_cf", "config": {}, "triggers": 3}}
    assert (
        registry.open_bundle(registry.publish_bundle(bundle_files(), bundle_fields(channels=held))).manifest[
            "channels"
        ]
        == held
    )


def test_same_delta_twice_is_fine_other_bytes_are_not(registry):
    base = registry.publish_bundle(bundle_files(), bundle_fields())
    assert registry.publish_delta(delta(base, 1)) == registry.publish_delta(delta(base, 1, created_ms=5))
    with pytest.raises(PublishConflict, match=r"000001.manifest.json: expected files"):
        registry.publish_delta(delta(base, 1, value=1.0))
    assert registry.open_delta(DeltaRef(base, 1, False)).tables["m"]["user"].rows[0, 0] == 0.0


def test_delta_needs_its_bundle_and_finite_rows_of_the_right_shape(registry):
    with pytest.raises(FileNotFoundError, match="publish the bundle first"):
        registry.publish_delta(delta("nobody", 1))
    base = registry.publish_bundle(bundle_files(), bundle_fields())
    with pytest.raises(ValueError, match="m/user/rows: expected finite"):
        registry.publish_delta(delta(base, 1, value=float("nan")))
    assert registry.deltas(base) == []


def test_moved_delta_is_refused(registry, tmp_path):
    base = registry.publish_bundle(bundle_files(), bundle_fields())
    other = registry.publish_bundle(bundle_files(1), bundle_fields())
    registry.publish_delta(delta(base, 1))
    delta_path(tmp_path, other, 1, False).parent.mkdir()
    delta_path(tmp_path, base, 1, False).rename(delta_path(tmp_path, other, 1, False))
    with pytest.raises(ArtifactError, match=f"expected base {other}, got base {base}"):
        registry.open_delta(DeltaRef(other, 1, False))
    delta_path(tmp_path, other, 1, False).rename(delta_path(tmp_path, base, 2, False))
    with pytest.raises(ArtifactError, match="expected the delta 000002, got the delta 000001"):
        registry.open_delta(DeltaRef(base, 2, False))


def test_chain(registry):
    base = registry.publish_bundle(bundle_files(), bundle_fields())
    for sequence in (1, 2, 4, 5):
        registry.publish_delta(delta(base, sequence))
    registry.publish_delta(delta(base, 3, cumulative=True))

    def names(*args, **kwargs):
        return [(r.sequence, r.cumulative) for r in registry.chain(base, *args, **kwargs)]

    assert names(0, 2) == [(1, False), (2, False)]
    assert names(1, 1) == []
    assert names(0, 5) == names(2, 5) == [(3, True), (4, False), (5, False)]
    assert names(3, 5) == [(4, False), (5, False)]
    assert names(0, 3, avoid={DeltaRef(base, 1, False)}) == [(3, True)]
    with pytest.raises(MissingDelta, match=r"expected deltas 1..6 .*got 1, 2, 3-cumulative, 4, 5"):
        registry.chain(base, 0, 6)
    with pytest.raises(MissingDelta, match="damaged: 4"):
        registry.chain(base, 0, 5, avoid={DeltaRef(base, 4, False)})


def test_prune_never_removes_what_is_pointed_to(registry, tmp_path):
    ids = [registry.publish_bundle(bundle_files(n), bundle_fields(HOUR * (n + 1))) for n in range(5)]
    for bundle in ids:
        registry.publish_delta(delta(bundle, 1))
    PointerStore(tmp_path).set(Pointer(bundle=ids[0], delta=1, watermark_ms=HOUR))
    (tmp_path / "bundles" / ".tmp-dead").mkdir()
    assert registry.prune(2, pointed=[ids[1]]) == [ids[2]]
    assert registry.bundles() == [ids[0], ids[1], ids[3], ids[4]]
    assert len(registry.deltas(ids[0])) == 1
    assert not registry.deltas(ids[2])
    assert not list((tmp_path / "bundles").glob(".tmp-*"))
    with pytest.raises(ValueError, match="at least 1"):
        registry.prune(0)


def test_prune_is_finished_after_a_crash(registry, tmp_path, monkeypatch):
    ids = [registry.publish_bundle(bundle_files(n), bundle_fields(HOUR * (n + 1))) for n in range(3)]
    registry.publish_delta(delta(ids[0], 1))

    def die(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(artifact.shutil, "rmtree", die)
    with pytest.raises(KeyboardInterrupt):
        registry.prune(1)
    monkeypatch.undo()
    assert ids[0] not in registry.bundles()
    assert registry.bundles() == ids[1:]
    registry.prune(1)
    assert registry.bundles() == ids[2:]
    assert list((tmp_path / "bundles").iterdir()) == [tmp_path / "bundles" / ids[2]]
    assert list((tmp_path / "deltas").iterdir()) == []
