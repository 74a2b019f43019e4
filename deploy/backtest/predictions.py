"""The lists themselves, for a scorer of one's own: predictions.parquet."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deploy.backtest.replay import Answer

_BUFFERED = 8192


class PredictionFile:
    """One row per target, strategy, channel and scope.

    row: index of the target in the time-sorted, de-duplicated positives; items: at most k IDs, best first;
    made_at_watermark_ms: every event that the parameters had learned from lies before it.
    """

    def __init__(self, path: Path, item_ids: pa.Array) -> None:
        """item_ids: by item code, as the event table had them."""
        self._item_ids = item_ids
        self._schema = pa.schema(
            [
                ("row", pa.int64()),
                ("strategy", pa.string()),
                ("channel", pa.string()),
                ("scope", pa.string()),
                ("items", pa.list_(item_ids.type)),
                ("made_at_watermark_ms", pa.int64()),
            ]
        )
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._waiting: list[pa.Table] = []
        self._rows = 0

    def add(self, answer: Answer) -> None:
        """Append an answer's lists."""
        n = len(answer.rows)
        there = answer.best >= 0
        offsets = np.zeros(n + 1, np.int32)
        np.cumsum(there.sum(1), out=offsets[1:])
        ids = self._item_ids.take(pa.array(answer.best[there]))
        columns = [
            pa.array(answer.rows),
            *(pa.repeat(name, n) for name in (answer.strategy, answer.channel, answer.scope)),
            pa.ListArray.from_arrays(offsets, ids),
            pa.repeat(pa.scalar(answer.watermark_ms, pa.int64()), n),
        ]
        self._waiting.append(pa.Table.from_arrays(columns, schema=self._schema))
        self._rows += n
        if self._rows >= _BUFFERED:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting))
        self._waiting, self._rows = [], 0

    def __enter__(self) -> PredictionFile:
        """The open file."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what is left and close."""
        self._flush()
        self._writer.close()
