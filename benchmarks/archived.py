"""Packed events into the archive, fsynced batch by batch, against a plain write of the same bytes."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from benchmarks import data
from benchmarks.intake import PACK
from benchmarks.measure import Result, rates
from stream.archive import Archive
from stream.codec import encode_packed
from stream.dead_letters import DeadLetters
from stream.intake import Intake
from stream.reader import Chunk
from stream.record_batches import Record
from stream.topics import KafkaConfig

WRITTEN = "write + fsync of the same bytes"


def archived(events: int, batch: int, rounds: int) -> list[Result]:
    """Decoded, validated, appended and fsynced, `batch` events at a time as they would have been polled; what
    a broker costs is in intake.path.
    """
    kafka = KafkaConfig(pack=PACK)
    polled = _polled(kafka, events, batch)
    with tempfile.TemporaryDirectory() as name:
        parts: list[bytes] = []

        def ours() -> float:
            return _in_folder(name, lambda folder: _archived(kafka, polled, folder, parts))

        def plainly() -> float:
            return _in_folder(name, lambda folder: _written(parts, folder))

        value, peer = rates(events, ours, plainly, rounds=rounds)
    params = {"pack": PACK, "batches": len(polled), "bytes": sum(map(len, parts))}
    return [Result("intake.archived", value, "events/s", WRITTEN, peer, params=params)]


def _polled(kafka: KafkaConfig, events: int, batch: int) -> list[Chunk]:
    """Messages of one partition, so many events to a chunk."""
    rng = data.generator()
    made = data.typed(rng.integers(0, 10_000, events), rng.integers(0, 5_000, events))
    records = [
        Record(offset, encode_packed(made[at : at + PACK]))
        for offset, at in enumerate(range(0, events, PACK))
    ]
    each = max(1, batch // PACK)
    chunks = (records[at : at + each] for at in range(0, len(records), each))
    return [
        Chunk(kafka.events, "", 0, some, sum(len(record.value or b"") for record in some)) for some in chunks
    ]


def _in_folder(parent: str, run: Callable[[Path], float]) -> float:
    with tempfile.TemporaryDirectory(dir=parent) as name:
        return run(Path(name))


def _archived(kafka: KafkaConfig, polled: Sequence[Chunk], folder: Path, parts: list[bytes]) -> float:
    """Seconds of it; `parts` are what was written for each chunk. Raises RuntimeError for events missing."""
    log, ends = folder / "archive" / "active.log", [0]
    with Archive(folder / "archive") as archive:
        intake = Intake(kafka, archive, None, DeadLetters(folder / "dead.jsonl"))
        seconds = 0.0
        for chunk in polled:
            began = time.perf_counter()
            intake.take_in([chunk])
            seconds += time.perf_counter() - began
            ends.append(log.stat().st_size)
    if sum(intake.counts.dead.values()) or intake.counts.messages != sum(len(one.records) for one in polled):
        raise RuntimeError(f"benchmark: expected every message archived, got {intake.counts}")
    content = log.read_bytes()
    parts[:] = [content[begin:end] for begin, end in pairwise(ends)]
    return seconds


def _written(parts: Sequence[bytes], folder: Path) -> float:
    began = time.perf_counter()
    with (folder / "plain").open("wb", buffering=0) as out:
        for part in parts:
            out.write(part)
            os.fsync(out.fileno())
    return time.perf_counter() - began
