"""Joined rows on disk: the join follows the archive's seals, and survives being killed at any instruction.

    root/rows/<interval end, ms>.parquet  what one interval emitted (JOINED_SCHEMA, zstd); none if nothing was
         state.log                        checkpoint: what the join holds after an interval (a framed file)

Per interval: rows aside, fsync, rename; then the checkpoint aside, fsync, rename. The rows are a function of
the checkpoint and the sealed events, so after a crash the intervals behind the checkpoint are taken again and
their files replaced by equal ones. Readers (stream/joined_reader.py) look no further than the checkpoint.
Old rows go in the same way: the checkpoint says from where on they are kept, then their files are removed.
"""

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from stream.archive import ArchiveReader, Seal
from stream.errors import CorruptLog, EventsRemoved
from stream.event import EVENT_SCHEMA
from stream.join import EVENT_COLUMNS, ImpressionJoin, JoinConfig, JoinCounts
from stream.join_state import JoinState
from stream.joined_reader import ROWS_FOLDER, STATE_FILE, JoinedReader, figures
from stream.segment import read_frames, sync_directory, valid_length, write_log

__all__ = ["JoinedLog", "JoinedLogConfig", "JoinedReader"]

log = logging.getLogger(__name__)
RETRY_S = 5.0
"""Pause after an error: a full disk stays full for a while."""
SCENES_COUNTED = 100
"""Scenes with counts of their own; the rest is counted as OTHER_SCENES."""
OTHER_SCENES = "(other)"
_DAY_MS = 86_400_000
_NO_EVENTS = EVENT_SCHEMA.empty_table()


class JoinedLogConfig(JoinConfig):
    """Joins impressions with the actions that followed, in the consumer."""

    enabled: bool = Field(True, description="Write joined rows; rankers are trained on them.")
    keep_days: float = Field(
        30.0,
        gt=0,
        description="Event time after which a file of rows is removed, days, once the rankers of every "
        "bundle that is kept were trained on it.",
    )
    checkpoint_every: int = Field(
        24, ge=1, description="Intervals between two checkpoints while catching up; at the end there is one."
    )
    poll_s: float = Field(0.5, gt=0, description="Pause between two looks at the archive, s.")


@dataclass
class JoinedCounts:
    """What this process has joined so far; written by the log, read by metrics.

    impressions, actions: first rows by scene, and by (scene, kind) how many of them had that action.
    """

    join: JoinCounts = field(default_factory=JoinCounts)
    impressions: Counter[str] = field(default_factory=Counter)
    actions: Counter[tuple[str, str]] = field(default_factory=Counter)
    open: int = 0
    """Impressions whose horizon is not over."""
    waiting: int = 0
    """Actions without an impression so far."""
    through_ms: int | None = None


class JoinedLog:
    """The one writer: it belongs to the process that holds the archive's lock. Not thread-safe."""

    def __init__(
        self,
        root: Path,
        archive: ArchiveReader,
        config: JoinedLogConfig | None = None,
        read_through_ms: Callable[[], int | None] = lambda: None,
    ) -> None:
        """Nothing is read or written before `advance`. read_through_ms: end of the last interval whose rows
        nobody will ask for again, event time in ms; None: nobody waits for rows.
        """
        self.root = Path(root)
        self._read_through_ms = read_through_ms
        self.config = config or JoinedLogConfig()
        self.counts = JoinedCounts()
        self._archive = archive
        self._join: ImpressionJoin | None = None

    def run(self, stop: threading.Event) -> None:
        """Advance until `stop` is set. An error is logged and tried again: it stops nothing else."""
        while not stop.is_set():
            try:
                if not self.advance(stop):
                    stop.wait(self.config.poll_s)
            except Exception:
                log.exception("joining failed after %s; going on from the checkpoint", self.counts.through_ms)
                self._join = None  # whatever was half done is done again from the durable state
                stop.wait(RETRY_S)

    def advance(self, stop: threading.Event | None = None) -> bool:
        """Join every interval sealed since; False: there was none.

        Raises CorruptLog if the checkpoint is damaged or belongs to another archive.
        """
        seals = self._archive.seals()
        if self._join is None:
            self._join = self._open(seals)
        fresh = self._unread(seals, self._join)
        for place, seal in enumerate(fresh, 1):
            self._take(self._join, seal)
            stopping = stop is not None and stop.is_set()
            if place % self.config.checkpoint_every == 0 or place == len(fresh) or stopping:
                self._age(self._join.state, seals[0].interval_end_ms)
                write_log(self.root / STATE_FILE, self._join.state.frames())
                self._prune(self._join.state)
            if stopping:
                break
        return bool(fresh)

    def _open(self, seals: list[Seal]) -> ImpressionJoin:
        """The join as of the checkpoint."""
        (self.root / ROWS_FOLDER).mkdir(parents=True, exist_ok=True)
        for torn in (self.root / ROWS_FOLDER).glob(".*.tmp"):
            torn.unlink()
        path, state = self.root / STATE_FILE, JoinState()
        if path.exists():
            data = path.read_bytes()
            try:
                valid_length(data, path)
                state = JoinState.from_frames([payload for _, payload in read_frames(data)])
            except (ValueError, CorruptLog) as error:
                raise CorruptLog(
                    f"{path}: the checkpoint is damaged ({error}); delete {self.root}, it is written anew "
                    "from the archive"
                ) from error
            if state.through_ms is None or state.through_ms not in {seal.interval_end_ms for seal in seals}:
                raise CorruptLog(
                    f"{path}: expected an interval of {self._archive.root}, got one that ends at "
                    f"{state.through_ms}; delete {self.root}, it is written anew from the archive"
                )
            self._prune(state)
        return ImpressionJoin(self.config, state)

    def _unread(self, seals: list[Seal], join: ImpressionJoin) -> list[Seal]:
        state = join.state
        if state.through_ms is None and seals:
            # Rows from before would be removed at once, and what the archive lacks cannot be joined.
            start_ms = self._kept_from_ms(seals[-1].interval_end_ms)
            start_ms = max(start_ms, self._archive.removed_through_ms() or 0)
            if seals[0].interval_end_ms <= start_ms:
                state.removed_ms = start_ms
        begin_ms = state.through_ms or state.removed_ms
        return [seal for seal in seals if begin_ms is None or seal.interval_end_ms > begin_ms]

    def _kept_from_ms(self, end_ms: int) -> int:
        return end_ms - round(self.config.keep_days * _DAY_MS)

    def _take(self, join: ImpressionJoin, seal: Seal) -> None:
        """Join one interval and make its rows durable."""
        end_ms = seal.interval_end_ms
        # An interval without events is not looked up: a silent year has thousands of them.
        try:
            events = self._archive.read(end_ms - 1, end_ms, EVENT_COLUMNS) if seal.events else _NO_EVENTS
        except EventsRemoved as error:
            raise EventsRemoved(f"{error}: delete {self.root}") from error
        join.counts = JoinCounts()
        rows = join.take(events, end_ms)
        self._write(self.root / ROWS_FOLDER / f"{end_ms:013d}.parquet", rows)
        self._count(join, rows)

    def _write(self, path: Path, rows: pa.Table) -> None:
        if not rows.num_rows:
            path.unlink(missing_ok=True)  # of an earlier attempt under other settings
            return
        aside = path.with_name(f".{path.name}.tmp")
        with aside.open("wb") as file:
            pq.write_table(rows.combine_chunks(), file, compression="zstd", row_group_size=131_072)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
        sync_directory(path.parent)

    def _age(self, state: JoinState, first_ms: int) -> None:
        """Decide from where on rows are kept: those within the configured age, and those still asked for."""
        old_ms = self._kept_from_ms(state.through_ms or 0)
        read_ms = self._read_through_ms()
        if read_ms is not None and read_ms < old_ms:
            log.warning("%s: rows older than join.keep_days stay, rankers did not read them yet", self.root)
            old_ms = read_ms
        if old_ms >= first_ms:
            state.removed_ms = max(old_ms, state.removed_ms or 0)

    def _prune(self, state: JoinState) -> None:
        """Remove the files that the checkpoint says are gone."""
        for path in (self.root / ROWS_FOLDER).glob("*.parquet"):
            if int(path.stem) <= (state.removed_ms or 0):
                path.unlink()

    def _count(self, join: ImpressionJoin, rows: pa.Table) -> None:
        counts, end_ms = self.counts, join.state.through_ms or 0
        counts.open, counts.waiting = join.state.open.num_rows, join.state.waiting.num_rows
        if counts.through_ms is not None and end_ms <= counts.through_ms:
            return  # taken once before an error, and counted then
        counts.through_ms = end_ms
        for name, number in vars(join.counts).items():
            setattr(counts.join, name, getattr(counts.join, name) + number)
        for one in figures(rows, end_ms).to_pylist() if rows.num_rows else ():
            known = one["scene"] in counts.impressions or len(counts.impressions) < SCENES_COUNTED
            scene = one["scene"] if known else OTHER_SCENES
            counts.impressions[scene] += one["impressions"]
            for kind, number in one["actions"]:
                counts.actions[scene, kind] += number
