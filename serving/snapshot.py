"""One immutable version of everything a request reads: towers with their ID rows, item indexes,
popularity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pyarrow as pa

from models.arrays import Float32Array
from models.artifact import Artifact
from models.bundle import POPULARITY_FILE
from models.delta import Delta, PopularityList
from models.index import LoadedItems, load_items
from models.item_index import ItemIndex
from models.moments import Moments, one_moment
from serving.errors import SnapshotRefused

ITEM_TABLE = "item"


class TowerConfig(Protocol):
    """What serving reads of a model's configuration."""

    @property
    def positives(self) -> tuple[str, ...]:
        """Kinds of events that make up the model's history."""
        ...

    @property
    def history_length(self) -> int:
        """Newest history items the tower reads."""
        ...


class UserTower(Protocol):
    """A recall model as it is served (models.published.PublishedModel)."""

    @property
    def config(self) -> TowerConfig:
        """The model's configuration."""
        ...

    def user_vectors(self, moments: Moments) -> Float32Array:
        """float32[N, D] of the moments; never mutates."""
        ...

    def with_rows(
        self,
        rows: Mapping[str, tuple[pa.Array, Float32Array]],
        tombstones: Mapping[str, pa.Array] | None = None,
    ) -> UserTower:
        """The same model with changed rows."""
        ...


LoadTower = Callable[[Artifact, str], UserTower]


@dataclass(frozen=True)
class Channel:
    """One recall model: its user tower and its items."""

    tower: UserTower
    items: ItemIndex


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What one request reads, all of one version: bundle, deltas up to `delta`, data up to `watermark_ms`."""

    bundle: str
    delta: int
    watermark_ms: int
    catalogue: int
    schema_hash: str
    channels: Mapping[str, Channel]
    popularity: PopularityList
    popular_keys: Sequence[str]
    popular_scores: Sequence[float]

    @classmethod
    def load(cls, bundle: Artifact, load_tower: LoadTower, names: Sequence[str] = ()) -> Snapshot:
        """From a verified bundle; `names` picks and orders models (empty = all).

        Raises SnapshotRefused when a golden query or the tower answers wrongly.
        """
        manifest = bundle.manifest
        missing = [name for name in names if name not in manifest["models"]]
        if missing:
            raise SnapshotRefused(
                f"bundle {manifest_id(bundle)}: expected models {', '.join(names)}, got "
                f"{', '.join(manifest['models'])}; change `models` of the serving configuration"
            )
        channels = {}
        for name in names or sorted(manifest["models"]):
            loaded = load_items(bundle, name)
            items = ItemIndex.over(loaded.keys, loaded.base)
            _check_golden(manifest_id(bundle), name, loaded, items)
            channels[name] = Channel(load_tower(bundle, name), items)
        popularity = PopularityList()
        if bundle.has(POPULARITY_FILE):
            popularity = PopularityList.from_tensors(bundle.tensors(POPULARITY_FILE))
        snapshot = cls(
            manifest_id(bundle),
            0,
            manifest["watermark_ms"],
            manifest["catalogue_sequence"],
            manifest["schema_hash"],
            channels,
            popularity,
            popularity.keys.to_pylist(),
            popularity.scores.tolist(),
        )
        snapshot.warm()
        return snapshot

    def with_delta(self, delta: Delta) -> Snapshot:
        """The next snapshot, one delta further; shares everything that did not change.

        Raises SnapshotRefused for another base, a gap in the sequence, another feature schema or a wrong
        shape.
        """
        fields = delta.fields
        where = f"delta {fields.base}/{fields.sequence}"
        if fields.base != self.bundle:
            raise SnapshotRefused(f"{where}: expected base {self.bundle}, got {fields.base}")
        if fields.previous_sequence not in (0, self.delta) or fields.sequence <= self.delta:
            raise SnapshotRefused(
                f"{where}: expected to follow sequence {self.delta}, got previous sequence "
                f"{fields.previous_sequence}; fetch the chain from {self.delta} or a cumulative delta"
            )
        if fields.schema_hash != self.schema_hash:
            raise SnapshotRefused(f"{where}: expected schema {self.schema_hash}, got {fields.schema_hash}")
        channels = dict(self.channels)
        for model, tables in delta.tables.items():
            if model not in channels:
                continue  # a model of the bundle that this server does not serve
            channel = channels[model]
            try:
                tower = channel.tower.with_rows(
                    {name: (rows.keys, rows.rows) for name, rows in tables.items() if len(rows.keys)},
                    {name: rows.tombstones for name, rows in tables.items() if len(rows.tombstones)},
                )
                items = channel.items
                if ITEM_TABLE in tables:
                    rows = tables[ITEM_TABLE]
                    vectors = np.empty((0, items.dim), np.float32) if rows.vectors is None else rows.vectors
                    keys = rows.keys if rows.vectors is not None else rows.keys[:0]
                    items = items.with_changes(keys, vectors, rows.tombstones)
            except (ValueError, KeyError) as error:
                raise SnapshotRefused(f"{where}: {model}: {error}") from error
            channels[model] = Channel(tower, items)
        popularity = delta.popularity or self.popularity
        return replace(
            self,
            delta=fields.sequence,
            watermark_ms=fields.watermark_ms,
            channels=channels,
            popularity=popularity,
            popular_keys=popularity.keys.to_pylist(),
            popular_scores=popularity.scores.tolist(),
        )

    def warm(self) -> None:
        """Touch what the first request would touch, and refuse a tower whose vectors do not fit its items."""
        for name, channel in self.channels.items():
            u_BD = channel.tower.user_vectors(one_moment("", self.watermark_ms, []))
            if u_BD.shape != (1, channel.items.dim) or not np.isfinite(u_BD).all():
                raise SnapshotRefused(
                    f"{self.bundle}/{self.delta}: {name}: expected finite user vectors of width "
                    f"{channel.items.dim}, got shape {u_BD.shape}, finite: {bool(np.isfinite(u_BD).all())}"
                )
            channel.items.search(u_BD, 10, [np.arange(min(1, len(channel.items.base)))])
            channel.items.lookup(pa.array(["", "#1"], pa.string()))


def manifest_id(bundle: Artifact) -> str:
    """Id of an opened bundle: the name of its directory, which is checked against its content at opening."""
    return bundle.root.name


def _check_golden(bundle: str, name: str, loaded: LoadedItems, items: ItemIndex) -> None:
    """The loaded index must find what the builder found exactly: the best score of (nearly) every golden
    query.
    """
    queries, expected = loaded.golden_queries, loaded.golden_scores
    if not expected.size:
        return
    scores, _ = items.search(queries, expected.shape[1])
    close = np.isclose(scores[:, 0], expected[:, 0], rtol=1e-4, atol=1e-5)
    wanted = 1.0 if loaded.base.kind == "exact" else 0.5
    if close.mean() < wanted:
        at = int(np.argmin(close))
        raise SnapshotRefused(
            f"bundle {bundle}: {name}: golden query {at}: expected best score {expected[at, 0]}, "
            f"got {scores[at, 0]}"
        )
