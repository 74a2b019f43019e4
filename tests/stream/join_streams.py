"""Random streams for the join, random cuts of them into intervals, and what a plain loop makes of them."""

from collections.abc import Iterator
from random import Random

import pyarrow as pa

from stream.event import EVENT_SCHEMA, Event
from stream.join import JoinConfig
from tests.stream.samples import T0, batch

WAIT, HORIZON = 900, 6_000  # ms, so that a short stream has many of both
CONFIG = JoinConfig(wait_s=WAIT / 1000, horizon_s=HORIZON / 1000, kinds=("click", "view", "purchase"))
Row = tuple[str, int, str, str, str, str, dict, dict, bool, int]


def random_stream(rng: Random, requests: int, reach_ms: int, delay_ms: int, doubles: bool) -> list[Event]:
    """Events in the order of arrival. Actions come up to `reach_ms` after their impression (a few before it),
    every event arrives up to `delay_ms` late; doubles: impressions may be repeated.
    """
    events = []

    def add(ts_ms: int, kind: str, request: str, item: int | None, value: float | None = None) -> None:
        n = len(events)
        context = {"geo": rng.choice("ab")} if rng.random() < 0.5 else {}
        fields = {"scene": rng.choice(["", "home"]), "value": value, "context": context}
        one = Event(event_id=f"e{n}", ts_ms=ts_ms, user_id=f"u{n % 5}", item_id=item, kind=kind,
                    request_id=request, **fields)  # fmt: skip
        events.append((ts_ms + rng.randint(0, delay_ms), n, one))

    for r in range(requests):
        at = T0 + rng.randint(0, 4 * HORIZON)
        request = "" if rng.random() < 0.1 else f"r{r}"
        for item in rng.sample(range(50), rng.randint(1, 3)):
            if rng.random() < 0.85:
                add(at, "impression", request, item)
            if doubles and rng.random() < 0.2:
                add(at + rng.randint(0, WAIT), "impression", request, item)
            for _ in range(rng.choice([0, 0, 1, 1, 2, 5])):
                kind = rng.choice(["click", "view", "purchase", "like"])
                value = rng.choice([None, -1.0, 0.5, rng.random() * 9])
                span = rng.choice([WAIT, reach_ms])
                add(
                    at + rng.randint(-WAIT // 2, span),
                    kind,
                    request,
                    rng.choice([item, item, item, 99]),
                    value,
                )
    add(T0 + 1, "search", "r0", None)
    return [event for _, _, event in sorted(events, key=lambda e: (e[0] if delay_ms else e[2].ts_ms, e[1]))]


def random_cut(rng: Random, arriving: list[Event]) -> Iterator[tuple[list[Event], int]]:
    """(events, end) of intervals as the archive would seal them, the stream arriving in random portions."""
    pending, end, place = [], T0, 0
    while place < len(arriving) or pending:
        portion = rng.choice([1, 3, 10, 100])
        pending += arriving[place : place + portion]
        place += portion
        done = place >= len(arriving)
        watermark = max(e.ts_ms for e in arriving[:place]) + (1 if done else 0)
        while end < watermark:
            end = min(watermark, end + rng.choice([50, WAIT, HORIZON, 3 * HORIZON]))
            taken = sorted((e for e in pending if e.ts_ms < end), key=lambda e: e.ts_ms)
            pending = [e for e in pending if e.ts_ms >= end]
            yield taken, end
        if done and pending:  # behind the watermark, at the very end
            end += 1
            yield sorted(pending, key=lambda e: e.ts_ms), end
            pending = []
    for _ in range(4):
        end += HORIZON // 2
        yield [], end


def table(events: list[Event]) -> pa.Table:
    return pa.Table.from_batches([batch(events)], schema=EVENT_SCHEMA)


def rows_of(joined: pa.Table) -> list[Row]:
    return [
        (*(row[name] for name in joined.schema.names[:6]), dict(row["context"]), dict(row["actions"]),
         row["late"], row["emitted_ms"])
        for row in joined.to_pylist()
    ]  # fmt: skip


def largest(actions: list[Event]) -> dict[str, float]:
    best: dict[str, float] = {}
    for kind in {a.kind for a in actions}:
        best[kind] = max((a.value for a in actions if a.kind == kind and a.value is not None), default=0.0)
    return best


def features(e: Event) -> tuple:
    key = f"#{e.item_id}" if isinstance(e.item_id, int) else e.item_id
    return e.event_id, e.ts_ms, e.user_id, key, e.scene, e.request_id, e.context


class PlainJoin:
    """The rules one event at a time, with dicts."""

    def __init__(self) -> None:
        self.open: list[dict] = []
        self.waiting: list[Event] = []
        self.through: int | None = None

    def take(self, events: list[Event], end: int) -> list[Row]:
        for e in events:
            if e.kind != "impression" or (self.through is not None and e.ts_ms + HORIZON <= self.through):
                continue
            held = e.request_id and any(
                (o["event"].request_id, o["event"].item_id) == (e.request_id, e.item_id) for o in self.open
            )
            if not held:
                self.open.append({"event": e, "early": [], "rest": [], "emitted": False})
        self.waiting += [
            e for e in events if e.kind in CONFIG.kinds and e.request_id and e.item_id is not None
        ]
        left = []
        for a in self.waiting:
            for o in self.open:
                e = o["event"]
                if (e.request_id, e.item_id) == (a.request_id, a.item_id) and abs(
                    a.ts_ms - e.ts_ms
                ) < HORIZON:
                    early = a.ts_ms < e.ts_ms + WAIT and not o["emitted"]
                    o["early" if early else "rest"].append(a)
                    break
            else:
                left.append(a)
        self.waiting = [a for a in left if a.ts_ms + HORIZON > end]
        first, late = [], []
        for o in self.open:
            e = o["event"]
            if not o["emitted"] and e.ts_ms + WAIT <= end:
                o["emitted"] = True
                first.append((*features(e), largest(o["early"]), False, end))
            if e.ts_ms + HORIZON <= end and o["rest"]:
                late.append((*features(e), largest(o["early"] + o["rest"]), True, end))
        self.open = [
            o for o in self.open
            if o["event"].ts_ms + HORIZON > end and (o["event"].request_id or not o["emitted"])
        ]  # fmt: skip
        self.through = end
        return first + late


def by_event_time(events: list[Event]) -> list[tuple]:
    """What the rows of a stream have to be whatever the cut, without emitted_ms: for each impression a look
    at every action.
    """
    rows, seen = [], set()
    for e in sorted((e for e in events if e.kind == "impression"), key=lambda e: e.ts_ms):
        pair = (e.request_id, e.item_id)
        if e.request_id and pair in seen:
            continue
        seen.add(pair)
        mine = [
            a for a in events
            if a.kind in CONFIG.kinds and e.request_id and (a.request_id, a.item_id) == pair
            and abs(a.ts_ms - e.ts_ms) < HORIZON
        ]  # fmt: skip
        early = [a for a in mine if a.ts_ms < e.ts_ms + WAIT]
        rows.append((*features(e), largest(early), False))
        if len(early) < len(mine):
            rows.append((*features(e), largest(mine), True))
    return rows
