"""Reading Kafka topics: a polling thread that nothing blocks, a bounded queue, and pausing when it is full.

Positions are kept by the caller (the archive, the catalogue), per topic incarnation. What was polled is
handed over only after the broker has confirmed that the topic is still the incarnation it was assigned as:
topic ids never come back, so the same id after a poll means that the poll saw that incarnation. A recreated
topic, or a memory-only broker that restarted, is assigned anew.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from kafka import ConsumerRebalanceListener, KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaError

from stream.errors import StreamError
from stream.record_batches import Record, read_batches
from stream.topics import KafkaConfig, Topics, TopicState, connect

log = logging.getLogger(__name__)
POLL_S = 0.05
VERIFY_S = 1.0
"""How often an idle reader asks whether the topics are still the same."""

Start = Callable[[str, str], Mapping[int, int]]
"""(topic, topic id) -> partition -> next offset to read; a partition not named starts at the beginning."""


class Chunk(NamedTuple):
    """Messages of one partition, in order. bytes: those of their values together."""

    topic: str
    topic_id: str
    partition: int
    records: Sequence[Record]
    bytes: int


class Reader:
    """Reads topics from given positions. `take` and `done` are for one working thread."""

    def __init__(
        self,
        kafka: KafkaConfig,
        topics: Sequence[str],
        start: Start,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connect and begin to poll. Raises Unreachable if the broker is away. `clock` gives seconds."""
        self._kafka, self._names, self._start_at, self._clock = kafka, tuple(topics), start, clock
        self._changed = threading.Condition()
        self._queue: deque[Chunk] = deque()
        self._queued = self._queued_bytes = 0
        self._in_hand = False
        self._states: dict[str, TopicState] = {}
        self._busy_at: dict[tuple[str, int], float] = {}
        self._commits: dict[TopicPartition, OffsetAndMetadata] = {}
        self._stale = True
        self._closed = False
        self._failure: BaseException | None = None
        self._verified_at = clock()
        self._verifier = Topics(kafka)
        self._topics = Topics(kafka)
        self._consumer, self._has_read = self._connect(), False
        self._thread = threading.Thread(target=self._run, name="poll " + ",".join(topics), daemon=True)
        self._thread.start()

    def take(self, timeout_s: float) -> list[Chunk]:
        """What was polled since, at most after `timeout_s`; empty if nothing was, or the broker is away."""
        with self._changed:
            if not self._queue:
                self._changed.wait(timeout_s)
            self._raise_failure()
            count = len(self._queue)
            if self._stale or (not count and self._clock() - self._verified_at < VERIFY_S):
                return []
        if not self._verify():
            return []
        with self._changed:
            chunks = [self._queue.popleft() for _ in range(min(count, len(self._queue)))]
            self._queued -= sum(len(chunk.records) for chunk in chunks)
            self._queued_bytes -= sum(chunk.bytes for chunk in chunks)
            self._in_hand = bool(chunks)
            self._changed.notify_all()
            return chunks

    def done(self, chunks: Sequence[Chunk]) -> None:
        """These are durable now: commit their offsets, for monitoring and for other members of the group."""
        with self._changed:
            for chunk in chunks:
                following = OffsetAndMetadata(chunk.records[-1].offset + 1, chunk.topic_id, -1)
                self._commits[TopicPartition(chunk.topic, chunk.partition)] = following
            self._in_hand = False
            self._changed.notify_all()

    def assigned(self) -> dict[str, TopicState]:
        """The incarnation and the partitions of each topic this reader has; empty while assigning."""
        with self._changed:
            return {} if self._stale else dict(self._states)

    def quiet_s(self, topic: str) -> dict[int, float]:
        """For how long each partition has had nothing to read."""
        now = self._clock()
        with self._changed:
            waiting = {(chunk.topic, chunk.partition) for chunk in self._queue}
            return {
                partition: 0.0 if (name, partition) in waiting or self._stale else now - busy_at
                for (name, partition), busy_at in self._busy_at.items()
                if name == topic
            }

    def close(self) -> None:
        """Commit what is done, leave the group, stop polling."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._verifier.close()

    def _verify(self) -> bool:
        """Ask the broker whether the topics are those that were assigned."""
        try:
            known = self._verifier.describe(self._names)
        except (KafkaError, OSError) as error:
            log.warning("%s does not answer (%s); waiting", self._kafka.bootstrap, error)
            with self._changed:
                # A silent broker does not make a partition idle.
                self._busy_at = dict.fromkeys(self._busy_at, self._clock())
                self._changed.wait(0.2)
            return False
        with self._changed:
            self._verified_at = self._clock()
            same = all(
                name in known and known[name].topic_id == state.topic_id
                for name, state in self._states.items()
            )
            if not same and not self._stale:
                log.warning("topics %s were recreated; reading the new ones", self._names)
                self._drop()
            return same and not self._stale

    def _drop(self) -> None:
        self._stale = True
        self._queue.clear()
        self._queued = self._queued_bytes = 0
        self._commits.clear()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise StreamError(f"reading {self._names} stopped: {self._failure!r}") from self._failure

    # ---- the polling thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closed:
                try:
                    self._step()
                except (KafkaError, StreamError, OSError) as error:
                    log.warning("polling %s: %r; trying again", self._kafka.bootstrap, error)
                    with self._changed:
                        self._changed.wait(0.2)
            self._commit(final=True)
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()
        finally:
            self._consumer.close(autocommit=False)
            self._topics.close()

    def _step(self) -> None:
        if self._stale and not self._assign():
            return
        self._commit()
        self._press_back()
        polled = self._consumer.poll(timeout_ms=int(POLL_S * 1000), max_records=self._kafka.queue_messages)
        sizes = {place: _bytes_of(records) for place, records in polled.items()}
        now = self._clock()
        with self._changed:
            for place in self._consumer.assignment():
                if place in polled or self._behind(place) or place in self._consumer.paused():
                    self._busy_at[place.topic, place.partition] = now
            if self._stale:
                return
            for place, records in polled.items():
                state = self._states[place.topic]
                self._queue.append(Chunk(place.topic, state.topic_id, place.partition, records, sizes[place]))
                self._queued += len(records)
                self._queued_bytes += sizes[place]
            if polled:
                self._changed.notify_all()

    def _behind(self, place: TopicPartition) -> bool:
        high = self._consumer.highwater(place)
        return high is not None and self._consumer.position(place) < high

    def _press_back(self) -> None:
        paused = self._consumer.paused()
        full = max(self._queued / self._kafka.queue_messages, self._queued_bytes / self._kafka.queue_bytes)
        if not paused and full >= 1:
            self._consumer.pause(*self._consumer.assignment())
        elif paused and full <= 0.5:
            self._consumer.resume(*paused)

    def _commit(self, final: bool = False) -> None:
        with self._changed:
            commits, self._commits = self._commits, {}
        if not commits:
            return
        if final:
            self._consumer.commit(commits, timeout_ms=2_000)
        else:
            self._consumer.commit_async(commits)

    def _connect(self) -> Any:
        consumer = connect(
            KafkaConsumer,
            self._kafka,
            group_id=self._kafka.group_id,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            allow_auto_create_topics=False,
            session_timeout_ms=self._kafka.session_timeout_ms,
            heartbeat_interval_ms=max(100, self._kafka.session_timeout_ms // 6),
            fetch_max_wait_ms=100,
            max_partition_fetch_bytes=4 * 1_048_576,
        )
        read_batches(consumer)
        return consumer

    def _assign(self) -> bool:
        """Assign every partition of the present incarnations, or join the group."""
        states = self._topics.ensure(self._names)
        if self._has_read:  # a client that saw another incarnation keeps stale metadata
            self._consumer.close(autocommit=False)
            self._consumer = self._connect()
        self._has_read = True
        if self._kafka.assignment == "group":
            with self._changed:
                self._states = {name: TopicState(state.topic_id, ()) for name, state in states.items()}
                self._busy_at, self._stale = {}, False
            self._consumer.subscribe(list(self._names), listener=_Rebalance(self, states))
            return True
        places = [TopicPartition(name, p) for name, state in states.items() for p in state.partitions]
        self._consumer.assign(places)
        self._seek(places, states)
        return True

    def _seek(self, places: Sequence[TopicPartition], states: Mapping[str, TopicState]) -> None:
        starts = {name: self._start_at(name, state.topic_id) for name, state in states.items()}
        for place in places:
            offset = starts[place.topic].get(place.partition, 0)
            if self._kafka.assignment == "group":
                offset = max(offset, self._committed(place, states[place.topic].topic_id))
            self._consumer.seek(place, offset)
        with self._changed:
            self._states = {
                name: TopicState(
                    state.topic_id, tuple(sorted(p.partition for p in places if p.topic == name))
                )
                for name, state in states.items()
            }
            self._busy_at = {(place.topic, place.partition): self._clock() for place in places}
            self._stale = False

    def _committed(self, place: TopicPartition, topic_id: str) -> int:
        """Where another member of the group left off; 0 if that was in another incarnation."""
        committed = self._consumer.committed(place, metadata=True)
        # Some brokers do not keep the metadata of a commit.
        return committed.offset if committed and committed.metadata in (None, "", topic_id) else 0

    def _let_go(self) -> None:
        """Before partitions are taken away: let the worker finish what was polled, then commit it."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or not (self._queue or self._in_hand),
                self._kafka.session_timeout_ms / 2000,
            )
            self._queue.clear()
            self._queued = self._queued_bytes = 0
        self._commit(final=True)


def _bytes_of(records: Sequence[Record]) -> int:
    return sum([len(record.value or b"") for record in records])


class _Rebalance(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, reader: Reader, states: Mapping[str, TopicState]) -> None:
        self._reader, self._states = reader, states

    def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        self._reader._let_go()

    def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        self._reader._seek(list(assigned), self._states)
