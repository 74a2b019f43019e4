"""Reading joined rows from any process: by the interval that emitted them, or by the time of the impression.

Readers look only at intervals up to the checkpoint, less those that it says were removed for their age. Rows
of those never change, so they need no lock. Who asks for removed rows is told so.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stream.errors import EventsRemoved
from stream.event import KINDS
from stream.join import JOINED_SCHEMA
from stream.join_pairs import Pairs
from stream.join_state import Extent
from stream.seals import column
from stream.segment import read_frames

STATE_FILE = "state.log"
ROWS_FOLDER = "rows"
CLICK = "click"
_HEAD_BYTES = 65_536

FIGURES_SCHEMA = pa.schema(
    [
        pa.field("interval_end_ms", pa.int64(), nullable=False),
        pa.field("scene", pa.string(), nullable=False),
        pa.field("impressions", pa.int64(), nullable=False),
        pa.field("late", pa.int64(), nullable=False),
        pa.field("actions", pa.map_(pa.string(), pa.int64()), nullable=False),
        pa.field("ctr", pa.float64()),
    ]
)
"""What one interval emitted in one scene.

impressions: first rows. actions: kind -> how many of them had one. ctr: share with a click, null where there
are none. late: late rows, which are in no other column, so that intervals compare with each other.
"""


class JoinedReader:
    """The reading end. Every call sees what has been made durable by then."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def through_ms(self) -> int | None:
        """End of the last interval whose rows are complete, or None if there is none yet."""
        return self._extent().through_ms

    def removed_through_ms(self) -> int | None:
        """End of the last interval whose rows are not kept any more, or None if all are."""
        return self._extent().removed_ms

    def read(
        self, after_ms: int | None, through_ms: int | None = None, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Rows of JOINED_SCHEMA emitted by the intervals with after_ms < end <= through_ms, in the order in
        which they were emitted; a late row stands beside its first one. None: no bound.

        after_ms None: from the first that is kept. Raises EventsRemoved where rows after it are gone.
        """
        names = list(columns or JOINED_SCHEMA.names)
        parts = [_table(path, names) for _, path in self._files(after_ms, through_ms)]
        return _concat(parts, names)

    def rows(self, from_ms: int, to_ms: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of the impressions with from_ms <= ts_ms < to_ms by event time, one of each: the late one
        where there is one. Raises EventsRemoved where some of them may be gone.
        """
        names = list(columns or JOINED_SCHEMA.names)
        wanted = list(dict.fromkeys([*names, "ts_ms", "request_id", "item_id", "late"]))
        # A row leaves after its impression's time, however late that came: no upper bound for the interval.
        bounds = (pc.field("ts_ms") >= from_ms) & (pc.field("ts_ms") < to_ms)
        parts = [_table(path, wanted, bounds) for _, path in self._files(from_ms, None)]
        table = _concat(parts, wanted)
        table = table.filter(pa.array(~_superseded(table)))
        return table.take(pa.array(np.argsort(column(table, "ts_ms"), kind="stable"))).select(names)

    def figures(self, after_ms: int | None, through_ms: int | None = None) -> pa.Table:
        """Impressions, actions and CTR by scene, of FIGURES_SCHEMA, for each interval that emitted rows.

        Bounds and errors are those of `read`.
        """
        names = ["scene", "actions", "late"]
        parts = [figures(_table(p, names), end) for end, p in self._files(after_ms, through_ms)]
        return pa.concat_tables([FIGURES_SCHEMA.empty_table(), *parts])

    def _files(self, after_ms: int | None, through_ms: int | None) -> Iterator[tuple[int, Path]]:
        done_ms, removed_ms = self._extent()
        if done_ms is None:
            return
        if removed_ms is not None:
            if after_ms is not None and after_ms < removed_ms:
                raise EventsRemoved(
                    f"{self.root}: expected the rows of all intervals that end after {after_ms}, but those "
                    f"up to {removed_ms} are not kept (join.keep_days); begin anew from what is kept"
                )
            after_ms = removed_ms
        last_ms = done_ms if through_ms is None else min(done_ms, through_ms)
        for path in sorted((self.root / ROWS_FOLDER).glob("*.parquet")):
            end_ms = int(path.stem)
            if end_ms <= last_ms and (after_ms is None or end_ms > after_ms):
                yield end_ms, path

    def _extent(self) -> Extent:
        path = self.root / STATE_FILE
        if not path.exists():
            return Extent()
        with path.open("rb") as file:
            head = next(read_frames(file.read(_HEAD_BYTES)), None)
        return Extent() if head is None else Extent.of(head[1])


def figures(rows: pa.Table, end_ms: int) -> pa.Table:
    """FIGURES_SCHEMA of the rows (scene, actions, late) that one interval emitted, by scene."""
    scenes = pc.unique(rows["scene"]).sort()
    scene = pc.index_in(rows["scene"], value_set=scenes).to_numpy()
    late = column(rows, "late")
    first = rows.filter(pa.array(~late))
    shown = np.bincount(scene[~late], minlength=len(scenes))
    actions = first["actions"].combine_chunks()
    owner = np.repeat(scene[~late], np.diff(actions.offsets.to_numpy()))
    kind = pc.index_in(actions.keys, value_set=pa.array(KINDS)).to_numpy()
    counted = np.bincount(owner * len(KINDS) + kind, minlength=len(scenes) * len(KINDS))
    by_scene = counted.reshape(len(scenes), len(KINDS))
    happened = by_scene > 0
    maps = pa.MapArray.from_arrays(
        np.concatenate([[0], np.cumsum(happened.sum(axis=1))]).astype(np.int32),
        pa.array(KINDS, pa.string()).take(pa.array(np.nonzero(happened)[1])),
        pa.array(by_scene[happened]),
    )
    with np.errstate(invalid="ignore"):
        ctr = pa.array(by_scene[:, KINDS.index(CLICK)] / shown, from_pandas=True)
    end = pa.array(np.full(len(scenes), end_ms, np.int64))
    again = pa.array(np.bincount(scene[late], minlength=len(scenes)))
    return pa.table([end, scenes, pa.array(shown), again, maps, ctr], schema=FIGURES_SCHEMA)


def _table(path: Path, names: list[str], filters: pc.Expression | None = None) -> pa.Table:
    # Without partitioning=None a folder called a=b above would become a column.
    return pq.read_table(path, columns=names, filters=filters, partitioning=None)


def _concat(parts: Sequence[pa.Table], names: Sequence[str]) -> pa.Table:
    schema = pa.schema([JOINED_SCHEMA.field(name) for name in names])
    return pa.concat_tables([schema.empty_table(), *(part.select(names).cast(schema) for part in parts)])


def _superseded(rows: pa.Table) -> np.ndarray:
    """bool[N]: first rows that a late one of the same pair and time replaces."""
    late = column(rows, "late")
    pair = Pairs(rows.filter(pa.array(late))).find(rows)
    ts_ms = column(rows, "ts_ms")
    order = np.lexsort((late, ts_ms, pair))  # a late row stands right after its first one
    same = (pair[order][1:] == pair[order][:-1]) & (ts_ms[order][1:] == ts_ms[order][:-1])
    replaced = np.zeros(len(late), bool)
    replaced[order[:-1]] = same & late[order][1:] & ~late[order][:-1]
    return replaced
