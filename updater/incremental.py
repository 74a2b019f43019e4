"""Hourly updates: gradient steps on ID rows only, in the archive's order, published as deltas of the newest
bundle.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from models.artifact import ArtifactError
from models.delta import Delta, DeltaFields
from models.learner import CatalogueColumns
from models.pointer import Pointer, PointerStore, StalePointer
from models.registry import Registry
from stream.archive import ArchiveReader, Seal
from updater.changes import Changes, merged
from updater.config import UpdateConfig
from updater.item_channels import Rows, merged_rows
from updater.state import TrainingState

log = logging.getLogger(__name__)

RETRY_S = 5.0
"""Pause after an error: rebuilding from the bundle costs, and a full disk stays full for a while."""

CatalogueAt = Callable[[int], CatalogueColumns]
"""The catalogue as of an event time, ms."""


class IncrementalUpdater:
    """Follows the archive's seals on top of the newest bundle.

    The state after an interval is a function of (bundle, recorded seals, archived events): a killed updater
    starts from
    the bundle again, replays, and goes on publishing after the last delta that is already there.
    Exactly one updater may run per registry.
    """

    def __init__(
        self,
        archive: ArchiveReader,
        registry: Registry,
        pointer: PointerStore,
        catalogue_at: CatalogueAt,
        config: UpdateConfig,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._archive = archive
        self._registry = registry
        self._pointer = pointer
        self._catalogue_at = catalogue_at
        self._config = config
        self._now_ms = now_ms
        self.base: str | None = None
        self.state: TrainingState | None = None
        self._schema_hash = ""
        self._refused: set[str] = set()
        self._told_idle: set[str] = set()
        self._watermark_ms = 0
        self._sequence = 0
        self._since_base: Changes = {}
        self._rows_since_base: Rows = {}

    def run(self, stop: threading.Event) -> None:
        """Advance until `stop` is set. An error is logged and tried again: the served version stays
        meanwhile.
        """
        while not stop.is_set():
            try:
                if not self.advance():
                    stop.wait(self._config.poll_s)
            except Exception:
                log.exception("incremental update failed at %s; starting again from the bundle", self.base)
                self.base = None  # whatever was half done is rebuilt from durable files
                stop.wait(RETRY_S)

    def advance(self) -> bool:
        """Take in what is new: the newest bundle, then every interval sealed since; False: nothing was."""
        newest = next((b for b in reversed(self._registry.bundles()) if b not in self._refused), None)
        if newest is None:
            return False
        if newest != self.base:
            self._hand_over(newest)
            return True
        seals = self._unread_seals()
        for seal in seals:
            self._step(seal)
            self._publish(seal, previous=self._sequence - 1)
            if self._sequence > 1 and self._sequence % self._config.cumulative_every == 0:
                self._publish(seal, previous=0)
            self._move_pointer()
        return bool(seals)

    def _hand_over(self, bundle_id: str) -> None:
        """Start from a new bundle at its data watermark and catch up; the pointer moves with the catch-up
        delta.
        """
        try:
            bundle = self._registry.open_bundle(bundle_id)
            self.state = TrainingState.load(bundle)
        except ArtifactError as error:
            # Published files never change, so it stays refused; deltas of the present base go on.
            log.error("bundle %s is passed over: %s", bundle_id, error)
            self._refused.add(bundle_id)
            return
        self._tell_idle(self.state)
        self.base = bundle_id
        self._schema_hash = bundle.manifest["schema_hash"]
        self._watermark_ms = bundle.manifest["watermark_ms"]
        self._sequence = 0
        self._since_base, self._rows_since_base = {}, {}
        published = max((ref.sequence for ref in self._registry.deltas(bundle_id)), default=0)
        seals = self._unread_seals()
        for seal in seals:
            self._step(seal)
        if self._sequence > published:
            self._publish(seals[-1], previous=0)
        log.info("hand-over to %s: caught up %d intervals", bundle_id, self._sequence)
        self._move_pointer()

    def _tell_idle(self, state: TrainingState) -> None:
        """Say once of every model that its steps could as well be left out."""
        for name, learner in state.learners.items():
            if name not in self._told_idle and not learner.config.moving_tables:
                self._told_idle.add(name)
                log.warning(
                    "model %s: hourly steps change none of its answers: it has no user row, and "
                    "published_tables are %s; add item to its trained_tables and published_tables",
                    name,
                    ", ".join(learner.config.published_tables) or "none",
                )

    def _unread_seals(self) -> list[Seal]:
        return [seal for seal in self._archive.seals() if seal.interval_end_ms > self._watermark_ms]

    def _step(self, seal: Seal) -> None:
        """Train one interval."""
        state = self.state
        if state is None:
            raise RuntimeError(
                "incremental updater: expected a state from a bundle, got none; call advance()"
            )
        events = self._archive.read(self._watermark_ms, seal.interval_end_ms)
        catalogue = self._catalogue_at(seal.interval_end_ms)
        changes = state.advance(events, catalogue, seal.interval_end_ms)
        rows = state.channels.take_changes()
        self._latest, self._latest_rows = changes, rows
        self._since_base = merged(self._since_base, changes)
        self._rows_since_base = merged_rows(self._rows_since_base, rows)
        self._watermark_ms = seal.interval_end_ms
        self._sequence += 1

    def _publish(self, seal: Seal, previous: int) -> None:
        """Write the delta that leads from sequence `previous` to the current one; 0 = everything since the
        base.
        """
        if self.state is None or self.base is None:
            raise RuntimeError("incremental updater: expected a base bundle, got none; call advance()")
        fields = DeltaFields(
            base=self.base,
            sequence=self._sequence,
            previous_sequence=previous,
            watermark_ms=self._watermark_ms,
            positions=seal.positions,
            seal_sequence=seal.sequence,
            schema_hash=self._schema_hash,
            created_ms=self._now_ms(),
        )
        changes = self._since_base if previous == 0 else self._latest
        rows = self._rows_since_base if previous == 0 else self._latest_rows
        affinities = self.state.affinities.published() if self.state.affinities else None
        popularity = self.state.popularity_list()
        self._registry.publish_delta(Delta(fields, changes, popularity, rows, affinities))

    def _move_pointer(self) -> None:
        if self.base is None:
            return
        try:
            self._pointer.set(
                Pointer(bundle=self.base, delta=self._sequence, watermark_ms=self._watermark_ms)
            )
        except StalePointer as error:
            # The served watermark never goes back; the next interval or the next bundle passes it.
            log.warning("pointer stays: %s", error)
