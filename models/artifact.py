"""One way to publish a directory of files so that a reader sees nothing or the whole.

Steps: write aside into `.tmp-<name>-…` and fsync every file, `manifest.json` (digest and size of each file,
and its own sha256) last, fsync the directory, rename it to its name, fsync the parent. A crash before the
rename leaves a `.tmp-` directory that no reader opens; its writer's lock dies with it, so that `sweep` knows
what is abandoned.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from models.hashed_file import DIGEST, HashedFile, digest_of
from models.key_bytes import keys_from_buffers
from models.pacing import rest
from models.pages import converted
from models.tensor_file import Array, TensorFileError, map_tensor, read_tensors, write_tensors

MANIFEST = "manifest.json"
TEMPORARY = ".tmp-"
_KEYS_AT_ONCE = 1 << 16
Content = Mapping[str, Array] | bytes | memoryview | Path
Verify = bool | Literal["as_read"]
"""Which digests are compared: all when it is opened, none, or each file's when it is first asked for."""


class ArtifactError(RuntimeError):
    """A published directory cannot be used: says the file, what was expected and what was found."""

    def __init__(self, path: Path, expected: str, got: str, remedy: str = "") -> None:
        """`remedy` says what to do next."""
        super().__init__(f"{path}: expected {expected}, got {got}" + (f"; {remedy}" if remedy else ""))
        self.path, self.expected, self.got = path, expected, got


class PublishConflict(ArtifactError):
    """The name is taken by other content."""


def pack_keys(keys: pa.Array, prefix: str = "") -> dict[str, Array]:
    """Key texts as two tensors: `<prefix>bytes` uint8[total] (UTF-8) and `<prefix>offsets` int64[n+1]."""
    if isinstance(keys, pa.ChunkedArray):
        keys = keys.combine_chunks()
    wide = keys.cast(pa.large_string())
    if wide.null_count:
        raise ValueError(f"keys: expected no null, got {wide.null_count} of {len(wide)}")
    _, offsets, data = wide.buffers()
    n = len(wide)
    if n == 0:
        return {prefix + "bytes": np.empty(0, np.uint8), prefix + "offsets": np.zeros(1, np.int64)}
    at = np.frombuffer(offsets, np.int64)[wide.offset : wide.offset + n + 1]
    text = np.frombuffer(data, np.uint8)[at[0] : at[-1]] if at[-1] > at[0] else np.empty(0, np.uint8)
    return {prefix + "bytes": text, prefix + "offsets": at - at[0]}


def unpack_keys(tensors: Mapping[str, Array], prefix: str = "") -> pa.Array:
    """The inverse of `pack_keys`: `pa.string()` array from `<prefix>bytes` and `<prefix>offsets`.

    At the thread's pace.
    """
    wide = np.ascontiguousarray(tensors[prefix + "offsets"], np.int64)
    text = np.ascontiguousarray(tensors[prefix + "bytes"], np.uint8)
    rising = len(wide) > 0 and wide[0] == 0 and wide[-1] == len(text) < 1 << 31
    for begin in range(0, len(wide), _KEYS_AT_ONCE):
        part = wide[begin : begin + _KEYS_AT_ONCE + 1]
        rising = rising and bool((part[1:] >= part[:-1]).all())
        rest()
    if not rising:
        raise ValueError(f"{prefix}offsets: expected rising offsets from 0 to {len(text)}, below 2^31")
    return keys_from_buffers(text, converted(wide, np.int32))


@dataclass(frozen=True)
class Artifact:
    """A published directory whose manifest was read (and whose files were verified, when opened so).

    unverified: files whose digests are compared when they are asked for.
    """

    root: Path
    manifest: dict[str, Any]
    unverified: set[str] = field(default_factory=set, repr=False, compare=False)

    def names(self) -> list[str]:
        """Every file the manifest names, sorted."""
        return sorted(self.manifest["files"])

    def has(self, name: str) -> bool:
        """Whether the manifest names this file."""
        return name in self.manifest["files"]

    def path(self, name: str) -> Path:
        """Where a named file lies. Raises ArtifactError when the manifest does not name it, or its digest is
        another.
        """
        if not self.has(name):
            raise ArtifactError(self.root / name, "a file of the manifest", f"only {', '.join(self.names())}")
        if name in self.unverified:
            _check_digest(self.root / name, self.manifest["files"][name])
            self.unverified.discard(name)
        return self.root / name

    def tensors(self, name: str, only: Container[str] | None = None) -> dict[str, Array]:
        """The arrays of one safetensors file, or those named in `only`, read-only."""
        path = self.path(name)
        try:
            return read_tensors(path, only)
        except (OSError, TensorFileError) as error:
            raise ArtifactError(path, "a safetensors file", str(error)) from error

    def mapped(self, name: str, tensor: str) -> Array:
        """One array of a safetensors file, read-only, of which nothing is read before it is asked for."""
        path = self.path(name)
        try:
            return map_tensor(path, tensor)
        except (OSError, TensorFileError) as error:
            raise ArtifactError(path, "a safetensors file", str(error)) from error


def publish(
    target: Path,
    files: Mapping[str, Content],
    manifest: Mapping[str, Any],
    name_from: Callable[[dict[str, Any]], str] | None = None,
) -> Artifact:
    """Publish `files` and a manifest as the directory `target` (atomically, durably); returns it.

    With `name_from`, `target` is the parent, and the name is computed from the finished manifest.
    Publishing equal files and fields again is fine (what stands under `manifest["created"]` may differ);
    other content under a taken name raises PublishConflict and changes nothing.
    """
    for name in files:
        if name == MANIFEST or name.startswith(("/", ".")) or ".." in Path(name).parts:
            raise ValueError(f"{target}: file name {name!r}: expected a relative path inside the directory")
    parent = target if name_from else target.parent
    _make_directories(parent)
    with _written_aside(parent, target.name) as aside:
        entries: dict[str, dict[str, Any]] = {}
        for name in sorted(files):
            digest, size = _write(aside / name, files[name])
            entries[name] = {DIGEST: digest, "bytes": size}
        body: dict[str, Any] = {**manifest, "files": entries}
        if name_from:
            target = parent / name_from(body)
        body["sha256"] = _manifest_digest(body)
        text = json.dumps(body, sort_keys=True, indent=1, allow_nan=False).encode()
        for directory in sorted({(aside / name).parent for name in files} - {aside}, reverse=True):
            _sync_directory(directory)
        _write(aside / MANIFEST, text)
        _sync_directory(aside)
        if target.exists():
            return _same(target, body)
        try:
            os.rename(aside, target)
        except OSError:
            if target.exists():  # another writer of the same name was faster
                return _same(target, body)
            raise
        _sync_directory(parent)
    return Artifact(target, json.loads(text))


def open_artifact(path: Path, verify: Verify = True) -> Artifact:
    """Open a published directory; `verify` compares digests, sizes are compared always.

    Raises ArtifactError naming the file, the expected and the found value.
    """
    manifest = _read_manifest(path)
    for name, entry in manifest["files"].items():
        try:
            size = (path / name).stat().st_size
        except OSError as error:
            raise _unreadable(path / name, entry, error) from error
        if size != entry["bytes"]:
            raise ArtifactError(path / name, f"{entry['bytes']} bytes", f"{size} bytes")
        if verify is True:
            _check_digest(path / name, entry)
    return Artifact(path, manifest, set(manifest["files"]) if verify == "as_read" else set())


def _check_digest(file: Path, entry: Mapping[str, Any]) -> None:
    kind = DIGEST if DIGEST in entry else "sha256"  # as bundles before had it
    try:
        got = digest_of(file, kind)
    except OSError as error:
        raise _unreadable(file, entry, error) from error
    if got != entry[kind]:
        raise ArtifactError(file, f"{kind} {entry[kind]}", f"{kind} {got}")


def _unreadable(file: Path, entry: Mapping[str, Any], error: OSError) -> ArtifactError:
    return ArtifactError(file, f"{entry['bytes']} bytes", error.strerror or str(error))


def remove(path: Path) -> None:
    """Remove a published directory: renamed away first, so that no reader ever sees a part of it."""
    aside = path.parent / f"{TEMPORARY}removed-{path.name}-{uuid.uuid4().hex[:8]}"
    os.rename(path, aside)
    _sync_directory(path.parent)
    shutil.rmtree(aside)


def sweep(parent: Path) -> list[Path]:
    """Remove the `.tmp-` directories that dead writers left under `parent`; a living one locks its own."""
    removed = []
    for aside in sorted(parent.glob(TEMPORARY + "*")) if parent.is_dir() else []:
        try:
            descriptor = os.open(aside, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(aside, ignore_errors=True)
            removed.append(aside)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)
    return removed


@contextlib.contextmanager
def _written_aside(parent: Path, name: str) -> Iterator[Path]:
    aside = parent / f"{TEMPORARY}{name}-{uuid.uuid4().hex[:8]}"
    os.mkdir(aside)
    descriptor = os.open(aside, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield aside
    finally:
        os.close(descriptor)
        if aside.exists():
            shutil.rmtree(aside, ignore_errors=True)


def _write(path: Path, content: Content) -> tuple[str, int]:
    """Write and fsync one file; returns (digest hex, bytes)."""
    os.makedirs(path.parent, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    with os.fdopen(descriptor, "wb", buffering=0) as raw, HashedFile(raw) as file:
        if isinstance(content, Mapping):
            write_tensors(file, content)
        else:
            for part in _parts(content):
                file.write(part)
        os.fsync(raw.fileno())
        return file.hexdigest(), file.size


def _parts(content: bytes | memoryview | Path) -> Iterator[bytes | memoryview]:
    if isinstance(content, Path):
        with content.open("rb") as file:
            while part := file.read(1 << 22):
                yield part
    else:
        yield content


def _manifest_digest(body: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in body.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_bytes())
    except OSError as error:
        remedy = "a directory without its manifest does not exist for readers"
        raise ArtifactError(file, "a manifest", error.strerror or str(error), remedy) from error
    except ValueError as error:
        raise ArtifactError(file, "JSON", str(error)) from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise ArtifactError(file, "an object with `files`", type(manifest).__name__)
    digest = _manifest_digest(manifest)
    if manifest.get("sha256") != digest:
        raise ArtifactError(file, f"sha256 {manifest.get('sha256')}", f"sha256 {digest}")
    return manifest


def _same(target: Path, body: dict[str, Any]) -> Artifact:
    """The artifact that already lies at `target`, when it is what `body` describes."""
    held = open_artifact(target)
    ignored = {"sha256", "created"}
    for key in sorted((set(held.manifest) | set(body)) - ignored):
        # Compared as JSON, for a tuple and a list are one there.
        ours, theirs = (json.dumps(side.get(key), sort_keys=True) for side in (body, held.manifest))
        if ours != theirs:
            raise PublishConflict(
                target / MANIFEST, f"{key} = {_short(ours)}", f"{key} = {_short(theirs)}",
                "published names are never rewritten; publish under a new one",
            )  # fmt: skip
    return held


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "…"


def _make_directories(path: Path) -> None:
    """Create `path` and its parents, each made durable in its own parent."""
    if path.is_dir():
        return
    _make_directories(path.parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
