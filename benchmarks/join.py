"""The impression-action join, hour by hour with its state, against one batch join of a day in Arrow."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.measure import Result, rates
from stream.join import ImpressionJoin, JoinConfig

HOUR_MS = 3_600_000
START_MS = 1_700_000_000_000 // HOUR_MS * HOUR_MS
KINDS, SHARES = ("click", "view", "long_view", "like"), (0.45, 0.9, 0.32, 0.02)
"""Actions per impression, about those of KuaiRand's random exposures."""


def day(impressions: int, rng: np.random.Generator) -> pa.Table:
    """A day of impressions, six to a request, and their actions within ten minutes; EVENT_COLUMNS."""
    number = np.arange(impressions)
    shown_ms = START_MS + rng.integers(0, 24 * HOUR_MS, impressions // 6 + 1)[number // 6]
    item = rng.integers(0, 50_000, impressions)
    parts = [(number, np.full(impressions, "impression"), shown_ms)]
    for kind, share in zip(KINDS, SHARES, strict=True):
        acted = np.flatnonzero(rng.random(impressions) < share)
        parts.append(
            (acted, np.full(len(acted), kind), shown_ms[acted] + rng.integers(500, 600_000, len(acted)))
        )
    of, kinds, ts_ms = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(ts_ms, kind="stable")
    of, kinds, ts_ms = of[order], kinds[order], ts_ms[order]
    geo = pa.MapArray.from_arrays(
        np.arange(len(of) + 1, dtype=np.int32), pa.array(["geo"] * len(of)), pa.array(["de"] * len(of))
    )
    return pa.table(
        {
            "event_id": pa.array(np.arange(len(of))).cast(pa.string()),
            "ts_ms": ts_ms,
            "user_id": pa.array(of // 600).cast(pa.string()),
            "item_id": pa.array(item[of]).cast(pa.string()),
            "scene": pa.array(["tab1"] * len(of)),
            "request_id": pa.array(of // 6).cast(pa.string()),
            "context": geo,
            "kind": pa.array(kinds),
            "value": pa.array(rng.random(len(of))),
        }
    )


def hourly(impressions: int) -> list[Result]:
    """Impressions and 1.69 actions each in 24 hours; wait 15 minutes, horizon a day; in memory."""
    events = day(impressions, np.random.default_rng(7))
    ends_ms = START_MS + HOUR_MS * np.arange(1, 50)
    cuts = np.searchsorted(events["ts_ms"].to_numpy(), ends_ms)
    most = [0]

    def ours() -> None:
        join, begin = ImpressionJoin(JoinConfig()), 0
        for end_ms, cut in zip(ends_ms.tolist(), cuts.tolist(), strict=True):
            join.take(events.slice(begin, cut - begin), end_ms)
            begin = cut
            held = (join.state.open, join.state.held, join.state.waiting)
            most[0] = max(most[0], sum(table.nbytes for table in held))
        if join.counts.emitted != join.counts.impressions or join.state.open.num_rows:
            raise RuntimeError(f"benchmark: expected a row of every impression, got {join.counts}")

    def theirs() -> None:
        shown = pc.equal(events["kind"], "impression")
        pair = ["request_id", "item_id"]
        acted = events.filter(pc.invert(shown)).group_by([*pair, "kind"], use_threads=False)
        rows = events.filter(shown).drop_columns(["context", "kind", "value"])
        rows.join(acted.aggregate([("value", "max")]), pair, use_threads=False)

    value, peer = rates(len(events), ours, theirs, rounds=3)
    params = {"events": len(events), "intervals": len(ends_ms), "held_bytes": most[0]}
    name = "pyarrow group_by and join, whole day at once"
    return [Result("join.hourly", value, "events/s", name, peer, params=params)]
