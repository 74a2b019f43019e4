"""Checks that a decoder cannot make, on whole columns: byte lengths, items where needed, times."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from stream.event import KINDS_WITHOUT_ITEM
from stream.keys import ID_LIMIT_BYTES
from stream.seals import column

Bad = dict[int, tuple[str, str]]
"""row -> (reason, detail)"""

_ITEM_FREE = pa.array(sorted(KINDS_WITHOUT_ITEM))


class TimeLimits(BaseModel):
    """Which event times are impossible, relative to what the same partition brought before."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    future_ms: int = Field(
        30 * 86_400_000,
        gt=0,
        description="Later than the newest event of its partition by more: dead letter.",
    )
    too_old_ms: int = Field(
        400 * 86_400_000,
        gt=0,
        description="Older than the newest event of its partition by more: dead letter.",
    )
    ahead_of_clock_ms: int = Field(
        # Minutes, for clocks that are a little wrong: an event from tomorrow would seal today too early.
        600_000,
        gt=0,
        description="Later than the wall clock by more: dead letter, whatever came before.",
    )
    believe_after: int = Field(
        100, gt=0, description="So many impossible times in a row are no error but a jump of the stream."
    )


def bad_fields(batch: pa.RecordBatch) -> Bad:
    """Rows whose IDs or labels are longer than 256 bytes, or that lack the item their kind needs."""
    bad: Bad = {}
    lacking = pc.and_(pc.equal(batch["item_id"], ""), pc.invert(pc.is_in(batch["kind"], _ITEM_FREE)))
    for row in np.flatnonzero(lacking.to_numpy(zero_copy_only=False)):
        bad[int(row)] = (
            "missing_field",
            f"item_id is missing; kind {batch['kind'][row].as_py()!r} needs one",
        )
    for name in ("event_id", "user_id", "item_id", "scene", "request_id"):
        sizes = pc.binary_length(batch[name]).to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(sizes > ID_LIMIT_BYTES):
            text = batch[name][int(row)].as_py()
            # A key text that begins with "#" is one byte longer than the ID it stands for.
            size = int(sizes[row]) - (name in ("user_id", "item_id") and text.startswith("##"))
            if size > ID_LIMIT_BYTES:
                bad[int(row)] = ("invalid_id", f"{name} has {size} bytes; expected at most {ID_LIMIT_BYTES}")
    return bad


class TimeGuard:
    """Refuses impossible times. Its verdict depends only on the order inside each partition, not on polls."""

    def __init__(self, limits: TimeLimits) -> None:
        self.limits = limits
        self._newest: dict[int, int] = {}
        self._in_a_row: dict[int, int] = {}

    def restart(self, newest_ms: dict[int, int]) -> None:
        """Begin with what the archive holds: partition -> greatest event time."""
        self._newest = dict(newest_ms)
        self._in_a_row = {}

    def bad_times(self, batch: pa.RecordBatch, now_ms: int) -> Bad:
        """Rows with an impossible time; the batch keeps the order of each partition."""
        bad: Bad = {}
        ts_ms, partitions = column(batch, "ts_ms"), column(batch, "partition")
        for partition in np.unique(partitions).tolist():
            rows = np.flatnonzero(partitions == partition)
            if not self._all_possible(partition, ts_ms[rows], now_ms):
                bad |= self._one_by_one(partition, rows, ts_ms, now_ms)
        return bad

    def _all_possible(self, partition: int, ts_ms: np.ndarray, now_ms: int) -> bool:
        limits = self.limits
        before = np.empty_like(ts_ms)
        before[0] = self._reference(partition, int(ts_ms[0]))
        np.maximum.accumulate(ts_ms[:-1], out=before[1:])
        before[1:] = np.maximum(before[1:], self._newest.get(partition, 0))
        # ts_ms may be anything up to int64's end, so only the known-good `before` is added to.
        early, late = before - limits.too_old_ms, before + limits.future_ms
        ceiling = now_ms + limits.ahead_of_clock_ms
        if not ((ts_ms >= early) & (ts_ms <= late) & (ts_ms <= ceiling)).all():
            return False
        self._newest[partition] = max(int(ts_ms.max()), self._newest.get(partition, 0))
        self._in_a_row[partition] = 0
        return True

    def _one_by_one(self, partition: int, rows: np.ndarray, ts_ms: np.ndarray, now_ms: int) -> Bad:
        limits, bad = self.limits, Bad()
        for row in rows.tolist():
            ts = int(ts_ms[row])
            reference = self._reference(partition, ts)
            if ts > now_ms + limits.ahead_of_clock_ms:
                bad[row] = ("time_future", f"ts_ms {ts} is past the wall clock {now_ms}")
                continue
            if reference - limits.too_old_ms <= ts <= reference + limits.future_ms:
                self._newest[partition] = max(ts, self._newest.get(partition, 0))
                self._in_a_row[partition] = 0
                continue
            self._in_a_row[partition] = self._in_a_row.get(partition, 0) + 1
            if self._in_a_row[partition] > limits.believe_after:
                self._newest[partition], self._in_a_row[partition] = ts, 0
            elif ts > reference:
                bad[row] = ("time_future", f"ts_ms {ts} is over {limits.future_ms} ms after {reference}")
            else:
                bad[row] = ("time_past", f"ts_ms {ts} is over {limits.too_old_ms} ms before {reference}")
        return bad

    def _reference(self, partition: int, default: int) -> int:
        """Newest time of the partition, else of all partitions, else the event's own."""
        return self._newest.get(partition) or max(self._newest.values(), default=default)
