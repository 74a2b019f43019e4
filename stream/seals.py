"""Seals: which events belong to which closed interval of event time, decided once and obeyed by every replay.

An event belongs to the first seal k with ts_ms < interval_end_k and position < positions_k. Late events
therefore fall into the interval that is sealed next after their arrival. One act of sealing may close many
intervals at once; it is one frame of seals.log, so it is decided as a whole or not at all.
"""

from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa

from stream.event import CANONICAL_ORDER, SEALED_SCHEMA
from stream.segment import read_frames_after

Positions = dict[tuple[int, int], int]
"""(incarnation, partition) -> next offset to read."""


class Seal(msgspec.Struct, frozen=True):
    """One closed interval; `positions` maps "<incarnation>:<partition>" to the next offset at the seal."""

    sequence: int
    interval_end_ms: int
    positions: dict[str, int]
    events: int


class SealAct(msgspec.Struct, frozen=True):
    """One frame of seals.log: consecutive intervals sealed together, and the file that holds their events.

    `file` is "" when all the intervals are empty. `newest_ms` is the greatest event time seen per partition.
    """

    seals: list[Seal]
    file: str
    newest_ms: dict[str, int]

    @property
    def positions(self) -> Positions:
        """Next offsets at the time of the act."""
        return from_text(self.seals[-1].positions)

    @property
    def ends_ms(self) -> np.ndarray:
        """Ends of the intervals, int64, ascending."""
        return np.array([seal.interval_end_ms for seal in self.seals], np.int64)


encode_act = msgspec.json.Encoder().encode
decode_act = msgspec.json.Decoder(SealAct).decode


def read_acts(path: Path, acts: list[SealAct], place: int = 0) -> int:
    """Append to `acts` what seals.log holds from byte `place` on; returns the place after the last frame.

    Safe beside a writer: a frame that is not whole yet is left for the next call. Frames are never rewritten.
    """
    if not path.exists() or path.stat().st_size == place:
        return place
    for after, payload in read_frames_after(path, place):
        acts.append(decode_act(payload))
        place = after
    return place


def members(events: pa.Table, act: SealAct) -> tuple[np.ndarray, np.ndarray]:
    """Which of the events that no earlier act took belong to this one.

    Returns (bool[N] taken, int64[N] interval end of each event; meaningless where not taken).
    """
    ends = act.ends_ms
    slot = np.searchsorted(ends, column(events, "ts_ms"), side="right")
    taken = slot < len(ends)
    taken &= column(events, "offset") < limits(events, act.positions)
    return taken, ends[np.minimum(slot, len(ends) - 1)]


def limits(events: pa.Table, positions: Positions) -> np.ndarray:
    """int64[N]: the next offset of each event's partition, 0 where `positions` knows none."""
    incarnation, partition = column(events, "incarnation"), column(events, "partition")
    bounds = np.zeros(len(incarnation), np.int64)
    for (one, other), following in positions.items():
        bounds[(incarnation == one) & (partition == other)] = following
    return bounds


def canonical(events: pa.Table) -> pa.Table:
    """The same rows in canonical order (by interval end first, if the table has it)."""
    names = [name for name in CANONICAL_ORDER if name in events.schema.names]
    order = np.lexsort([column(events, name) for name in reversed(names)])
    return events if bool((order[1:] > order[:-1]).all()) else events.take(pa.array(order))


def sealed_table(events: pa.Table, ends_ms: np.ndarray) -> pa.Table:
    """Events with their interval end, canonical order, as written to Parquet."""
    table = events.append_column(SEALED_SCHEMA.field("interval_end_ms"), pa.array(ends_ms, pa.int64()))
    return canonical(table.cast(SEALED_SCHEMA))


def column(events: pa.Table | pa.RecordBatch, name: str) -> np.ndarray:
    """A column without nulls as numpy."""
    values: np.ndarray = events.column(name).to_numpy()
    return values


def to_text(positions: Positions) -> dict[str, int]:
    """Positions with JSON keys "<incarnation>:<partition>", sorted."""
    return {f"{one}:{other}": following for (one, other), following in sorted(positions.items())}


def from_text(positions: dict[str, int]) -> Positions:
    """Inverse of `to_text`."""
    pairs = ((key.split(":"), following) for key, following in positions.items())
    return {(int(one), int(other)): following for (one, other), following in pairs}
