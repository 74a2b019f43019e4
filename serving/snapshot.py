"""One immutable version of everything a request reads: towers with their ID rows, item indexes, neighbours
of items, popularity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.affinities import Affinities
from models.arrays import Tensors
from models.artifact import Artifact, ArtifactError
from models.blend import Blend
from models.bundle import (
    AFFINITIES_FILE,
    BLEND_FILE,
    POPULARITY_FILE,
    PRERANK_FILE,
    PRERANK_GATE,
    neighbours_file,
)
from models.delta import Delta, PopularityList
from models.index import LoadedItems, load_items
from models.item_index import ItemIndex
from models.item_to_item import ItemToItemConfig
from models.items_json import items_json
from models.moments import one_moment
from models.neighbour_rows import NeighbourRows
from models.neighbours import Neighbours
from models.prerank import Prerank
from models.retrieve import retrieve
from serving.attributes import ItemAttributes
from serving.channels.same import ByValue
from serving.eligible import Eligible
from serving.errors import SnapshotRefused
from serving.filters import AttributeRules
from serving.fresh import NO_ATTRIBUTES, CatalogueReader, Fresh
from serving.stages import ServedRanker
from serving.tower_contract import LoadTower, ModelConfig, UserTower

ITEM_TABLE = "item"
_Part = TypeVar("_Part")


@dataclass(frozen=True)
class Channel:
    """One recall model: its user tower and its items."""

    tower: UserTower
    items: ItemIndex

    @property
    def config(self) -> ModelConfig:
        """Configuration of the model."""
        return self.tower.config


@dataclass(frozen=True)
class NeighbourChannel:
    """One item-to-item channel: whose history it asks for, and the neighbours of every trigger."""

    config: ItemToItemConfig
    items: Neighbours

    @classmethod
    def load(cls, bundle: Artifact, name: str) -> NeighbourChannel:
        """The channel `name` of a bundle. Raises ArtifactError when its rows cannot be used."""
        config = ItemToItemConfig.model_validate(bundle.manifest["channels"][name]["config"])
        file = neighbours_file(name)
        try:
            rows = NeighbourRows.from_tensors(bundle.tensors(file))
        except (KeyError, ValueError) as error:
            raise ArtifactError(bundle.path(file), "rows of neighbours", str(error)) from error
        return cls(config, Neighbours.over(rows, config.recency_half_life_h * 3_600_000))


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What one request reads, all of one version: bundle, deltas up to `delta`, data up to `watermark_ms`.

    names: the recall models (`channels`) and item-to-item channels (`neighbours`) in the order in which they
    are merged. blend: how their scores are added up, None while the bundle has none; prerank: the network
    over it, None also where it did worse than the blend; affinities: what it reads of who asks. fresh: what
    the catalogue brought since. rankers: of the bundle, by name. attributes: of items, as of the catalogue;
    by_value, eligible: what was worked out from them and is needed again.
    """

    bundle: str
    delta: int
    watermark_ms: int
    catalogue: int
    schema_hash: str
    names: Sequence[str]
    channels: Mapping[str, Channel]
    neighbours: Mapping[str, NeighbourChannel]
    popularity: PopularityList
    popular_keys: Sequence[str]
    popular_scores: Sequence[float]
    blend: Blend | None = None
    prerank: Prerank | None = None
    affinities: Affinities = field(default_factory=Affinities)
    fresh: Fresh = field(default_factory=Fresh)
    rankers: Mapping[str, ServedRanker] = field(default_factory=dict)
    attributes: ItemAttributes = field(default_factory=ItemAttributes)
    by_value: dict[str, ByValue] = field(default_factory=dict, repr=False)
    eligible: dict[tuple[int, ...], tuple[Sequence[AttributeRules], Eligible]] = field(
        default_factory=dict, init=False, repr=False
    )

    @cached_property
    def history_kinds(self) -> frozenset[str]:
        """Kinds of events that make up the history of any model or item-to-item channel."""
        configs = [(self.channels.get(name) or self.neighbours[name]).config for name in self.names]
        return frozenset(kind for config in configs for kind in config.positives)

    @classmethod
    def load(
        cls,
        bundle: Artifact,
        load_tower: LoadTower,
        names: Sequence[str] = (),
        rankers: Sequence[str] = (),
    ) -> Snapshot:
        """From a verified bundle; `names` picks and orders models and item-to-item channels (empty = all, the
        models first), `rankers` those of the stages; one that the bundle does not have yet is left out.

        Raises SnapshotRefused when a golden query or the tower answers wrongly.
        """
        manifest = bundle.manifest
        item_to_item = manifest.get("channels", {})
        held = [*sorted(manifest["models"]), *sorted(item_to_item)]
        if not set(names) <= set(held):
            raise SnapshotRefused(
                f"bundle {manifest_id(bundle)}: expected models {', '.join(names)}, got "
                f"{', '.join(held)}; change `models` of the serving configuration"
            )
        names = names or held
        channels = {}
        for name in names:
            if name in item_to_item:
                continue
            loaded = load_items(bundle, name)
            items = ItemIndex.over(loaded.keys, loaded.base)
            _check_golden(manifest_id(bundle), name, loaded, items)
            channels[name] = Channel(load_tower(bundle, name), items)
        neighbours = {name: NeighbourChannel.load(bundle, name) for name in names if name in item_to_item}
        held_rankers = manifest.get("rankers", {})
        proved = manifest.get("gates", {}).get(PRERANK_GATE, {}).get("passed", False)
        popularity = PopularityList()
        if bundle.has(POPULARITY_FILE):
            popularity = PopularityList.from_tensors(bundle.tensors(POPULARITY_FILE))
        snapshot = cls(
            manifest_id(bundle),
            0,
            manifest["watermark_ms"],
            manifest["catalogue_sequence"],
            manifest["schema_hash"],
            names,
            channels,
            neighbours,
            popularity,
            popularity.keys.to_pylist(),
            popularity.scores.tolist(),
            _part_of(bundle, BLEND_FILE, Blend.from_tensors, "weights of a blend"),
            _part_of(bundle, PRERANK_FILE, Prerank.from_tensors, "a pre-rank network") if proved else None,
            _part_of(bundle, AFFINITIES_FILE, Affinities.from_tensors, "affinities") or Affinities(),
            rankers={name: ServedRanker.load(bundle, name) for name in rankers if name in held_rankers},
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
        neighbours = {
            name: replace(channel, items=channel.items.with_rows(delta.channels[name]))
            if name in delta.channels
            else channel
            for name, channel in self.neighbours.items()
        }
        popularity = delta.popularity or self.popularity
        return replace(
            self,
            delta=fields.sequence,
            watermark_ms=fields.watermark_ms,
            channels=channels,
            neighbours=neighbours,
            popularity=popularity,
            popular_keys=popularity.keys.to_pylist(),
            popular_scores=popularity.scores.tolist(),
            affinities=delta.affinities or self.affinities,
        )

    def with_catalogue(self, reader: CatalogueReader, fresh_ms: int, now_ms: int) -> Snapshot:
        """The next snapshot, as the catalogue is now: new items searchable, deleted ones gone.

        fresh_ms: how long an item is new; now_ms: event time. Items that the version has stay as it has them.
        """
        changes, read = reader.item_changes(self.fresh.read)
        if read == self.fresh.read:
            return self
        fresh = self.fresh.with_changes(changes, read, now_ms - fresh_ms)
        gone = changes["item_id"].combine_chunks().filter(changes["deleted"].combine_chunks())
        new = changes.filter(pc.is_in(changes["item_id"], fresh.keys))
        keys = new["item_id"].combine_chunks()
        attributes = {
            name: new[name].combine_chunks() for name in new.column_names if name not in NO_ATTRIBUTES
        }
        channels = {}
        for name, channel in self.channels.items():
            wanted = (
                channel.items.lookup(keys) < 0 if channel.config.has_item_tower else np.zeros(len(keys), bool)
            )
            mask = pa.array(wanted)
            own = {column: values.filter(mask) for column, values in attributes.items()}
            vectors = np.empty((0, channel.items.dim), np.float32)
            if wanted.any():
                vectors = channel.tower.item_vectors(keys.filter(mask), own)
            channels[name] = Channel(
                channel.tower, channel.items.with_changes(keys.filter(mask), vectors, gone)
            )
        return replace(self, channels=channels, fresh=fresh, catalogue=max(self.catalogue, reader.sequence()))

    def warm(self) -> None:
        """Touch what the first request would touch, and refuse a tower whose vectors do not fit its items."""
        for name, channel in self.channels.items():
            queries = channel.tower.queries(one_moment("", self.watermark_ms, [("#1", self.watermark_ms)]))
            u_BVW = queries.vectors
            if len(u_BVW) != 1 or u_BVW.shape[2] != channel.items.dim or not np.isfinite(u_BVW).all():
                raise SnapshotRefused(
                    f"{self.bundle}/{self.delta}: {name}: expected finite user vectors of width "
                    f"{channel.items.dim}, got shape {u_BVW.shape}, finite: {bool(np.isfinite(u_BVW).all())}"
                )
            scores, places = retrieve(
                queries, channel.items, 10, [np.arange(min(1, len(channel.items.base)))]
            )
            there = places[0] >= 0
            channel.items.keys_of(places[0, there])
            items_json(channel.items, places[:, there], scores[:, there], name)
            channel.items.lookup(pa.array(["", "#1"], pa.string()))
        for neighbours in self.neighbours.values():
            neighbours.items.search(one_moment("", self.watermark_ms, [("#1", self.watermark_ms)]), 10)


def _part_of(bundle: Artifact, file: str, parse: Callable[[Tensors], _Part], what: str) -> _Part | None:
    """A part that a bundle need not have. Raises ArtifactError when it cannot be used."""
    if not bundle.has(file):
        return None
    try:
        return parse(bundle.tensors(file))
    except (KeyError, ValueError) as error:
        raise ArtifactError(bundle.path(file), what, str(error)) from error


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
