"""From Kafka to the archive: decode, validate, append + fsync, profiles, seen sets and counts, seal, commit.

A polling thread (stream/reader.py) is never blocked by any of it. Bad events become dead
letters and stop nothing.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from stream.archive import Archive
from stream.dead_letters import DEAD_LETTER_BYTES, DeadLetter, DeadLetters, dead_letter
from stream.decoded_columns import DecodedColumns, decode_columns, event_at
from stream.errors import Unreachable
from stream.popular_store import PopularCounts
from stream.profiles import Profiles
from stream.reader import Chunk, Reader
from stream.seals import Positions, Seal, column
from stream.seen_store import SeenSets
from stream.topics import KafkaConfig
from stream.validate import TimeGuard, TimeLimits, bad_fields
from stream.watermark import Watermark

log = logging.getLogger(__name__)
REPAIR_S = 0.5
"""How long to wait before asking an absent store again."""


class IntakeConfig(BaseModel):
    """How events are taken in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    idle_s: float = Field(
        5.0, ge=0, description="A partition without news for so long no longer holds the watermark back."
    )
    times: TimeLimits = Field(default_factory=TimeLimits, description="Which event times are impossible.")
    dead_letter_bytes: int = Field(
        DEAD_LETTER_BYTES,
        ge=1_048_576,
        description="Room for dead.jsonl and dead.jsonl.1 together, bytes; the oldest letters go.",
    )


@dataclass
class IntakeCounts:
    """What one process has taken in so far; written by the intake, read by metrics."""

    messages: int = 0
    events: int = 0
    duplicates: int = 0
    seals: int = 0
    seen_dropped: int = 0
    dead: dict[str, int] = field(default_factory=dict)
    watermark_ms: int | None = None


class Intake:
    """One archiver' loop over the topic of events."""

    def __init__(
        self,
        kafka: KafkaConfig,
        archive: Archive,
        profiles: Profiles | None,
        dead_letters: DeadLetters,
        on_seal: Callable[[list[Seal]], None] = lambda seals: None,
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        config: IntakeConfig | None = None,
        item_counts: Sequence[PopularCounts] = (),
        seen: SeenSets | None = None,
    ) -> None:
        """`on_seal` is called in the intake's thread and must be quick; `clock` gives seconds."""
        self.kafka, self.archive, self.profiles, self.dead_letters = kafka, archive, profiles, dead_letters
        self.config = config or IntakeConfig()
        self.counts = IntakeCounts()
        self._seen = seen
        self._online = [one for one in (profiles, seen, *item_counts) if one is not None]
        self._on_seal, self._clock, self._wall_ms = on_seal, clock, wall_ms
        self._watermark = Watermark(self.config.idle_s)
        self._guard = TimeGuard(self.config.times)
        self._topic_id = ""
        self._partitions: tuple[int, ...] = ()
        self._incarnation = 0
        self._repair_at: float | None = None

    def run(self, stop: threading.Event) -> None:
        """Take events in until `stop` is set.

        Raises Unreachable if the broker is away at the start; later absences are waited out.
        """
        self._repair_store()
        reader = Reader(self.kafka, [self.kafka.events], self._starts, self._clock)
        try:
            while not stop.is_set():
                self.step(reader)
        finally:
            reader.close()

    def step(self, reader: Reader, timeout_s: float = 0.05) -> None:
        """Take in what has been polled, and seal what has become complete."""
        chunks = reader.take(timeout_s)
        state = reader.assigned().get(self.kafka.events)
        if state is None:
            return
        if (state.topic_id, state.partitions) != (self._topic_id, self._partitions):
            self._begin(state.topic_id, state.partitions)
        if chunks:
            self.take_in(chunks)
            reader.done(chunks)
        self._seal(reader.quiet_s(self.kafka.events))
        if self._repair_at is not None and self._clock() >= self._repair_at:
            try:
                self._repair_store()
            except Unreachable as error:
                self._store_away(error)

    def take_in(self, chunks: Sequence[Chunk]) -> None:
        """Make the good events of these messages durable; the bad ones become dead letters first."""
        records = [record for chunk in chunks for record in chunk.records]
        messages = [record.value or b"" for record in records]
        sizes = [len(chunk.records) for chunk in chunks]
        partition = np.repeat(np.array([chunk.partition for chunk in chunks], np.int32), sizes)
        offset = np.array([record.offset for record in records], np.int64)
        decoded = decode_columns(messages, self._incarnation, partition, offset)
        batch, letters = self._good(decoded, messages)
        letters += [
            dead_letter(
                bad.reason,
                bad.detail,
                self.kafka.events,
                int(partition[n]),
                int(offset[n]),
                bad.ordinal,
                bad.content,
            )
            for n, bad in decoded.rejected
        ]
        self.dead_letters.add(letters)
        following: Positions = {
            (self._incarnation, chunk.partition): chunk.records[-1].offset + 1 for chunk in chunks
        }
        new = self.archive.append(batch, following)
        self._count(len(records), batch.num_rows, new)
        self._observe(batch)
        if self._repair_at is None:
            try:
                for one in self._online:
                    one.apply(batch, following)
                self._count_dropped()
            except Unreachable as error:
                self._store_away(error)

    def _good(
        self, decoded: DecodedColumns, messages: Sequence[bytes]
    ) -> tuple[pa.RecordBatch, list[DeadLetter]]:
        batch = decoded.batch
        bad = bad_fields(batch)
        if bad:  # first, so that a broken event cannot move the clock of its partition
            rows = np.setdiff1d(np.arange(batch.num_rows), list(bad))
            times = self._guard.bad_times(batch.take(pa.array(rows)), self._wall_ms())
            bad |= {int(rows[row]): verdict for row, verdict in times.items()}
        else:
            bad = self._guard.bad_times(batch, self._wall_ms())
        if not bad:
            return batch, []
        letters = []
        for row, (reason, detail) in sorted(bad.items()):
            at = batch.slice(row, 1).to_pylist()[0]
            event = event_at(messages[decoded.message[row]], at["ordinal"])
            content = msgspec.msgpack.encode(event)
            place = (at["partition"], at["offset"], at["ordinal"])
            letters.append(dead_letter(reason, detail, self.kafka.events, *place, content))
        keep = np.ones(batch.num_rows, bool)
        keep[list(bad)] = False
        return batch.filter(pa.array(keep)), letters

    def _starts(self, topic: str, topic_id: str) -> dict[int, int]:
        incarnation = self.archive.incarnation(topic_id)
        return {p: offset for (i, p), offset in self.archive.next_offsets().items() if i == incarnation}

    def _begin(self, topic_id: str, partitions: tuple[int, ...]) -> None:
        self._topic_id, self._partitions = topic_id, partitions
        self._incarnation = self.archive.incarnation(topic_id)
        newest = {p: ts for (i, p), ts in self.archive.newest_ms().items() if i == self._incarnation}
        self._watermark.restart(partitions, newest)
        self._guard.restart(newest)

    def _observe(self, batch: pa.RecordBatch) -> None:
        if batch.num_rows:
            partitions, ts_ms = column(batch, "partition"), column(batch, "ts_ms")
            for partition in np.unique(partitions).tolist():
                self._watermark.observe(partition, int(ts_ms[partitions == partition].max()))

    def _seal(self, quiet_s: dict[int, float]) -> None:
        watermark_ms = self._watermark.value(quiet_s)
        self.counts.watermark_ms = watermark_ms
        if watermark_ms is None:
            return
        seals = self.archive.seal_through(watermark_ms)
        if seals:
            self.counts.seals += len(seals)
            self._on_seal(seals)

    def _count(self, messages: int, events: int, new: int) -> None:
        self.counts.messages += messages
        self.counts.events += new
        self.counts.duplicates += events - new
        self.counts.dead = dict(self.dead_letters.counts)

    def _repair_store(self) -> None:
        """Give profiles, seen sets and counts what was archived but not applied."""
        for one in self._online:
            one.repair(self.archive)
        self._count_dropped()
        self._repair_at = None

    def _count_dropped(self) -> None:
        self.counts.seen_dropped = self._seen.dropped if self._seen else 0

    def _store_away(self, error: Unreachable) -> None:
        # The archive goes on alone; what the store misses is applied from it once it is back.
        log.warning("profiles and counts fall behind: %s", error)
        self._repair_at = self._clock() + REPAIR_S
