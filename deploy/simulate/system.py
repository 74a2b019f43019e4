"""The whole system in one process and one thread: the objects of production over a folder, without broker,
store and HTTP, moved on by event time instead of clocks.

Events go into the archive, an hour is sealed, the join and the updater take it, midnight's full retrain
publishes a bundle, the swapper follows the pointer, and a request is answered as the server answers it.
Training and swapping take no event time: what is sealed at an hour's end is served from that moment on.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from deploy.backtest.events import event_stream
from deploy.config import Config
from deploy.simulate.config import DAY_MS
from deploy.wiring import archive, catalogue_writer, joined_log, registry
from deploy.wiring_training import catalogue_at, provenance, rankers, recipe
from models.item_signals import ItemSignals
from models.pointer import PointerStore
from models.published import PublishedModel
from serving.asking import NOT_FOLLOWED, Live, ask
from serving.fusion_config import CANDIDATES
from serving.live_counts import LiveCounts
from serving.metrics import ServingMetrics
from serving.profile import Profile
from serving.recall import answered
from serving.rejects import reject_events
from serving.schema import RecallRequest
from serving.stages import spread
from serving.swap import Served, Swapper
from stream.archive import ArchiveReader
from stream.catalogue import ITEMS, USERS, Catalogue
from stream.change import to_batch
from stream.columns import to_columns
from stream.event import Event
from stream.producer import changes_of
from updater.incremental import IncrementalUpdater
from updater.retrain import FullRetrain

_EVENTS, _REJECTS = 0, 1
"""Partitions: the world's events, and what the server sends itself."""


class NothingServed(RuntimeError):
    """A request came before the first bundle."""


class System:
    """One system over `config.data_dir`, which must be empty.

    Hours are sealed by `close_hour`; the first full retrain is that of the midnight `first_ms`, over all
    events before it, and then one at every midnight (UTC).
    """

    def __init__(self, config: Config, users: pa.Table, start_ms: int, first_ms: int) -> None:
        self.config, self.first_ms = config, first_ms
        self._archive, self._catalogue = archive(config), catalogue_writer(config)
        self._incarnation = self._archive.incarnation("simulated")
        self._next = {_EVENTS: 0, _REJECTS: 0}
        self._waiting: list[pa.Table] = []
        self._rejects: list[Event] = []
        wanted = config.serving.prerank.model == CANDIDATES or config.update.blends_counts
        self._counted = ItemSignals(recipe(config).positives) if wanted else None
        self._counts = LiveCounts()
        self._counts_ms = 0
        bundles, pointer = registry(config), PointerStore(config.registry_dir)
        reader, known_at = ArchiveReader(config.archive_dir), catalogue_at(config)
        self._join = joined_log(config)
        self._retrain = FullRetrain(
            reader, bundles, pointer, known_at, recipe(config), config.index, config.update, provenance(),
            now_ms=lambda: 0, rankers=rankers(config),
        )  # fmt: skip
        self._updater = IncrementalUpdater(reader, bundles, pointer, known_at, config.update, lambda: 0)
        self.swapper = Swapper(
            bundles, pointer, Served(), config.serving, PublishedModel.load, ServingMetrics(),
            catalogue=Catalogue(config.catalogue_dir),
        )  # fmt: skip
        self._know(USERS, users, "user_id", start_ms)

    def add_items(self, items: pa.Table, ts_ms: int) -> None:
        """Items (item_id, attributes) that are there from ts_ms on; they can be answered at once."""
        self._know(ITEMS, items, "item_id", ts_ms)
        self.swapper.follow_catalogue()

    def take(self, events: pa.Table) -> None:
        """Events in the standard form with event_id, by time; durable with the hour's end."""
        self._waiting.append(events)
        if self._counted:
            self._counted.observe(event_stream(events).events)
            self._counts_ms = 0

    def close_hour(self, end_ms: int) -> None:
        """Seal what was taken in before end_ms, an hour's end, and learn from it."""
        self._archive_waiting()
        self._archive.seal_through(end_ms)
        self._join.advance()
        if end_ms >= self.first_ms and end_ms % DAY_MS == 0:
            self._retrain.run(end_ms)
        if self.config.update.incremental:
            while self._updater.advance():
                pass
        self.swapper.step()

    def answer(
        self, user: int, profile: Profile, context: Mapping[str, str], k: int, ts_ms: int, request_id: str
    ) -> list[int]:
        """At most k item IDs, best first; what the stages turned down joins the events.

        Raises NothingServed before the first bundle.
        """
        snapshot = self.swapper.served.snapshot
        if snapshot is None:
            why = self.swapper.last_refusal or f"the first full retrain is that of {self.first_ms}"
            raise NothingServed(f"request {request_id}: expected a bundle, got none: {why}")
        request = RecallRequest(user_id=user, k=k, context=dict(context))
        answer, rejected = answered(
            ask(
                snapshot, request, profile, ts_ms, self.config.serving, live=self._live(ts_ms),
                request_id=request_id,
            ),
            request_id,
        )  # fmt: skip
        if turned_down := spread(rejected, self.config.serving.rejects_per_answer):
            self._rejects += reject_events(request, ts_ms, answer, turned_down)
        return [int(item.id) for item in answer.items]

    def close(self) -> None:
        """Close the files; everything is durable up to the last closed hour."""
        self._archive.close()
        self._catalogue.close()

    def _live(self, ts_ms: int) -> Live:
        """What a server reads of the store: counts of all events, as of the first request after the last."""
        if self._counted is None:
            return NOT_FOLLOWED
        if not self._counts_ms:
            self._counts, self._counts_ms = LiveCounts.as_of(self._counted, ts_ms), ts_ms
        return Live(counts=self._counts)

    def _know(self, name: str, table: pa.Table, key: str, ts_ms: int) -> None:
        changes = list(changes_of(table, key, ts_ms))
        offset = self._catalogue.next_offsets(name).get((0, 0), 0)
        self._catalogue.append(name, to_batch(changes), {(0, 0): offset + len(changes)})

    def _archive_waiting(self) -> None:
        if self._waiting:
            self._append(event_stream(pa.concat_tables(self._waiting)).events, _EVENTS)
        if self._rejects:
            zeros = np.zeros(len(self._rejects), np.int64)
            rejects = to_columns(self._rejects, zeros, zeros, zeros, zeros)
            self._append(pa.Table.from_batches([rejects]), _REJECTS)
        self._waiting, self._rejects = [], []

    def _append(self, events: pa.Table, partition: int) -> None:
        """Events of EVENT_SCHEMA at the partition's next offsets."""
        first, count = self._next[partition], len(events)
        for name, values in (
            ("incarnation", np.full(count, self._incarnation)),
            ("partition", np.full(count, partition)),
            ("offset", np.arange(first, first + count)),
        ):
            place = events.schema.get_field_index(name)
            field = events.schema.field(place)
            events = events.set_column(place, field, pa.array(values, field.type))
        self._archive.append(events.combine_chunks().to_batches()[0])
        self._next[partition] += count
