"""The archive: the durable event log. Append + fsync first, then the Kafka offset is committed.

    root/active.log        events not sealed yet: frames of Arrow IPC (stream/segment.py)
         seals.log         which intervals are closed: frames of JSON (stream/seals.py)
         sealed/*.parquet  the events of closed intervals, zstd, readable by anything
         removed.json      up to where sealed files were removed for their age (stream/removed.py)
         incarnations.json topic ids in order of first sight; a position's incarnation is an index into it
         writer.lock       one writer; any number of readers (stream/replay.py)

Sealing: decide (seals.log, fsync) -> write the Parquet file (aside, fsync, rename) -> rewrite active.log with
what is left over (aside, fsync, rename). Removing: decide (removed.json, aside, fsync, rename) -> remove the
files. Opening finishes whatever a crash left between those steps.
"""

import fcntl
import json
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from stream.errors import ArchiveLocked, CorruptLog
from stream.event import EVENT_SCHEMA
from stream.removed import read_removed, write_removed
from stream.replay import ArchiveReader
from stream.seals import (
    Positions,
    Seal,
    SealAct,
    canonical,
    column,
    encode_act,
    from_text,
    limits,
    members,
    read_acts,
    sealed_table,
    to_text,
)
from stream.segment import FramedLog, sync_directory, write_file, write_log

__all__ = ["Archive", "ArchiveConfig", "ArchiveReader", "Seal"]


class ArchiveConfig(BaseModel):
    """How event time is cut, and how much of it is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    interval_ms: int = Field(3_600_000, gt=0, description="Event time per seal and per delta, ms.")
    # Off: it is the only copy, what is removed never comes back, and a full disk loses nothing.
    keep_days: float = Field(
        0.0,
        ge=0,
        description="Event time after which sealed events may be removed, days, once training, join and "
        "store have read them; 0 = never. What is built anew (a new model, an emptied store) knows no more "
        "than that.",
    )


class Archive:
    """The one writer. Thread-safe."""

    def __init__(
        self, root: Path, interval_ms: int = 3_600_000, step: Callable[[str], None] = lambda name: None
    ) -> None:
        """Open or create; repairs what a crash left. `step` is told each step just done, for crash tests.

        Raises ArchiveLocked if another process writes it, CorruptLog if a file is damaged beyond a torn tail.
        """
        self.root = Path(root)
        self.interval_ms = interval_ms
        self._step = step
        self._mutex = threading.RLock()
        (self.root / "sealed").mkdir(parents=True, exist_ok=True)
        self._lock = _take_lock(self.root / "writer.lock")
        try:
            self._open()
        except BaseException:
            os.close(self._lock)
            raise

    def _open(self) -> None:
        self._incarnations: list[str] = _read_incarnations(self.root / "incarnations.json")
        self._seal_log = FramedLog(self.root / "seals.log", lambda name: self._step(f"seals {name}"))
        self._active = self._open_active()
        self._acts: list[SealAct] = []
        read_acts(self._seal_log.path, self._acts)
        self._next: Positions = self._acts[-1].positions if self._acts else {}
        self._newest_ms: dict[tuple[int, int], int] = (
            from_text(self._acts[-1].newest_ms) if self._acts else {}
        )
        self._oldest_unsealed_ms: int | None = None
        for batch in self._active_batches():
            self._note(batch, from_text(json.loads(batch.schema.metadata[b"next"])))
        self._unfinished = bool(self._acts)
        self._finish_seal()
        self._removed_ms = self._read_removed()
        self._finish_removal()

    def incarnation(self, topic_id: str) -> int:
        """Number of a topic incarnation; registered durably at first sight."""
        with self._mutex:
            if topic_id not in self._incarnations:
                write_file(
                    self.root / "incarnations.json", json.dumps([*self._incarnations, topic_id]).encode()
                )
                self._incarnations.append(topic_id)
            return self._incarnations.index(topic_id)

    def next_offsets(self) -> Positions:
        """(incarnation, partition) -> next offset to read: the truth on restart."""
        with self._mutex:
            return dict(self._next)

    def newest_ms(self) -> dict[tuple[int, int], int]:
        """(incarnation, partition) -> greatest event time taken in."""
        with self._mutex:
            return dict(self._newest_ms)

    def append(self, batch: pa.RecordBatch, next_offsets: Mapping[tuple[int, int], int] | None = None) -> int:
        """Take in events, durably; returns how many were new. Positions already held are dropped.

        A packed message must come whole. `next_offsets` moves positions past messages that gave no event
        (dead-lettered ones), so that they are not read again after a restart.
        """
        with self._mutex:
            if not batch.schema.equals(EVENT_SCHEMA):
                raise ValueError(f"{self.root}: append expects EVENT_SCHEMA, got {batch.schema}")
            fresh = column(batch, "offset") >= limits(batch, self._next)
            if not fresh.all():
                batch = batch.filter(pa.array(fresh))
            following = _following(batch)
            for key, offset in (next_offsets or {}).items():
                following[key] = max(following.get(key, 0), offset)
            moved = {key: offset for key, offset in following.items() if offset > self._next.get(key, 0)}
            if moved:
                self._active.append(_to_ipc(batch, moved))
                self._note(batch, moved)
            return int(batch.num_rows)

    def seal_through(self, watermark_ms: int) -> list[Seal]:
        """Seal every whole interval that ends at or before the watermark; returns the new seals."""
        with self._mutex:
            self._finish_seal()
            ends = self._ends_through(watermark_ms)
            if not len(ends):
                return []
            self._decide(ends)
            self._finish_seal()
            return self._acts[-1].seals

    def seals(self) -> list[Seal]:
        """All seals, ascending."""
        with self._mutex:
            return [seal for act in self._acts for seal in act.seals]

    def unsealed(self) -> pa.Table:
        """Events that no seal holds yet, in canonical order."""
        with self._mutex:
            self._finish_seal()
            return canonical(self._active_table())

    def remove(self, through_ms: int) -> int:
        """Remove the sealed files whose intervals all end by `through_ms`; returns how many.

        Who still has to read them is for the caller to know (stream/retention.py). The newest file stays.
        """
        with self._mutex:
            self._finish_seal()
            ends = [act.seals[-1].interval_end_ms for act in self._acts[:-1]]
            removed_ms = max((end for end in ends if end <= through_ms), default=None)
            if removed_ms is None or removed_ms <= (self._removed_ms or 0):
                return self._finish_removal()
            write_removed(self.root, removed_ms)
            self._removed_ms = removed_ms
            self._step("removal decided")
            return self._finish_removal()

    def close(self) -> None:
        """Give up the lock; everything appended is already durable."""
        with self._mutex:
            if self._lock >= 0:
                self._active.close()
                self._seal_log.close()
                os.close(self._lock)
                self._lock = -1

    def __enter__(self) -> "Archive":
        """The archive itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _ends_through(self, watermark_ms: int) -> np.ndarray:
        interval = self.interval_ms
        if self._acts:
            start = self._acts[-1].seals[-1].interval_end_ms
        elif self._oldest_unsealed_ms is not None:
            start = self._oldest_unsealed_ms // interval * interval
        else:
            return np.empty(0, np.int64)
        return np.arange((start // interval + 1) * interval, watermark_ms + 1, interval, dtype=np.int64)

    def _decide(self, ends: np.ndarray) -> None:
        """Record which intervals close at which positions; from here on the seal is a fact."""
        slot = np.searchsorted(ends, column(self._active_table(), "ts_ms"), side="right")
        counts = np.bincount(slot, minlength=len(ends) + 1)[: len(ends)]
        first = self._acts[-1].seals[-1].sequence + 1 if self._acts else 1
        positions = to_text(self._next)
        seals = [
            Seal(first + i, int(end), positions, int(count))
            for i, (end, count) in enumerate(zip(ends, counts, strict=True))
        ]
        name = f"{first:08d}-{seals[-1].sequence:08d}.parquet" if counts.any() else ""
        act = SealAct(seals, name, to_text(self._newest_ms))
        self._seal_log.append(encode_act(act))
        self._acts.append(act)
        self._unfinished = True

    def _finish_seal(self) -> None:
        """Carry out the last act: its Parquet file, then active.log without its events. Idempotent."""
        if not self._unfinished:
            return
        act = self._acts[-1]
        events = self._active_table()
        taken, ends = members(events, act)
        if act.file and not (self.root / "sealed" / act.file).exists():
            expected = sum(seal.events for seal in act.seals)
            if expected != int(taken.sum()):
                raise CorruptLog(
                    f"{self.root}: seal {act.seals[-1].sequence} has {expected} events, active.log holds "
                    f"{int(taken.sum())} of them and sealed/{act.file} is missing; restore it from a copy"
                )
            self._write_sealed(act.file, sealed_table(events.filter(pa.array(taken)), ends[taken]))
        if taken.any():
            self._rewrite_active(events.filter(pa.array(~taken)))
        self._unfinished = False

    def _write_sealed(self, name: str, table: pa.Table) -> None:
        aside = self.root / "sealed" / f".{name}.tmp"
        with aside.open("wb") as file:
            pq.write_table(table, file, compression="zstd", row_group_size=131_072)
            file.flush()
            os.fsync(file.fileno())
        self._step("parquet written")
        aside.rename(self.root / "sealed" / name)
        sync_directory(self.root / "sealed")
        self._step("parquet renamed")

    def _rewrite_active(self, left_over: pa.Table) -> None:
        # The seal record holds the positions up to here, so a frame is needed for left-over events only; but
        # the positions of messages without events that came after the decision live in active.log, hence the
        # full vector.
        batch = _one_batch(left_over)
        write_log(self._active.path, [_to_ipc(batch, self._next)])
        self._step("active rewritten")
        self._active.close()
        self._active = self._open_active()
        oldest = column(batch, "ts_ms").min() if batch.num_rows else None
        self._oldest_unsealed_ms = None if oldest is None else int(oldest)

    def _read_removed(self) -> int | None:
        removed_ms = read_removed(self.root)
        newest_ms = self._acts[-1].seals[-1].interval_end_ms if self._acts else 0
        if removed_ms is not None and removed_ms >= newest_ms:
            raise CorruptLog(
                f"{self.root}/removed.json: expected an interval that ended before the last seal "
                f"({newest_ms}), got {removed_ms}; it belongs to another archive: delete it or restore it"
            )
        return removed_ms

    def _finish_removal(self) -> int:
        """Carry out what removed.json says. Idempotent; returns how many files went."""
        if self._removed_ms is None:
            return 0
        gone = {act.file for act in self._acts if act.seals[-1].interval_end_ms <= self._removed_ms}
        files = sorted(path for path in (self.root / "sealed").glob("*.parquet") if path.name in gone)
        for path in files:
            path.unlink()
            self._step("file removed")
        if files:
            sync_directory(self.root / "sealed")
        return len(files)

    def _open_active(self) -> FramedLog:
        return FramedLog(self.root / "active.log", lambda name: self._step(f"active {name}"))

    def _active_batches(self) -> list[pa.RecordBatch]:
        return [_from_ipc(payload) for payload in self._active.frames()]

    def _active_table(self) -> pa.Table:
        return pa.Table.from_batches(
            [batch.replace_schema_metadata(None) for batch in self._active_batches()], schema=EVENT_SCHEMA
        )

    def _note(self, batch: pa.RecordBatch, moved: Positions) -> None:
        self._next.update({key: max(offset, self._next.get(key, 0)) for key, offset in moved.items()})
        if batch.num_rows:
            ts_ms = column(batch, "ts_ms")
            oldest = int(ts_ms.min())
            if self._oldest_unsealed_ms is None or oldest < self._oldest_unsealed_ms:
                self._oldest_unsealed_ms = oldest
            for key, mask in _by_partition(batch):
                self._newest_ms[key] = max(int(ts_ms[mask].max()), self._newest_ms.get(key, 0))


def _by_partition(batch: pa.RecordBatch) -> list[tuple[tuple[int, int], np.ndarray]]:
    """((incarnation, partition), bool[N]) for each partition in the batch."""
    code = column(batch, "incarnation").astype(np.int64) << 32 | column(batch, "partition")
    return [((int(c >> 32), int(c & 0xFFFFFFFF)), code == c) for c in np.unique(code)]


def _following(batch: pa.RecordBatch) -> Positions:
    offset = column(batch, "offset")
    return {key: int(offset[mask].max()) + 1 for key, mask in _by_partition(batch)}


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=EVENT_SCHEMA)


def _to_ipc(batch: pa.RecordBatch, following: Positions) -> pa.Buffer:
    metadata = {"next": json.dumps(to_text(following))}
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema.with_metadata(metadata)) as writer:
        writer.write_batch(batch.replace_schema_metadata(metadata))
    return memoryview(sink.getvalue())


def _from_ipc(payload: memoryview) -> pa.RecordBatch:
    batch: pa.RecordBatch = pa.ipc.open_stream(pa.py_buffer(payload)).read_next_batch()
    return batch


def _read_incarnations(path: Path) -> list[str]:
    return [str(topic_id) for topic_id in json.loads(path.read_text())] if path.exists() else []


def _take_lock(path: Path) -> int:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise ArchiveLocked(
            f"{path.parent}: another process already writes this archive; stop it or choose another data_dir"
        ) from None
    return lock
