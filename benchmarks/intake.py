"""Events out of the real embedded broker: consumed, decoded and validated, and all the way into the rows."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from kafka import KafkaConsumer, TopicPartition

from benchmarks import data
from benchmarks.decode import columns
from benchmarks.measure import Result, rates
from deploy.backtest.snapshot import Snapshot
from deploy.embedded import EmbeddedBroker
from models.catalogue_columns import CatalogueColumns
from models.learner import ModelConfig
from stream.archive import Archive, ArchiveReader
from stream.dead_letters import DeadLetters
from stream.event import Event
from stream.intake import Intake
from stream.producer import EventProducer
from stream.reader import Reader
from stream.topics import KafkaConfig
from stream.validate import TimeGuard, TimeLimits
from updater.state import Recipe, TrainingState

PACK = 50
INTERVALS = 5
PATIENCE_S = 120.0
Interval = tuple[pa.Table, int]
"""Events of one sealed interval, and its end in event time, ms."""


def taken_in(single: int, packed: int, rounds: int) -> list[Result]:
    """Consumed, decoded, made columns, validated; so many events one to a message, and 50 to a message."""
    results = []
    with tempfile.TemporaryDirectory() as folder, EmbeddedBroker(Path(folder)) as broker:
        for name, events, pack in (("intake.single", single, 1), ("intake.packed", packed, PACK)):
            kafka = KafkaConfig(bootstrap=broker.address, events=name, pack=pack)
            _produce(kafka, _events(events, 10_000, 5_000))
            places = _places(kafka)
            value, peer = rates(
                events,
                lambda k=kafka, n=events: _take(k, n),
                lambda k=kafka, p=places: _poll(k, p),
                rounds=rounds,
            )
            params = {"pack": pack, "messages": sum(places.values())}
            results.append(Result(name, value, "events/s", "kafka-python, bare poll()", peer, params=params))
    return results


def path(events: int, users: int, items: int, rounds: int) -> list[Result]:
    """Kafka -> decode -> archive (fsync) -> seal -> ID lookup -> hourly update, in five intervals, against
    the update alone on the same intervals. Packed messages; the model at its defaults.
    """
    torch.set_num_threads(1)
    given, catalogue = data.Histories.drawn(users, items), CatalogueColumns()
    half_life_ms = 12 * 3_600_000
    state = TrainingState.fresh(Recipe({"two_tower": ModelConfig()}, (), ("click",), half_life_ms))
    state.observe(given.past, catalogue)
    bundle = Snapshot(state, data.START_MS)
    begin_ms = int(given.following["ts_ms"][0].as_py())
    made = _events(events, users, items, begin_ms)
    interval_ms = max(1, events // INTERVALS)
    # One event of everybody after the end: no interval is complete before every partition is past it.
    after = _events(users, users, items, begin_ms + (INTERVALS + 2) * interval_ms, everybody=True)
    with tempfile.TemporaryDirectory() as folder, EmbeddedBroker(Path(folder)) as broker:
        kafka = KafkaConfig(bootstrap=broker.address, pack=PACK)
        _produce(kafka, [*made, *after])
        intervals, _ = _through(kafka, bundle, interval_ms, begin_ms + events)

        def alone() -> float:
            learning = TrainingState.load(bundle)
            began = time.perf_counter()
            for table, end_ms in intervals:
                learning.advance(table, catalogue, end_ms)
            return time.perf_counter() - began

        ours, peer = rates(
            events, lambda: _through(kafka, bundle, interval_ms, begin_ms + events)[1], alone, rounds=rounds
        )
    params = {"pack": PACK, "intervals": len(intervals)}
    return [Result("intake.path", ours, "events/s", "the update alone", peer, params=params)]


def _through(
    kafka: KafkaConfig, bundle: Snapshot, interval_ms: int, end_ms: int
) -> tuple[list[Interval], float]:
    """The whole path up to event time end_ms, with the intake in a thread as in the consumer: the intervals,
    and the seconds it took.
    """
    state, catalogue = TrainingState.load(bundle), CatalogueColumns()
    stop, sealed = threading.Event(), threading.Event()
    with (
        tempfile.TemporaryDirectory() as folder,
        Archive(Path(folder) / "archive", interval_ms) as archive,
        ThreadPoolExecutor(1) as pool,
    ):
        letters = DeadLetters(Path(folder) / "dead.jsonl")
        intake = Intake(kafka, archive, None, letters, on_seal=lambda seals: sealed.set())
        reader, done, intervals = ArchiveReader(archive.root), 0, list[Interval]()
        progress = _Progress("event time through the path, ms")
        began = time.perf_counter()
        taking_in = pool.submit(intake.run, stop)
        try:
            while done < end_ms and not taking_in.done():
                progress.check(done)
                sealed.wait(1.0)
                sealed.clear()
                for seal in reader.seals():
                    if done < seal.interval_end_ms <= end_ms + interval_ms:
                        table = reader.read(done, seal.interval_end_ms)
                        state.advance(table, catalogue, seal.interval_end_ms)
                        intervals.append((table, seal.interval_end_ms))
                        done = seal.interval_end_ms
            seconds = time.perf_counter() - began
        finally:
            stop.set()
            taking_in.result()
    return intervals, seconds


class _Progress:
    """Gives up on a stream that stands still."""

    def __init__(self, what: str) -> None:
        self._what, self._seen, self._at = what, -1, time.monotonic()

    def check(self, seen: int) -> None:
        """Raises TimeoutError once `seen` has not changed for PATIENCE_S."""
        if seen != self._seen:
            self._seen, self._at = seen, time.monotonic()
        elif time.monotonic() - self._at > PATIENCE_S:
            raise TimeoutError(f"{self._what}: stands at {seen} for {PATIENCE_S:g} s; is the broker well?")


def _take(kafka: KafkaConfig, events: int) -> float:
    """Seconds from the first look at the topic to the last valid batch, by the reader of the consumer."""
    progress = _Progress(f"events of {kafka.events}")
    began, seen, guard = time.perf_counter(), 0, TimeGuard(TimeLimits())
    reader = Reader(kafka, [kafka.events], lambda topic, topic_id: {})
    try:
        while seen < events:
            progress.check(seen)
            chunks = reader.take(0.05)
            messages = [record.value for chunk in chunks for record in chunk.records]
            if messages:
                batch = columns(messages)
                guard.bad_times(batch, time.time_ns() // 1_000_000)
                seen += batch.num_rows
                reader.done(chunks)
        return time.perf_counter() - began
    finally:
        reader.close()


def _poll(kafka: KafkaConfig, places: dict[TopicPartition, int]) -> float:
    """The same from kafka-python alone, which is handed the partitions and looks at nothing."""
    progress = _Progress(f"messages of {kafka.events}")
    began, seen, wanted = time.perf_counter(), 0, sum(places.values())
    consumer = _consumer(kafka)
    try:
        consumer.assign(list(places))
        consumer.seek_to_beginning()
        while seen < wanted:
            progress.check(seen)
            polled = consumer.poll(timeout_ms=50, max_records=kafka.queue_messages)
            seen += sum(len(records) for records in polled.values())
        return time.perf_counter() - began
    finally:
        consumer.close()


def _consumer(kafka: KafkaConfig) -> KafkaConsumer:
    # Fetch sizes as the reader has them: what differs is only what is done with the records.
    return KafkaConsumer(
        bootstrap_servers=kafka.bootstrap, enable_auto_commit=False, auto_offset_reset="earliest",
        fetch_max_wait_ms=100, max_partition_fetch_bytes=4 * 1_048_576,
    )  # fmt: skip


def _places(kafka: KafkaConfig) -> dict[TopicPartition, int]:
    """Messages of every partition."""
    consumer = _consumer(kafka)
    try:
        partitions = consumer.partitions_for_topic(kafka.events)
        ends: dict[TopicPartition, int] = consumer.end_offsets(
            [TopicPartition(kafka.events, partition) for partition in partitions]
        )
        return ends
    finally:
        consumer.close()


def _events(
    events: int, users: int, items: int, begin_ms: int = data.START_MS, everybody: bool = False
) -> list[Event]:
    rng = data.generator()
    who = np.arange(users) if everybody else rng.integers(0, users, events)
    return data.typed(who, data.zipf(rng, len(who), items), begin_ms)


def _produce(kafka: KafkaConfig, events: Sequence[Event]) -> None:
    with EventProducer(kafka) as producer:
        if kafka.pack == 1:
            producer.send(events)
        else:
            producer.send_packed(events)
