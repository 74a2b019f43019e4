"""What is kept of a run beside its figures: where every target stood in every list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from deploy.backtest.metrics import touched
from deploy.backtest.plan import steps
from deploy.backtest.targets import Targets

CUT = 50
"""Recall is shown at this length."""
SHORT_CUT = 20
"""And where a list is ordered again, at this one."""


def condense(predictions: Path, about: dict[str, Any], targets: Targets) -> pa.Table:
    """row, user (code), strategy, channel, scope, place (0 = first, -1 = not in the list), touched.

    about: of the run's metrics.json. touched: the target's user or item had a positive between the last full
    retrain and the interval of the target, so an incremental step has moved a row that its score reads.
    """
    file = pq.ParquetFile(predictions)
    parts = [_placed(pa.Table.from_batches([batch]), targets) for batch in file.iter_batches(32_768)]
    table = pa.concat_tables(parts)
    cut = steps(about["start_ms"], about["end_ms"], about["interval_ms"], about["day_timezone"])
    rows, back = np.unique(table["row"].to_numpy(), return_inverse=True)
    flags = touched(targets, rows, cut)[back]
    users = targets.user[table["row"].to_numpy()]
    return table.append_column("user", pa.array(users)).append_column("touched", pa.array(flags))


def _placed(table: pa.Table, targets: Targets) -> pa.Table:
    rows = table["row"].to_numpy()
    lists = table["items"].combine_chunks()
    offsets = lists.offsets.to_numpy() - lists.offsets[0].as_py()
    items = pc.index_in(lists.flatten(), targets.item_keys).to_numpy(zero_copy_only=False)
    holder = np.repeat(np.arange(len(rows)), np.diff(offsets))
    hit = np.flatnonzero(items == targets.item[rows][holder])
    place = np.full(len(rows), -1, np.int16)
    place[holder[hit]] = hit - offsets[holder[hit]]
    return table.drop_columns(["items", "made_at_watermark_ms"]).append_column("place", pa.array(place))


class Hits:
    """Of one run, by contestant."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    @classmethod
    def read(cls, file: Path) -> Hits:
        return cls(pq.read_table(file, read_dictionary=["strategy", "channel", "scope"]))

    def of(self, strategy: str, channel: str, scope: str) -> dict[str, np.ndarray]:
        """row, user, recall@20 and @50, ndcg@100 float64, touched, of n targets in order of their rows."""
        wanted = {"strategy": strategy, "channel": channel, "scope": scope}
        mask = np.logical_and.reduce(
            [pc.equal(self._table[name], value).to_numpy() for name, value in wanted.items()]
        )
        part = self._table.filter(pa.array(mask)).sort_by("row")
        place = part["place"].to_numpy().astype(np.float64)
        there = place >= 0
        return {
            "row": part["row"].to_numpy(),
            "user": part["user"].to_numpy(),
            "touched": part["touched"].to_numpy(),
            **{f"recall@{cut}": (there & (place < cut)).astype(np.float64) for cut in (SHORT_CUT, CUT)},
            "ndcg@100": np.where(there, 1 / np.log2(np.maximum(place, 0) + 2), 0.0),
        }
