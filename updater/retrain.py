"""The daily full retrain: warm start from yesterday's full model, one epoch over the whole shuffled day, a
new bundle.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.affinity_counts import AffinityCounts
from models.artifact import Content
from models.bundle import BLEND_FILE, PRERANK_FILE, PRERANK_GATE, BundleFields
from models.half_rows import half_rows
from models.index import IndexConfig, item_files
from models.pointer import Pointer, PointerStore, StalePointer
from models.registry import Registry
from stream.archive import ArchiveReader, Seal
from updater.blend import BlendRefit
from updater.config import UpdateConfig
from updater.gates import check_model, check_prerank
from updater.incremental import CatalogueAt
from updater.item_channels import COLUMNS, ItemChannels
from updater.rankers import RankerRetrain, TrainedRankers
from updater.request_signals import COLUMNS as COLUMNS_OF_SIGNALS
from updater.request_signals import HORIZON_MS, RequestSignals
from updater.sample_order import Shuffled
from updater.state import Progress, Recipe, Stretch, Trained, TrainingState, ask_nobody

log = logging.getLogger(__name__)


class NothingToTrain(RuntimeError):
    """The archive holds no sealed events that the parent bundle has not consumed."""


@dataclass(frozen=True)
class Provenance:
    """Where a bundle comes from: git revision and library versions, for its manifest."""

    git: str = ""
    versions: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class FullRetrain:
    """One full retrain is one call of `run`; nothing is kept between calls."""

    archive: ArchiveReader
    registry: Registry
    pointer: PointerStore
    catalogue_at: CatalogueAt
    recipe: Recipe
    index: IndexConfig
    config: UpdateConfig
    provenance: Provenance = Provenance()
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    rankers: RankerRetrain | None = None

    def run(self, through_ms: int | None = None, progress: Progress = lambda what, done, of: None) -> str:
        """Train on every interval after the parent's watermark up to `through_ms` (None = all sealed);
        returns the bundle id.

        The first run starts from scratch over all the history that is kept. Raises NothingToTrain,
        RecipeChanged, GateFailed, or EventsRemoved where the archive no longer holds what the parent has not
        seen, with the old version left as it is.
        """
        bundle = self.registry.newest_whole()
        seals = [s for s in self.archive.seals() if through_ms is None or s.interval_end_ms <= through_ms]
        if bundle is None:
            state, watermark_ms = TrainingState.fresh(self.recipe), None
        else:
            state, watermark_ms = TrainingState.warm(bundle, self.recipe), bundle.manifest["watermark_ms"]
        if not seals or (watermark_ms is not None and seals[-1].interval_end_ms <= watermark_ms):
            raise NothingToTrain(
                f"archive {self.archive.root}: expected sealed intervals after {watermark_ms}, got none"
                f"{'' if through_ms is None else f' up to {through_ms}'}; replay or wait for events"
            )
        last = seals[-1]
        progress("read", 0, 1)
        begin_ms = self.archive.removed_through_ms() if watermark_ms is None else watermark_ms
        if watermark_ms is None and begin_ms is not None:
            log.warning("%s: events up to %d were removed; training on the rest", self.archive.root, begin_ms)
        if state.channels.new and watermark_ms is not None:
            self._catch_up(state.channels, watermark_ms)
        events = self.archive.read(watermark_ms, last.interval_end_ms)
        stretches = self._stretches(
            events, [seal for seal in seals if seal.interval_end_ms > (begin_ms or 0)]
        )
        blend = None
        if bundle is not None and self.config.blend_targets:
            blend = BlendRefit(
                bundle, self.recipe.positives, self.recipe.channels, self.config.blend_targets, last.sequence,
                self._signals(watermark_ms, last, state, stretches) if self.config.counts_items else None,
                self.config.blends_counts, self.config.prerank,
            )  # fmt: skip
        trained = state.retrain(
            stretches,
            last.interval_end_ms,
            Shuffled(self.config.seed, last.sequence),
            first=bundle is None,
            queries=self.index.tuning_queries,
            progress=progress,
            before=blend.ask if blend else ask_nobody,
        )
        saved = state.files()
        files: dict[str, Content] = dict(saved)
        if self.config.rows_precision == "float16":
            for name in state.learners:
                files |= half_rows(name, saved)
        gates: dict[str, Any] = {}
        if blend:
            fitted = blend.fitted()
            if fitted.blend:
                files[BLEND_FILE] = fitted.blend.tensors()
            if fitted.prerank:
                files[PRERANK_FILE] = fitted.prerank.tensors()
                gates[PRERANK_GATE] = check_prerank(fitted.gate, bundle)
        catalogue = stretches[-1][1]
        rankers = TrainedRankers()
        if self.rankers:
            items = pc.unique(
                pa.chunked_array([learner.item_vectors()[0] for learner in state.learners.values()])
            )
            rankers = self.rankers.run(bundle, last.interval_end_ms, catalogue, items, progress)
        parent = bundle.root.name if bundle else ""
        return self._publish(
            state,
            files | rankers.files,
            rankers.entries,
            gates,
            trained,
            parent,
            last,
            catalogue.sequence,
            progress,
        )

    def _catch_up(self, channels: ItemChannels, watermark_ms: int) -> None:
        """Show new channels what came before, as far as it is kept."""
        removed_ms = self.archive.removed_through_ms()
        if removed_ms is not None:
            log.warning(
                "%s: events up to %d were removed; channels %s begin there",
                self.archive.root, removed_ms, ", ".join(channels.new),
            )  # fmt: skip
        channels.catch_up(self.archive.read(None, watermark_ms, COLUMNS))

    def _signals(
        self, watermark_ms: int | None, last: Seal, state: TrainingState, stretches: list[Stretch]
    ) -> RequestSignals:
        """What was known of items during the stretch; state: as it is before."""
        removed_ms = self.archive.removed_through_ms()
        since_ms = removed_ms if watermark_ms is None else watermark_ms - HORIZON_MS
        if removed_ms is not None and since_ms is not None and since_ms < removed_ms:
            log.warning("%s: live counts begin at %d, where the archive does", self.archive.root, removed_ms)
            since_ms = removed_ms
        events = self.archive.read(since_ms, last.interval_end_ms, COLUMNS_OF_SIGNALS)
        affinities = AffinityCounts.from_state(state.affinities.state())  # of its own: these are moved on
        return RequestSignals(events, self.recipe.positives, affinities, stretches)

    def _stretches(self, events: pa.Table, seals: list[Seal]) -> list[Stretch]:
        """The events, cut where the catalogue changed between two intervals, with the catalogue of each
        stretch.

        So attributes are as of the event's interval, as in the hourly updates, and never from its future.
        """
        ends = events["interval_end_ms"].to_numpy()
        stretches: list[Stretch] = []
        begin = 0
        current = self.catalogue_at(seals[0].interval_end_ms)
        for seal in seals[1:]:
            following = self.catalogue_at(seal.interval_end_ms)
            if following is not current:
                stop = int(np.searchsorted(ends, seal.interval_end_ms))
                stretches.append((events.slice(begin, stop - begin), current))
                begin, current = stop, following
        return [*stretches, (events.slice(begin), current)]

    def _publish(
        self,
        state: TrainingState,
        files: dict[str, Content],
        rankers: dict[str, dict[str, Any]],
        gates: dict[str, Any],
        trained: dict[str, Trained],
        parent: str,
        last: Seal,
        catalogue_sequence: int,
        progress: Progress,
    ) -> str:
        models, half = {}, self.config.rows_precision == "float16"
        for place, (name, learner) in enumerate(state.learners.items()):
            progress("index", place, len(trained))
            keys, vectors = learner.item_vectors()
            indexed, report = item_files(name, keys, vectors, self.index, trained[name].queries, half)
            gates[name] = check_model(name, trained[name].loss, vectors, report)
            files |= indexed
            models[name] = {**learner.describe(), "index": report}
            if half:
                models[name]["rows"] = self.config.rows_precision
        neighbours, channels = state.channels.published()
        files |= neighbours
        progress("publish", 0, 1)
        fields = BundleFields(
            watermark_ms=last.interval_end_ms,
            models=models,
            channels=channels,
            rankers=rankers,
            parent=parent,
            positions=last.positions,
            seal_sequence=last.sequence,
            catalogue_sequence=catalogue_sequence,
            schema_hash=self.recipe.schema_hash,
            gates=gates,
            git=self.provenance.git,
            versions=dict(self.provenance.versions),
            created_ms=self.now_ms(),
        )
        bundle_id = self.registry.publish_bundle(files, fields)
        if self.pointer.get() is None or not self.config.incremental:
            # Nothing is served yet, or nobody else moves the pointer. Otherwise it moves with the catch-up
            # delta.
            # An updater that caught up in the meantime has moved it further already.
            with contextlib.suppress(StalePointer):
                self.pointer.set(Pointer(bundle=bundle_id, delta=0, watermark_ms=last.interval_end_ms))
        self.registry.prune(self.config.keep_bundles)
        progress("publish", 1, 1)
        log.info("published bundle %s: gates %s", bundle_id, gates)
        return bundle_id
