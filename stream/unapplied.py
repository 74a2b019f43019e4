"""What the archive holds and a store does not yet: where a store that was away or emptied catches up."""

import logging
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from stream.archive import Archive
from stream.errors import EventsRemoved
from stream.replay import ArchiveReader
from stream.seals import Positions, column

log = logging.getLogger(__name__)
_EVENTS = 50_000


def unapplied(
    archive: Archive, done: Positions, ended_after_ms: int = 0
) -> Iterator[tuple[pa.Table, Positions]]:
    """Events (of EVENT_SCHEMA, one partition at a time, in order, messages whole) from the positions `done`
    on, each part with the position that follows it. Sealed files that end by ended_after_ms (event time) are
    left out. Where the archive no longer goes back so far, that is logged, and what it holds is given.
    """
    reader, unsealed = ArchiveReader(archive.root), archive.unsealed()
    for (incarnation, partition), following in sorted(archive.next_offsets().items()):
        start = done.get((incarnation, partition), 0)
        if start >= following:
            continue
        sealed = _sealed(reader, incarnation, partition, start, ended_after_ms)
        mask = (column(unsealed, "incarnation") == incarnation) & (column(unsealed, "partition") == partition)
        mask &= column(unsealed, "offset") >= start
        rest = unsealed.filter(pa.array(mask))
        events = pa.concat_tables([sealed.drop_columns("interval_end_ms").cast(rest.schema), rest])
        events = events.sort_by([("offset", "ascending"), ("ordinal", "ascending")])
        parts = list(whole_messages(events, _EVENTS))
        for part in parts[:-1]:
            yield part, {(incarnation, partition): int(part["offset"][-1].as_py()) + 1}
        yield parts[-1] if parts else events, {(incarnation, partition): following}


def _sealed(
    reader: ArchiveReader, incarnation: int, partition: int, start: int, ended_after_ms: int
) -> pa.Table:
    while True:
        try:
            return reader.read_positions(incarnation, partition, start, ended_after_ms=ended_after_ms)
        except EventsRemoved as error:
            log.warning("the store is given no more than what is kept: %s", error)
            ended_after_ms = max(ended_after_ms, reader.removed_through_ms() or 0)


def whole_messages(events: pa.Table, most: int) -> Iterator[pa.Table]:
    """Consecutive parts of events (in the order of partition and offset), at most so many in one: more only
    where one message has more.
    """
    if not events.num_rows:
        return
    names = ("incarnation", "partition", "offset")
    changes = np.any([np.diff(column(events, name)) != 0 for name in names], axis=0)
    ends = np.append(np.flatnonzero(changes) + 1, events.num_rows)
    begin = 0
    while begin < events.num_rows:
        last = np.searchsorted(ends, begin + most, side="right") - 1
        end = int(ends[last]) if last >= 0 and ends[last] > begin else int(ends[last + 1])
        yield events.slice(begin, end - begin)
        begin = end
