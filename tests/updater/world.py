"""A small world with a known answer: users of a group buy the items of that group."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from models.index import IndexConfig
from models.learner import CatalogueColumns, ModelConfig
from models.pointer import PointerStore
from models.registry import Registry
from stream.archive import Archive, ArchiveReader
from stream.event import EVENT_SCHEMA
from updater.config import UpdateConfig
from updater.incremental import CatalogueAt, IncrementalUpdater
from updater.retrain import FullRetrain
from updater.state import Recipe

HOUR = 3_600_000
START = 1_700_000_000_000 // HOUR * HOUR
USERS, ITEMS, GROUPS = 60, 80, 4

CONFIG = ModelConfig(
    kind="two_tower", dim=16, id_dim=16, hidden=(32,), history_length=10, batch_size=64,
    batch_size_incremental=32,
    negatives=32, positives=("purchase",), epochs_first=2, own_items=0,
)  # fmt: skip
RECIPE = Recipe({"two_tower": CONFIG}, (), ("purchase",), popularity_half_life_ms=12 * HOUR)
EMPTY = CatalogueColumns()
UPDATE = UpdateConfig(cumulative_every=3, keep_bundles=3, blend_counts=False)


def hour_of_events(
    hour: int, count: int = 40, seed: int = 0, first_offset: int | None = None
) -> pa.RecordBatch:
    """Purchases of one hour of event time after START, spread over two partitions by user; EVENT_SCHEMA."""
    rng = np.random.default_rng([seed, hour])
    ts = np.sort(rng.integers(START + hour * HOUR, START + (hour + 1) * HOUR, count))
    user = rng.integers(0, USERS, count)
    item = rng.integers(0, ITEMS // GROUPS, count) * GROUPS + user % GROUPS
    partition = (user % 2).astype(np.int32)
    offset = np.empty(count, np.int64)
    for p in (0, 1):
        offset[partition == p] = np.arange((partition == p).sum())
    offset += 1000 * hour if first_offset is None else first_offset
    return pa.RecordBatch.from_pydict(
        {
            "event_id": [f"{hour}-{i}" for i in range(count)],
            "ts_ms": ts,
            "user_id": [f"#{u}" for u in user],
            "item_id": [f"i{i}" for i in item],
            "kind": ["purchase"] * count,
            "scene": [""] * count,
            "request_id": [f"r{hour}-{i}" for i in range(count)],
            "value": [1.0] * count,
            "context": [[] for _ in range(count)],
            "incarnation": np.zeros(count, np.int32),
            "partition": partition,
            "offset": offset,
            "ordinal": np.zeros(count, np.int32),
        },
        schema=EVENT_SCHEMA,
    )


class World:
    """An archive, a registry and the jobs over them, in one folder."""

    def __init__(
        self, root: Path, recipe: Recipe = RECIPE, catalogue_at: CatalogueAt = lambda ms: EMPTY
    ) -> None:
        self.root, self.recipe, self.catalogue_at = root, recipe, catalogue_at
        self.archive = Archive(root / "archive", HOUR)
        self.incarnation = self.archive.incarnation("topic")
        self.reader = ArchiveReader(root / "archive")
        self.registry = Registry(root / "registry")
        self.pointer = PointerStore(root / "registry")

    def pass_hours(self, first: int, last: int, count: int = 40) -> None:
        """Append and seal the hours first <= h < last."""
        for hour in range(first, last):
            if count:
                self.archive.append(hour_of_events(hour, count))
            self.archive.seal_through(START + (hour + 1) * HOUR)

    def retrain(self, through_hour: int | None = None, **changes: object) -> str:
        """One full retrain through the end of an hour."""
        through = None if through_hour is None else START + through_hour * HOUR
        job = FullRetrain(
            self.reader, self.registry, self.pointer, self.catalogue_at, self.recipe, IndexConfig(),
            **{"config": UPDATE, "now_ms": lambda: 0, **changes},  # type: ignore[arg-type]
        )  # fmt: skip
        return job.run(through)

    def updater(self) -> IncrementalUpdater:
        """A consumer's updater that was just started."""
        return IncrementalUpdater(
            self.reader,
            self.registry,
            self.pointer,
            self.catalogue_at,
            UPDATE,
            lambda: 0,
        )
