"""Hot swap: follow the pointer, load the new version beside the old one, check it, replace one reference.

Whatever is wrong with a new version, the old one keeps serving: damaged deltas are gone around through the
chain or a cumulative one, what cannot be loaded is refused, counted, and tried again later.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace

from models.artifact import ArtifactError
from models.index import set_search_threads
from models.pacing import paced
from models.pointer import Pointer, PointerStore
from models.registry import DeltaRef, MissingDelta, Registry
from serving.attributes import ItemAttributes
from serving.channels.of_snapshot import sources_of
from serving.config import ServingConfig
from serving.eligible import eligible, forget
from serving.errors import SnapshotRefused
from serving.fresh import CatalogueReader
from serving.give_back import give_back
from serving.live_counts import LiveCounts
from serving.metrics import ServingMetrics
from serving.popular_now import PopularNow
from serving.snapshot import Snapshot
from serving.tower_contract import LoadTower

_LOG = logging.getLogger(__name__)
_DAY_MS = 86_400_000


class Served:
    """The references that requests read, once each. popular, counts: None where they are not followed."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        self.popular: PopularNow | None = None
        self.counts: LiveCounts | None = None

    def take_popular(self, popular: PopularNow) -> None:
        """Serve a newer reading."""
        self.popular = popular

    def take_counts(self, counts: LiveCounts) -> None:
        """Serve a newer reading."""
        self.counts = counts


class Swapper:
    """Brings `served` to where the pointer points. One thread calls `follow` (or `step` in tests)."""

    def __init__(
        self,
        registry: Registry,
        pointer: PointerStore,
        served: Served,
        config: ServingConfig,
        load_tower: LoadTower,
        metrics: ServingMetrics,
        clock_s: Callable[[], float] = time.time,
        catalogue: CatalogueReader | None = None,
    ) -> None:
        self.registry, self.pointer, self.served, self.config = registry, pointer, served, config
        self.load_tower, self.metrics, self.clock_s = load_tower, metrics, clock_s
        self.catalogue = catalogue
        self.attributes = ItemAttributes.named(config.attributes)
        self.last_refusal = ""
        self._left: list[weakref.ref[Snapshot]] = []
        self._refused: tuple[str, int] | None = None
        self._retry_at_s = 0.0

    def follow(self, stop: threading.Event) -> None:
        """Follow the pointer until `stop`: by its notices, and by reading it every `poll_interval_s`."""
        set_search_threads(self.config.threads)
        with self.pointer.notices() as notices:
            while not stop.is_set():
                if self.step():
                    give_back()
                self.follow_catalogue()
                notices.wait(self.config.poll_interval_s, stop)

    def step(self) -> bool:
        """Look at the pointer once; True when a new version was swapped in. Never raises for a bad
        version.
        """
        self._forget_left()
        try:
            pointer = self.pointer.get()
        except (ValueError, OSError) as error:
            self._refuse(None, error)
            return False
        current = self.served.snapshot
        if pointer is None or (
            current and (current.bundle, current.delta) == (pointer.bundle, pointer.delta)
        ):
            return False
        if self._refused == (pointer.bundle, pointer.delta) and self.clock_s() < self._retry_at_s:
            return False
        began = time.perf_counter()
        try:
            with paced(self.config.loading_share) if current else contextlib.nullcontext():
                snapshot = self.load(pointer, current)
        except (
            Exception
        ) as error:  # whatever is wrong with a version, the watcher lives on and the old one serves
            self._refuse(pointer, error)
            return False
        self._serve(self._with_catalogue(snapshot))
        self._refused, self.last_refusal = None, ""
        self._count(snapshot, current, time.perf_counter() - began)
        return True

    def follow_catalogue(self) -> bool:
        """Bring the served snapshot to what the catalogue says now; True when something changed."""
        current = self.served.snapshot
        if current is None:
            return False
        self._serve(self._with_catalogue(current))
        return self.served.snapshot is not current

    def _forget_left(self) -> None:
        """Once more: the requests that still read a version then may have left something again."""
        while self._left:
            if snapshot := self._left.pop()():
                forget(snapshot)

    def _serve(self, snapshot: Snapshot) -> None:
        before, self.served.snapshot = self.served.snapshot, snapshot
        if before is not None and before is not snapshot:
            forget(before)
            self._left.append(weakref.ref(before))

    def _with_catalogue(self, snapshot: Snapshot) -> Snapshot:
        """A catalogue that cannot be read, or an item that cannot be encoded, holds up no version."""
        if self.catalogue is None:
            return snapshot
        for follow in (self._with_attributes, self._with_new_items, self._prepared):
            try:
                snapshot = follow(snapshot, self.catalogue)
            except Exception as error:
                self.metrics.refused.labels("catalogue").inc()
                _LOG.error("the catalogue is not followed: %s: %s", type(error).__name__, error)
        self.metrics.fresh.set(len(snapshot.fresh.keys))
        return snapshot

    def _with_attributes(self, snapshot: Snapshot, catalogue: CatalogueReader) -> Snapshot:
        if not self.config.attributes:
            return snapshot
        self.attributes = self.attributes.following(catalogue)
        if snapshot.attributes is self.attributes:
            return snapshot
        known = max(snapshot.catalogue, catalogue.sequence())
        return replace(snapshot, attributes=self.attributes, catalogue=known)

    def _with_new_items(self, snapshot: Snapshot, catalogue: CatalogueReader) -> Snapshot:
        if not self.config.fresh_days:
            return snapshot
        now_ms = snapshot.watermark_ms if self.config.clock == "event" else int(1000 * self.clock_s())
        return snapshot.with_catalogue(catalogue, round(self.config.fresh_days * _DAY_MS), now_ms)

    def _prepared(self, snapshot: Snapshot, _: CatalogueReader) -> Snapshot:
        """With everything worked out that requests would wait for."""
        if not snapshot.eligible:
            for scene in ("", *self.config.scenes):
                sources_of(eligible(snapshot, self.config.rules(scene)), self.config, {})
        return snapshot

    def load(self, pointer: Pointer, current: Snapshot | None = None) -> Snapshot:
        """The snapshot a pointer names, from `current` where that shortens the way."""
        start = current
        if current and (current.bundle != pointer.bundle or current.delta > pointer.delta):
            start = None
        damaged: set[DeltaRef] = set()
        while True:
            snapshot = start or self._load_bundle(pointer.bundle)
            try:
                chain = self.registry.chain(pointer.bundle, snapshot.delta, pointer.delta, damaged)
            except MissingDelta:
                if start is None:
                    raise
                # No way on from here; perhaps there is one from the bundle.
                start = None
                self.metrics.recovered.inc()
                continue
            applied = 0
            for ref in chain:
                try:
                    snapshot = snapshot.with_delta(self.registry.open_delta(ref))
                    applied += 1
                except (ArtifactError, SnapshotRefused) as error:
                    _LOG.error("delta refused, looking for another way: %s", error)
                    self.metrics.refused.labels("delta").inc()
                    self.last_refusal = str(error)
                    damaged.add(ref)
                    break
            else:
                if damaged:
                    self.metrics.recovered.inc()
                snapshot.warm()
                self.metrics.deltas.inc(applied)
                return snapshot

    def _load_bundle(self, bundle: str) -> Snapshot:
        opened = self.registry.open_bundle(bundle, verify="as_read")  # most of it is for training only
        return Snapshot.load(opened, self.load_tower, self.config.models, self.config.rankers)

    def _refuse(self, pointer: Pointer | None, error: Exception) -> None:
        self.last_refusal = str(error)
        self.metrics.refused.labels("pointer" if pointer is None else "version").inc()
        if pointer:
            self._refused = (pointer.bundle, pointer.delta)
            self._retry_at_s = self.clock_s() + self.config.retry_interval_s
        name = f"{pointer.bundle}/{pointer.delta}" if pointer else "the pointer"
        _LOG.error("%s refused, the old snapshot keeps serving: %s: %s", name, type(error).__name__, error)

    def _count(self, snapshot: Snapshot, before: Snapshot | None, seconds: float) -> None:
        if before is None or before.bundle != snapshot.bundle:
            self.metrics.bundles.inc()
        self.metrics.swap_seconds.observe(seconds)
        self.metrics.watermark_ms.set(snapshot.watermark_ms)
        self.metrics.delta.set(snapshot.delta)
        self.metrics.loaded_ms.set(self.clock_s() * 1000)
        _LOG.info("serving %s/%d after %.3f s", snapshot.bundle, snapshot.delta, seconds)
