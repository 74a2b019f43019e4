"""The delta between bundles: changed rows, re-encoded item vectors, tombstones, neighbours and popularity.

`deltas/<bundle_id>/<sequence>/` follows its predecessor; `<sequence>-cumulative/` holds everything since the
bundle, for a reader that missed one. `rows.safetensors` has `<model>/<table>/keys.bytes|keys.offsets|rows`
(and `vectors` of items), `<model>/<table>/tombstones.bytes|tombstones.offsets`,
`channels/<name>/triggers.*|items.*|offsets|neighbours|scores` of the item-to-item channels, and
`popularity/keys.*|scores`, `affinities/segments.*|items.*|…`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from models.affinities import Affinities
from models.arrays import Float32Array, Float64Array
from models.artifact import Artifact, ArtifactError, open_artifact, pack_keys, publish, unpack_keys
from models.bundle import check_format
from models.neighbour_rows import NeighbourRows
from models.tensor_file import Array

FORMAT_VERSION = 1
ROWS_FILE = "rows.safetensors"
_AFFINITIES = "affinities/"


class DeltaFields(msgspec.Struct, frozen=True, kw_only=True):
    """What the manifest of a delta says beside its rows.

    base: bundle id; sequence: 1, 2, … after it; previous_sequence: sequence - 1, or 0 for a cumulative one.
    created_ms: wall time of the writing, injected (not part of the identity).
    """

    base: str
    sequence: int
    previous_sequence: int
    watermark_ms: int
    positions: dict[str, int] = {}
    seal_sequence: int = 0
    schema_hash: str = ""
    created_ms: int = 0


def _no_keys() -> pa.Array:
    return pa.array([], pa.string())


@dataclass(frozen=True)
class TableRows:
    """Changes of one ID table of one model.

    keys: string[n]; rows: float32[n, E]; vectors: float32[n, D] of the items (table "item" only) or None;
    tombstones: string[m] keys that were removed.
    """

    keys: pa.Array
    rows: Float32Array
    vectors: Float32Array | None = None
    tombstones: pa.Array = field(default_factory=_no_keys)


@dataclass(frozen=True)
class PopularityList:
    """The most popular items, best first: keys string[n], scores float64[n]."""

    keys: pa.Array = field(default_factory=_no_keys)
    scores: Float64Array = field(default_factory=lambda: np.empty(0, np.float64))

    def tensors(self, prefix: str = "") -> dict[str, Array]:
        """As stored: `<prefix>keys.bytes`, `<prefix>keys.offsets`, `<prefix>scores`."""
        return {
            **pack_keys(self.keys, prefix + "keys."),
            prefix + "scores": np.asarray(self.scores, np.float64),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Array], prefix: str = "") -> PopularityList:
        """The inverse of `tensors`."""
        return cls(unpack_keys(tensors, prefix + "keys."), tensors[prefix + "scores"])


@dataclass(frozen=True)
class Delta:
    """One delta in memory: tables[model][table], the popularity list (None = unchanged), the changed triggers
    of item-to-item channels by name, and the affinities (None = unchanged).
    """

    fields: DeltaFields
    tables: Mapping[str, Mapping[str, TableRows]]
    popularity: PopularityList | None = None
    channels: Mapping[str, NeighbourRows] = field(default_factory=dict)
    affinities: Affinities | None = None


def delta_path(root: Path, base: str, sequence: int, cumulative: bool) -> Path:
    """Where a delta lies under the registry's root."""
    return root / "deltas" / base / f"{sequence:06d}{'-cumulative' if cumulative else ''}"


def write_delta(root: Path, delta: Delta) -> Artifact:
    """Publish a delta; the same bytes again are fine, others under the same sequence raise
    PublishConflict.
    """
    fields = delta.fields
    if not 0 <= fields.previous_sequence < fields.sequence:
        raise ValueError(
            f"delta of {fields.base}: expected 0 <= previous_sequence < sequence, "
            f"got {fields.previous_sequence} and {fields.sequence}"
        )
    tensors: dict[str, Array] = {}
    counts: dict[str, dict[str, int]] = {}
    for model, tables in delta.tables.items():
        for table, rows in tables.items():
            _check_rows(fields, model, table, rows)
            name = f"{model}/{table}/"
            tensors |= pack_keys(rows.keys, name + "keys.")
            tensors |= pack_keys(rows.tombstones, name + "tombstones.")
            tensors[name + "rows"] = rows.rows
            if rows.vectors is not None:
                tensors[name + "vectors"] = rows.vectors
            counts[f"{model}/{table}"] = {"rows": len(rows.keys), "tombstones": len(rows.tombstones)}
    if delta.popularity is not None:
        tensors |= delta.popularity.tensors("popularity/")
    if delta.affinities is not None:
        tensors |= delta.affinities.tensors(_AFFINITIES)
    for name, neighbours in delta.channels.items():
        tensors |= neighbours.tensors(_channel(name))
    body = msgspec.to_builtins(fields)
    manifest: dict[str, Any] = {
        "format": "delta",
        "format_version": FORMAT_VERSION,
        "empty": not any(n for count in counts.values() for n in count.values())
        and not any(map(len, delta.channels.values())),
        "counts": counts,
        "created": {"created_ms": body.pop("created_ms")},
        **body,
    }
    if delta.channels:
        manifest["channels"] = {name: {"triggers": len(rows)} for name, rows in delta.channels.items()}
    # previous_sequence 0 may also be the first increment: sequence 1 is both, and is stored as the increment.
    cumulative = is_cumulative(fields.previous_sequence, fields.sequence)
    target = delta_path(root, fields.base, fields.sequence, cumulative)
    return publish(target, {ROWS_FILE: tensors}, manifest)


def is_cumulative(previous_sequence: int, sequence: int) -> bool:
    """Whether a delta holds everything since its base although it is not the first after it."""
    return previous_sequence == 0 and sequence > 1


def open_delta(path: Path, base: str, verify: bool = True) -> Delta:
    """Read a delta of bundle `base`. Raises ArtifactError (file, expected, got) when it cannot be used."""
    artifact = open_artifact(path, verify)
    check_format(artifact, "delta", FORMAT_VERSION)
    manifest = artifact.manifest
    fields = msgspec.convert(
        {**manifest, **manifest.get("created", {})}, DeltaFields, strict=True
    )  # unknown keys of the manifest (files, counts, …) are not fields
    if fields.base != base:
        raise ArtifactError(path / "manifest.json", f"base {base}", f"base {fields.base}")
    cumulative = is_cumulative(fields.previous_sequence, fields.sequence)
    expected = delta_path(Path(), base, fields.sequence, cumulative).name
    if path.name != expected:
        raise ArtifactError(path / "manifest.json", f"the delta {path.name}", f"the delta {expected}")
    tensors = artifact.tensors(ROWS_FILE)
    tables: dict[str, dict[str, TableRows]] = {}
    for name in manifest["counts"]:
        model, table = name.split("/", 1)
        try:
            tables.setdefault(model, {})[table] = TableRows(
                unpack_keys(tensors, f"{name}/keys."),
                tensors[f"{name}/rows"],
                tensors.get(f"{name}/vectors"),
                unpack_keys(tensors, f"{name}/tombstones."),
            )
        except (KeyError, ValueError) as error:
            raise ArtifactError(path / ROWS_FILE, f"the tensors of {name}", str(error)) from error
    popular = PopularityList.from_tensors(tensors, "popularity/") if "popularity/scores" in tensors else None
    channels = {}
    for name in manifest.get("channels", {}):
        try:
            channels[name] = NeighbourRows.from_tensors(tensors, _channel(name))
        except (KeyError, ValueError) as error:
            raise ArtifactError(path / ROWS_FILE, f"the tensors of channel {name}", str(error)) from error
    affinities = None
    if f"{_AFFINITIES}lifts" in tensors:
        try:
            affinities = Affinities.from_tensors(tensors, _AFFINITIES)
        except (KeyError, ValueError) as error:
            raise ArtifactError(path / ROWS_FILE, "affinities", str(error)) from error
    return Delta(fields, tables, popular, channels, affinities)


def _channel(name: str) -> str:
    return f"channels/{name}/"


def _check_rows(fields: DeltaFields, model: str, table: str, rows: TableRows) -> None:
    where = f"delta {fields.base}/{fields.sequence}: {model}/{table}"
    if "/" in model or not model:
        raise ValueError(f"{where}: expected a model name without '/', got {model!r}")
    for name, array in (("rows", rows.rows), ("vectors", rows.vectors)):
        if array is None:
            continue
        if array.ndim != 2 or len(array) != len(rows.keys) or array.dtype != np.float32:
            raise ValueError(
                f"{where}/{name}: expected float32[{len(rows.keys)}, …], got {array.dtype}{array.shape}"
            )
        if not np.isfinite(array).all():
            raise ValueError(f"{where}/{name}: expected finite numbers, got NaN or infinity")
