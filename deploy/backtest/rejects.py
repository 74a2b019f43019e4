"""What the pre-rank of a backtest turns down, as the events that a server would send (serving/rejects.py).

The next full retrain reads them among the events of its day: hard negatives of the models that ask for them.
A reject has the moment at which its request began, like a server's, and says nothing of what came later.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deploy.backtest.settings import PRERANK, RejectsBack
from deploy.backtest.targets import History, Targets
from models.arrays import BoolArray, Float32Array, Int32Array, Int64Array
from models.reject_events import REJECT
from stream.event import EVENT_SCHEMA


def turned_down(scores: Float32Array, keep: int, most: int) -> tuple[Int64Array, Int64Array]:
    """What a stage rejects and names of its candidates: their places int64[n] and their ranks int64[n].

    scores: float32[N], in the order before the stage. At most `most` of those behind the first `keep`, evenly
    over the ranks: `Staged.then` and `spread` of serving/stages.py.
    """
    beyond = max(len(scores) - keep, 0)
    step = max(beyond / max(most, 1), 1.0)
    ranks: Int64Array = keep + (np.arange(min(most, beyond)) * step).astype(np.int64)
    return np.argsort(-scores, kind="stable")[ranks], ranks


@dataclass(frozen=True)
class _OfRequest:
    """Rejects of one request, by the number of its target."""

    row: int
    codes: Int32Array
    ranks: Int64Array
    scores: Float32Array


class RejectLog:
    """Rejects of every strategy, until the full retrains have read them."""

    def __init__(self, targets: Targets, back: RejectsBack) -> None:
        self._targets, self._back = targets, back
        self._held: dict[str, list[_OfRequest]] = {}
        self._begins = np.zeros(len(targets), np.bool_)  # a request is answered once
        self._begins[np.unique(targets.request, return_index=True)[1]] = True

    def rows_of_day(self, start_ms: int, end_ms: int) -> Int64Array:
        """Targets whose requests may be told of, by the day's own content only."""
        rows = self._targets.sampled(start_ms, end_ms, self._back.requests_a_day, self._back.seed)
        chosen: Int64Array = rows[self._begins[rows]]
        return chosen

    def as_of_request(self, rows: Int64Array, history: History, since_ms: int) -> BoolArray:
        """Which targets (int64[n]) are answered as when their requests began, at or after since_ms, bool[n].

        Not where the user did something else between the request and what came of it, which the list knows.
        """
        targets = self._targets
        newest_ms = np.full(len(rows), np.iinfo(np.int64).min)
        some = np.diff(history.offsets) > 0
        newest_ms[some] = targets.ts_ms[history.targets[history.offsets[1:][some] - 1]]
        asked_ms = targets.asked_ms[rows]
        known: BoolArray = (asked_ms >= since_ms) & (newest_ms < asked_ms)
        return known

    def take(self, strategy: str, row: int, codes: Int64Array, scores: Float32Array, keep: int) -> None:
        """Note what the pre-rank turns down of the items `codes` int64[N] when target number `row` is asked
        for; scores float32[N], in the order before it.
        """
        places, ranks = turned_down(scores, keep, self._back.per_request)
        found = _OfRequest(row, codes[places].astype(np.int32), ranks, scores[places])
        self._held.setdefault(strategy, []).append(found)

    def joined(self, strategy: str, events: pa.Table, start_ms: int | None, end_ms: int) -> pa.Table:
        """EVENT_SCHEMA: the events of start_ms <= ts_ms < end_ms (None = from the first one), and among them
        the strategy's rejects of that stretch, behind what has the same time.
        """
        asked_ms = self._targets.asked_ms
        held = [
            one
            for one in self._held.get(strategy, [])
            if (start_ms is None or asked_ms[one.row] >= start_ms) and asked_ms[one.row] < end_ms
        ]
        if not held:
            return events
        every = pa.concat_tables([events, self._events(held)])
        return every.take(pa.array(np.argsort(every["ts_ms"].to_numpy(), kind="stable")))

    def forget(self, before_ms: int) -> None:
        """Drop the rejects of before_ms and earlier: the retrains have read them."""
        asked_ms = self._targets.asked_ms
        self._held = {
            name: [one for one in held if asked_ms[one.row] >= before_ms] for name, held in self._held.items()
        }

    def _events(self, held: list[_OfRequest]) -> pa.Table:
        targets = self._targets
        rows = np.repeat([one.row for one in held], [len(one.codes) for one in held])
        n = len(rows)
        ranks = pa.array(np.concatenate([one.ranks for one in held])).cast(pa.string())
        names = pa.concat_arrays([pa.array([PRERANK]), ranks])
        told = names.take(pa.array(np.stack([np.zeros(n, np.int64), 1 + np.arange(n)], 1).ravel()))
        keys = pa.array(["stage", "rank"]).take(pa.array(np.tile([0, 1], n)))
        empty, zeros = pa.repeat("", n), pa.array(np.zeros(n, np.int32))
        columns = {
            "event_id": pc.binary_join_element_wise(PRERANK, pa.array(rows).cast(pa.string()), ranks, "-"),
            "ts_ms": pa.array(targets.asked_ms[rows]),
            "user_id": targets.user_keys.take(pa.array(targets.user[rows])),
            "item_id": targets.item_keys.take(pa.array(np.concatenate([one.codes for one in held]))),
            "kind": pa.repeat(REJECT, n),
            "scene": empty,
            "request_id": empty,
            "value": pa.array(np.concatenate([one.scores for one in held])),
            "context": pa.MapArray.from_arrays(np.arange(n + 1, dtype=np.int32) * 2, keys, told),
            "incarnation": zeros,
            "partition": pa.array(np.ones(n, np.int32)),  # one of their own
            "offset": pa.array(np.arange(n)),
            "ordinal": zeros,
        }
        arrays = [columns[field.name].cast(field.type) for field in EVENT_SCHEMA]
        return pa.Table.from_arrays(arrays, schema=EVENT_SCHEMA)
