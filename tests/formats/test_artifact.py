import contextlib
import hashlib
import json
import os
import shutil

import numpy as np
import pytest

from models import artifact
from models.artifact import ArtifactError, PublishConflict, open_artifact, publish, sweep
from models.registry import Registry
from tests.formats.sample import bundle_fields, bundle_files

FILES = {"a/x.safetensors": {"v": np.arange(6, dtype=np.float32)}, "b.bin": b"bytes", "a/c/d.bin": b""}
FIELDS = {"watermark_ms": 7, "created": {"created_ms": 1}}


class Killed(BaseException):
    pass


class DyingOS:
    """Stands in for `os`: the n-th call, and every one after it, raises, as if the process had been killed
    there.
    """

    def __init__(self, alive_calls):
        self.left = alive_calls
        self.trace = []

    def __getattr__(self, name):
        real = getattr(os, name)
        if not callable(real) or name == "close":  # a dead process' files are closed, and their locks gone
            return real

        def call(*args, **kwargs):
            if self.left <= 0:
                raise Killed(name)
            self.left -= 1
            self.trace.append((name, args[0]))
            return real(*args, **kwargs)

        return call


@pytest.fixture
def dying(monkeypatch):
    def install(calls):
        double = DyingOS(calls)
        monkeypatch.setattr(artifact, "os", double)
        # A killed process cleans nothing up.
        monkeypatch.setattr(artifact.shutil, "rmtree", lambda *a, **k: None)
        return double

    yield install
    monkeypatch.undo()


def count_calls(dying, monkeypatch, path):
    double = dying(10**6)
    publish(path, FILES, FIELDS)
    monkeypatch.undo()
    return double


def test_crash_between_any_two_steps_leaves_nothing_or_the_whole(tmp_path, dying, monkeypatch):
    steps = len(count_calls(dying, monkeypatch, tmp_path / "count" / "t").trace)
    assert steps > 15
    seen = set()
    for alive in range(steps + 1):
        target = tmp_path / str(alive) / "t"
        dying(alive)
        with contextlib.suppress(Killed):
            publish(target, FILES, FIELDS)
        monkeypatch.undo()
        seen.add(target.exists())
        if target.exists():
            whole = open_artifact(target)
            assert whole.names() == sorted(FILES)
            np.testing.assert_array_equal(
                whole.tensors("a/x.safetensors")["v"], FILES["a/x.safetensors"]["v"]
            )
        else:
            with pytest.raises(ArtifactError):
                open_artifact(target)
        # The next attempt succeeds, and what the dead writer left can be swept.
        publish(target, FILES, FIELDS)
        open_artifact(target)
        sweep(target.parent)
        assert [p.name for p in target.parent.iterdir()] == ["t"]
    assert seen == {True, False}


def test_crash_while_a_bundle_is_published(tmp_path, dying, monkeypatch):
    """The same for a name that follows from the content: no bundle, or the whole one under its own name."""
    for alive in range(3, 200, 3):
        registry = Registry(tmp_path / str(alive))
        double = dying(alive)
        with contextlib.suppress(Killed):
            registry.publish_bundle(bundle_files(), bundle_fields())
        survived = double.left > 0
        monkeypatch.undo()
        for bundle in registry.bundles():
            registry.open_bundle(bundle)
        assert not survived or registry.bundles()
        bundle = registry.publish_bundle(bundle_files(), bundle_fields())
        assert registry.bundles() == [bundle]
        if survived:
            return
    raise AssertionError("never published")


def test_everything_is_synced_before_the_rename(tmp_path, dying, monkeypatch):
    trace = [name for name, _ in count_calls(dying, monkeypatch, tmp_path / "t").trace]
    rename = trace.index("rename")
    # 3 files + manifest, 2 directories + the one itself; then the parent.
    assert trace[:rename].count("fsync") >= 7
    assert "fsync" in trace[rename:]


def test_publishing_again(tmp_path):
    target = tmp_path / "t"
    first = publish(target, FILES, FIELDS)
    again = publish(target, FILES, {**FIELDS, "created": {"created_ms": 2}})
    assert again.manifest == first.manifest
    with pytest.raises(PublishConflict, match=r"manifest.json: expected files = .*got files ="):
        publish(target, {**FILES, "b.bin": b"other"}, FIELDS)
    with pytest.raises(PublishConflict, match="watermark_ms = 8"):
        publish(target, FILES, {**FIELDS, "watermark_ms": 8})
    assert open_artifact(target).manifest == first.manifest
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


def damage_truncate(root):
    path = root / "a/x.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    return "x.safetensors", "bytes"


def damage_flip(root):
    path = root / "b.bin"
    path.write_bytes(b"bytez")
    return "b.bin", "blake3"


def damage_lose(root):
    (root / "a/c/d.bin").unlink()
    return "d.bin", "No such file"


def damage_manifest_number(root):
    path = root / "manifest.json"
    path.write_text(path.read_text().replace('"watermark_ms": 7', '"watermark_ms": 9'))
    return "manifest.json", "sha256"


def damage_manifest_half(root):
    path = root / "manifest.json"
    path.write_bytes(path.read_bytes()[:40])
    return "manifest.json", "JSON"


def damage_manifest_gone(root):
    (root / "manifest.json").unlink()
    return "manifest.json", "No such file"


def damage_manifest_other(root):
    (root / "manifest.json").write_text("[]")
    return "manifest.json", "files"


@pytest.mark.parametrize(
    "damage",
    [
        damage_truncate,
        damage_flip,
        damage_lose,
        damage_manifest_number,
        damage_manifest_half,
        damage_manifest_gone,
        damage_manifest_other,
    ],
)
def test_damage_is_refused_with_file_expected_and_got(tmp_path, damage):
    publish(tmp_path / "t", FILES, FIELDS)
    file, word = damage(tmp_path / "t")
    with pytest.raises(ArtifactError) as caught:
        open_artifact(tmp_path / "t")
    text = str(caught.value)
    assert file in text
    assert word in text
    assert "expected" in text
    assert "got" in text


def test_what_was_published_with_sha256_is_opened_and_its_damage_refused(tmp_path):
    root = publish(tmp_path / "t", FILES, FIELDS).root
    manifest = json.loads((root / "manifest.json").read_bytes())
    for name, entry in manifest["files"].items():
        del entry["blake3"]
        entry["sha256"] = hashlib.sha256((root / name).read_bytes()).hexdigest()
    del manifest["sha256"]
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (root / "manifest.json").write_text(json.dumps(manifest))
    assert open_artifact(root).names() == sorted(FILES)
    damage_flip(root)
    with pytest.raises(ArtifactError, match=r"b.bin: expected sha256 \w{64}, got sha256 \w{64}"):
        open_artifact(root)


def test_unverified_open_still_refuses_a_broken_tensor_file(tmp_path):
    publish(tmp_path / "t", FILES, FIELDS)
    (tmp_path / "t/a/x.safetensors").write_bytes(b"\xff" * (tmp_path / "t/a/x.safetensors").stat().st_size)
    opened = open_artifact(tmp_path / "t", verify=False)
    with pytest.raises(ArtifactError, match="safetensors"):
        opened.tensors("a/x.safetensors")
    with pytest.raises(ArtifactError, match="a file of the manifest"):
        opened.path("unnamed")


def test_what_is_read_is_verified_and_nothing_else(tmp_path):
    publish(tmp_path / "t", FILES, FIELDS)
    damage_flip(tmp_path / "t")
    opened = open_artifact(tmp_path / "t", verify="as_read")
    assert opened.tensors("a/x.safetensors")
    for _ in range(2):  # it stays refused
        with pytest.raises(ArtifactError, match=r"b.bin: expected blake3 \w{64}, got blake3 \w{64}"):
            opened.path("b.bin")
    (tmp_path / "t" / "b.bin").write_bytes(b"another size")
    with pytest.raises(ArtifactError, match=r"b.bin: expected 5 bytes, got 12 bytes"):
        open_artifact(tmp_path / "t", verify="as_read")


def test_sweep_leaves_a_living_writer_alone(tmp_path):
    with artifact._written_aside(tmp_path, "t") as aside:
        assert sweep(tmp_path) == []
        assert aside.exists()
    assert not aside.exists()
    shutil.copytree(publish(tmp_path / "t", FILES, FIELDS).root, tmp_path / ".tmp-dead")
    assert [p.name for p in sweep(tmp_path)] == [".tmp-dead"]


@pytest.mark.parametrize("name", ["../x", "/x", "manifest.json", ".hidden"])
def test_names_outside_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="expected a relative path"):
        publish(tmp_path / "t", {name: b""}, {})


def test_manifest_is_readable_json_with_sizes(tmp_path):
    publish(tmp_path / "t", FILES, FIELDS)
    manifest = json.loads((tmp_path / "t/manifest.json").read_text())
    assert manifest["files"]["b.bin"]["bytes"] == 5
