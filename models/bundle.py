"""The daily bundle: everything needed to serve, to warm-start the next training and to encode new items.

`bundles/<bundle_id>/` holds `models/<name>/<part>.safetensors` (the parts `served.<table>` only with rows of
half precision, models/half_rows.py), `models/<name>/items.safetensors`, `models/<name>/index.faiss`,
`channels/<name>/neighbours.safetensors` and `state.safetensors` of the item-to-item channels,
`channels/popularity.safetensors`, `channels/blend.safetensors`, `channels/prerank.safetensors`,
`channels/affinities.safetensors`, `rankers/<name>/<part>.safetensors` and `manifest.json`
(models/artifact.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from models.artifact import Artifact, ArtifactError, Content, Verify, open_artifact, publish

FORMAT_VERSION = 2
"""2: histories as logs, target counts, popularity counts and hard negatives beside the rows of version 1."""
POPULARITY_FILE = "channels/popularity.safetensors"
BLEND_FILE = "channels/blend.safetensors"
"""Weights of the channels' blend; absent until a full retrain had a parent to ask."""
PRERANK_FILE = "channels/prerank.safetensors"
"""The pre-rank network over the blend; absent without a blend, or where none is wanted."""
PRERANK_GATE = "prerank"
"""Its entry among the manifest's gates: served only where it says passed."""
AFFINITIES_FILE = "channels/affinities.safetensors"
"""How near items are to segments and histories, for that network; absent where none is wanted."""


class BundleFields(msgspec.Struct, frozen=True, kw_only=True):
    """What the manifest of a bundle says beside its files.

    parent: the bundle this one was warm-started from, "" for none.
    watermark_ms: event time up to which every event is in it; positions, seal_sequence: the same in the
    archive; catalogue_sequence: the same in the catalogue. models: name -> {"kind", "config", "features",
    "index", "rows"} (rows: the precision of those in serving, absent where it is that of training);
    channels: item-to-item channels, name -> {"kind", "config", "triggers"}; rankers: name ->
    {"kind", "config", "features", "joined_through_ms"} (both absent without any);
    gates: name -> result; versions: library -> version. created_ms: wall time of the writing, injected (not
    part of the identity).
    """

    watermark_ms: int
    models: dict[str, dict[str, Any]]
    channels: dict[str, dict[str, Any]] = {}
    rankers: dict[str, dict[str, Any]] = {}
    parent: str = ""
    positions: dict[str, int] = {}
    seal_sequence: int = 0
    catalogue_sequence: int = 0
    schema_hash: str = ""
    gates: dict[str, Any] = {}
    git: str = ""
    versions: dict[str, str] = {}
    created_ms: int = 0


def model_file(model: str, part: str) -> str:
    """Name of a part of one model inside a bundle."""
    return f"models/{model}/{part}.safetensors"


def items_file(model: str) -> str:
    """Name of the item keys and vectors of one model inside a bundle."""
    return model_file(model, "items")


def index_file(model: str) -> str:
    """Name of the serialised item index of one model inside a bundle (absent for an exact index)."""
    return f"models/{model}/index.faiss"


def neighbours_file(channel: str) -> str:
    """Name of the neighbours of one item-to-item channel inside a bundle."""
    return f"channels/{channel}/neighbours.safetensors"


def ranker_file(ranker: str, part: str) -> str:
    """Name of a part of one ranker inside a bundle."""
    return f"rankers/{ranker}/{part}.safetensors"


def channel_state_file(channel: str) -> str:
    """Name of what one item-to-item channel goes on from, inside a bundle."""
    return f"channels/{channel}/state.safetensors"


def write_bundle(root: Path, files: Mapping[str, Content], fields: BundleFields) -> str:
    """Publish a bundle under `root`/bundles; returns its id, `<watermark as UTC time>-<12 hex of its
    content>`.

    Writing the same content again gives the same id and changes nothing.
    """
    body = msgspec.to_builtins(fields)
    created = {key: body.pop(key) for key in ("created_ms", "git", "versions")}
    for name in ("channels", "rankers"):
        if not body[name]:
            del body[name]
    manifest = {
        "format": "bundle",
        "format_version": FORMAT_VERSION,
        "signature": None,
        **body,
        "created": created,
    }
    artifact = publish(root / "bundles", files, manifest, name_from=bundle_id)
    return artifact.root.name


def bundle_id(manifest: Mapping[str, Any]) -> str:
    """The id that belongs to a manifest; bundles sort by it in the order of their watermarks."""
    identity = {key: value for key, value in manifest.items() if key not in ("sha256", "created")}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True, allow_nan=False).encode()).hexdigest()
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=manifest["watermark_ms"])
    return f"{moment:%Y%m%dT%H%M%S}{moment.microsecond // 1000:03d}-{digest[:12]}"


def open_bundle(root: Path, bundle: str, verify: Verify = True) -> Artifact:
    """Open `root`/bundles/`bundle`. Raises ArtifactError (file, expected, got) when it is not whole."""
    path = root / "bundles" / bundle
    artifact = open_artifact(path, verify)
    check_format(artifact, "bundle", FORMAT_VERSION)
    if bundle_id(artifact.manifest) != bundle:
        raise ArtifactError(
            path, f"the content of {bundle}", f"the content of {bundle_id(artifact.manifest)}"
        )
    return artifact


def check_format(artifact: Artifact, kind: str, version: int) -> None:
    """Refuse an artifact of another kind or format version."""
    got = (artifact.manifest.get("format"), artifact.manifest.get("format_version"))
    if got != (kind, version):
        raise ArtifactError(
            artifact.root / "manifest.json", f"{kind} format {version}", f"{got[0]} format {got[1]}",
            "it was written by another version of this project",
        )  # fmt: skip
