"""Events into Kafka. The partition of an event is that of its user, so a user's events keep their order.

The partition is murmur2 of the key text modulo the number of partitions, as in Kafka's default partitioner.
"""

import logging
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import repeat
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
from kafka import KafkaProducer
from kafka.partitioner.default import murmur2

from stream.change import Change, encode_changes
from stream.codec import encode, encode_packed
from stream.errors import StreamError
from stream.event import Event
from stream.keys import encode_id
from stream.topics import KafkaConfig, Topics, connect

log = logging.getLogger(__name__)
MESSAGE_LIMIT_BYTES = 900_000  # brokers refuse messages above 1 MB by default


class DeliveryFailed(StreamError):
    """The broker did not take some messages; what they held may or may not be stored, so send it again."""


class EventProducer:
    """Sends events. Thread-safe as far as KafkaProducer is; `flush` tells whether all arrived."""

    def __init__(self, config: KafkaConfig) -> None:
        """Connect, and create the topic of events if it is missing. Raises Unreachable."""
        self.config = config
        with Topics(config) as topics:
            self._partitions = topics.ensure([config.events])[config.events].partitions
        self._partition_of = lru_cache(maxsize=1_000_000)(self._partition)
        self._producer = self._connect()
        self._failures: list[str] = []
        self._others: dict[str, tuple[int, ...]] = {}

    def send(self, events: Iterable[Event]) -> None:
        """One message per event. Raises Malformed for an event that consumers would refuse."""
        for event in events:
            key = encode_id(event.user_id)
            self._put(self.config.events, encode(event), key.encode(), self._partition_of(key))

    def send_packed(self, events: Iterable[Event]) -> None:
        """Packed messages of up to `pack` events, each of one partition; keeps the order per partition."""
        groups: dict[int, list[Event]] = {}
        for event in events:
            groups.setdefault(self._partition_of(encode_id(event.user_id)), []).append(event)
        for partition, group in groups.items():
            for first in range(0, len(group), self.config.pack):
                self._put_packed(partition, group[first : first + self.config.pack])

    def send_table(self, table: pa.Table) -> None:
        """Events of a standard event table, packed.

        Columns: event_id, ts_ms, user_id, item_id, kind; optional scene, request_id, value, context. IDs are
        int64 or string columns of IDs as users write them (not key texts); null or "" is no item.
        """
        self.send_packed(_rows(table))

    def send_changes(self, topic: str, changes: Iterable[Change]) -> None:
        """Upserts and deletes to a catalogue topic (`config.items` or `config.users`), packed."""
        if topic not in self._others:
            with Topics(self.config) as topics:
                self._others[topic] = topics.ensure([topic])[topic].partitions
        partitions = self._others[topic]
        groups: dict[int, list[Change]] = {}
        for change in changes:
            hashed: int = murmur2(encode_id(change.id).encode())
            groups.setdefault(partitions[(hashed & 0x7FFFFFFF) % len(partitions)], []).append(change)
        for partition, group in groups.items():
            for first in range(0, len(group), self.config.pack):
                content = encode_changes(group[first : first + self.config.pack])
                self._put(topic, content, None, partition)

    def send_raw(
        self, topic: str, content: bytes, key: bytes | None = None, partition: int | None = None
    ) -> None:
        """Any bytes to any topic."""
        self._put(topic, content, key, partition)

    def publish(self, topic: str, content: bytes) -> None:
        """Best effort, for copies such as dead letters: what a lost broker does not take is only logged."""
        if self._failures:
            log.warning("%d messages were not stored, first %s", len(self._failures), self._failures[0])
            self._failures = []
            self._producer.close(timeout=0)
            self._producer = self._connect()
        self._put(topic, content, None, None)

    def flush(self, timeout_s: float = 30.0) -> None:
        """Wait until everything sent is stored. Raises DeliveryFailed if something was not."""
        try:
            self._producer.flush(timeout=timeout_s)
        except Exception as error:
            self._failures.append(repr(error))
        if self._failures:
            failures, self._failures = self._failures, []
            # A broker that lost its memory no longer knows this producer's id, which kafka-python takes as
            # fatal.
            self._producer.close(timeout=0)
            self._producer = self._connect()
            raise DeliveryFailed(
                f"{self.config.bootstrap}: {len(failures)} messages were not stored, first {failures[0]}; "
                "send them again"
            )

    def close(self) -> None:
        """Flush and end the connection."""
        try:
            self.flush()
        finally:
            self._producer.close()

    def __enter__(self) -> Self:
        """The producer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; after an error, without waiting."""
        if kind is None:
            self.close()
        else:
            self._producer.close(timeout=0)

    def _connect(self) -> Any:
        return connect(
            KafkaProducer,
            self.config,
            acks="all",
            linger_ms=5,
            batch_size=262_144,
            max_request_size=8_388_608,
        )

    def _partition(self, key: str) -> int:
        hashed: int = murmur2(key.encode())
        return self._partitions[(hashed & 0x7FFFFFFF) % len(self._partitions)]

    def _put_packed(self, partition: int, events: Sequence[Event]) -> None:
        content = encode_packed(events)
        if len(content) > MESSAGE_LIMIT_BYTES and len(events) > 1:
            half = len(events) // 2
            self._put_packed(partition, events[:half])
            self._put_packed(partition, events[half:])
            return
        self._put(self.config.events, content, None, partition)

    def _put(self, topic: str, content: bytes, key: bytes | None, partition: int | None) -> None:
        try:
            future = self._producer.send(topic, value=content, key=key, partition=partition)
            future.add_errback(self._failed)
        except Exception as error:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        self._failures.append(repr(error))


def changes_of(table: pa.Table, key: str, ts_ms: int) -> Iterable[Change]:
    """Upserts from a table of attributes with one row per ID in column `key`; nulls and NaN are left out."""
    for row in table.to_pylist():
        identifier = row.pop(key)
        kept = {name: value for name, value in row.items() if value is not None and value == value}
        yield Change(id=identifier, ts_ms=ts_ms, attributes=kept)


def _rows(table: pa.Table) -> Iterable[Event]:
    names = set(table.schema.names)

    def values(name: str, default: object) -> Iterable[Any]:
        return table[name].to_pylist() if name in names else repeat(default, table.num_rows)

    columns = zip(
        values("event_id", None),
        values("ts_ms", None),
        values("user_id", None),
        values("item_id", None),
        values("kind", None),
        values("scene", ""),
        values("request_id", ""),
        values("value", None),
        values("context", None),
        strict=True,
    )
    for event_id, ts_ms, user_id, item_id, kind, scene, request_id, value, context in columns:
        yield Event(
            event_id=event_id,
            ts_ms=ts_ms,
            user_id=user_id,
            item_id=None if item_id == "" else item_id,
            kind=kind,
            scene=scene or "",
            request_id=request_id or "",
            value=value if value == value else None,  # a table's NaN is its missing value
            context=dict(context) if context else {},
        )
