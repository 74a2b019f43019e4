"""Reading the archive from any process: by sealed interval, by position, by event time.

Readers look only at seals.log, removed.json and sealed/, whose files never change once written, so they need
no lock. Who asks for events that were removed is told so, and never given the rest as if it were all.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stream.errors import EventsRemoved
from stream.event import SEALED_SCHEMA
from stream.removed import read_removed
from stream.seals import Seal, SealAct, canonical, read_acts


class ArchiveReader:
    """The reading end. Every call sees what has been sealed by then."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._acts: list[SealAct] = []
        self._place = 0

    def seals(self) -> list[Seal]:
        """All seals that are recorded and readable, ascending."""
        return [seal for act in self._readable() for seal in act.seals]

    def sealed_through_ms(self) -> int | None:
        """End of the last sealed interval, or None if nothing is sealed yet."""
        acts = self._readable()
        return acts[-1].seals[-1].interval_end_ms if acts else None

    def removed_through_ms(self) -> int | None:
        """End of the last interval whose events were removed for their age, or None if all are kept."""
        return read_removed(self.root)

    def read(self, after_ms: int | None, through_ms: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Events of the seals with after_ms < interval_end_ms <= through_ms, in canonical order.

        after_ms None: from the first that is kept. Raises EventsRemoved where events after it are gone.
        """
        acts = [
            act
            for act in self._readable()
            if act.seals[0].interval_end_ms <= through_ms
            and (after_ms is None or act.seals[-1].interval_end_ms > after_ms)
        ]
        acts = self._kept(acts, after_ms, through_ms)
        lower = 0 if after_ms is None else after_ms + 1
        tables = [self._filtered(act, {"interval_end_ms": (lower, through_ms)}, columns) for act in acts]
        return _concat(tables, columns)

    def read_positions(
        self,
        incarnation: int,
        partition: int,
        start: int = 0,
        stop: int | None = None,
        columns: Sequence[str] | None = None,
        ended_after_ms: int = 0,
    ) -> pa.Table:
        """Sealed events of one partition with start <= offset < stop, in the order of (offset, ordinal).

        Files of intervals that all ended by ended_after_ms are left out. Raises EventsRemoved where other
        events from `start` on are gone.
        """
        key = f"{incarnation}:{partition}"
        bounds = {
            "incarnation": (incarnation, incarnation),
            "partition": (partition, partition),
            "offset": (start, np.iinfo(np.int64).max if stop is None else stop - 1),
        }
        acts = [
            act
            for act in self._readable()
            if act.seals[-1].positions.get(key, 0) > start and act.seals[-1].interval_end_ms > ended_after_ms
        ]
        acts = self._kept(acts, ended_after_ms)
        table = _concat([self._filtered(act, bounds, None) for act in acts], None)
        ordered = table.sort_by([("offset", "ascending"), ("ordinal", "ascending")])
        return ordered if columns is None else ordered.select(columns)

    def read_times(self, start_ms: int, stop_ms: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Sealed events with start_ms <= ts_ms < stop_ms, whenever they arrived, by event time.

        Raises EventsRemoved where some of them may be gone.
        """
        acts = [act for act in self._readable() if act.seals[-1].interval_end_ms > start_ms]
        acts = self._kept(acts, start_ms)
        tables = [self._filtered(act, {"ts_ms": (start_ms, stop_ms - 1)}, None) for act in acts]
        table = canonical(_concat(tables, None).drop_columns("interval_end_ms"))
        return table if columns is None else table.select(columns)

    def incarnations(self) -> list[str]:
        """Topic ids by incarnation number."""
        path = self.root / "incarnations.json"
        return [str(topic_id) for topic_id in json.loads(path.read_text())] if path.exists() else []

    def _readable(self) -> list[SealAct]:
        self._place = read_acts(self.root / "seals.log", self._acts, self._place)
        # A seal is decided before its file is written, so only the last act can lack one.
        waiting = bool(self._acts) and self._acts[-1].file and not self._path(self._acts[-1]).exists()
        return self._acts[:-1] if waiting else self._acts

    def _kept(
        self, acts: list[SealAct], after_ms: int | None, through_ms: int = np.iinfo(np.int64).max
    ) -> list[SealAct]:
        """The acts whose files are kept. Raises EventsRemoved if one of the others holds events of the
        intervals with after_ms < end <= through_ms; None: whatever is kept is wanted.
        """
        removed_ms = self.removed_through_ms()
        if removed_ms is None:
            return acts
        place = sum(act.seals[-1].interval_end_ms <= removed_ms for act in acts)
        gone = [seal for act in acts[:place] for seal in act.seals if seal.events]
        if after_ms is not None and any(after_ms < seal.interval_end_ms <= through_ms for seal in gone):
            raise self._removed(after_ms, removed_ms)
        return acts[place:]

    def _removed(self, after_ms: int, removed_ms: int) -> EventsRemoved:
        return EventsRemoved(
            f"{self.root}: expected the events of all intervals that end after {after_ms}, but those up to "
            f"{removed_ms} were removed for their age (archive.keep_days); restore sealed/ and removed.json "
            "from a copy, or begin anew from what is kept"
        )

    def _path(self, act: SealAct) -> Path:
        return self.root / "sealed" / act.file

    def _filtered(
        self, act: SealAct, bounds: dict[str, tuple[int, int]], columns: Sequence[str] | None
    ) -> pa.Table:
        """Rows of one sealed file within all the inclusive bounds; row groups outside them are not read."""
        if not act.file:
            return SEALED_SCHEMA.empty_table()
        try:
            file = pq.ParquetFile(self._path(act))
        except FileNotFoundError:
            removed_ms = self.removed_through_ms()
            if removed_ms is None or removed_ms < act.seals[-1].interval_end_ms:
                raise
            raise self._removed(act.seals[0].interval_end_ms - 1, removed_ms) from None  # just now
        with file:
            groups = [g for g in range(file.num_row_groups) if _overlaps(file.metadata.row_group(g), bounds)]
            wanted = None if columns is None else list(dict.fromkeys([*columns, *bounds]))
            table = file.read_row_groups(groups, columns=wanted)
        for name, (lower, upper) in bounds.items():
            inside = pc.and_(pc.greater_equal(table[name], lower), pc.less_equal(table[name], upper))
            table = table.filter(inside)
        return table


def _overlaps(group: pq.RowGroupMetaData, bounds: dict[str, tuple[int, int]]) -> bool:
    statistics = {
        group.column(i).path_in_schema: group.column(i).statistics for i in range(group.num_columns)
    }
    return all(
        statistics[name].max >= lower and statistics[name].min <= upper
        for name, (lower, upper) in bounds.items()
    )


def _concat(tables: list[pa.Table], columns: Sequence[str] | None) -> pa.Table:
    names = SEALED_SCHEMA.names if columns is None else list(columns)
    schema = pa.schema([SEALED_SCHEMA.field(name) for name in names])
    return pa.concat_tables([schema.empty_table(), *(table.select(names).cast(schema) for table in tables)])
