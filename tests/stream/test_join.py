"""The join of impressions with actions against plain loops, over any cut into intervals."""

from random import Random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from stream.event import KINDS, Event
from stream.join import JOINED_SCHEMA, ImpressionJoin, JoinConfig
from stream.join_state import JoinState
from tests.stream.join_streams import (
    CONFIG,
    HORIZON,
    WAIT,
    PlainJoin,
    by_event_time,
    random_cut,
    random_stream,
    rows_of,
    table,
)
from tests.stream.samples import T0


def joined(cut) -> list:
    """Rows of a whole stream; the state goes through its bytes after every interval."""
    state, rows = None, []
    for events, end in cut:
        join = ImpressionJoin(CONFIG, state)
        rows += rows_of(join.take(table(events), end))
        frames = join.state.frames()
        state = JoinState.from_frames(frames)
        assert state.frames() == frames
    return rows


def text(rows) -> list[str]:
    return sorted(map(repr, rows))


def final(rows) -> dict:
    """One row of each impression, the late one where there is one, without emitted_ms and late."""
    late = {(row[0]) for row in rows if row[8]}
    return {row[0]: row[:8] for row in rows if row[8] or row[0] not in late}


def dicts_in_order(row):
    return (*row[:6], sorted(row[6].items()), sorted(row[7].items()), *row[8:])


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=False))
def test_any_disorder_equals_the_plain_loop(rng: Random) -> None:
    stream = random_stream(rng, 15, 2 * HORIZON, rng.choice([0, WAIT, 3 * HORIZON]), doubles=True)
    cut = list(random_cut(rng, stream))
    plain = PlainJoin()
    expected = [row for events, end in cut for row in plain.take(events, end)]
    assert [dicts_in_order(row) for row in joined(cut)] == [dicts_in_order(row) for row in expected]


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False))
def test_rows_of_a_stream_in_order_do_not_depend_on_the_cut(rng: Random) -> None:
    stream = random_stream(rng, 15, 2 * HORIZON, 0, doubles=True)
    expected = text(dicts_in_order(row) for row in by_event_time(stream))
    for _ in range(3):
        rows = joined(random_cut(rng, stream))
        assert text(dicts_in_order(row[:-1]) for row in rows) == expected


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False))
def test_events_that_come_late_change_the_final_rows_in_no_cut(rng: Random) -> None:
    """As long as they come before the horizon is over."""
    stream = random_stream(rng, 15, HORIZON // 2, HORIZON // 3, doubles=False)
    expected = final(by_event_time(stream))
    for _ in range(3):
        assert final(joined(random_cut(rng, stream))) == expected


def event(kind: str, ts_ms: int, request: str = "r", item: int = 1, **fields) -> Event:
    defaults = {"event_id": f"{kind}-{ts_ms}", "user_id": "u"}
    return Event(
        **{**defaults, "kind": kind, "ts_ms": T0 + ts_ms, "request_id": request, "item_id": item, **fields}
    )


def test_a_row_tells_what_was_logged_and_what_followed() -> None:
    join = ImpressionJoin(CONFIG)
    impression = event("impression", 0, scene="home", context={"geo": "de"})
    rows = join.take(
        table([impression, event("view", 5, value=3.0), event("view", 6, value=8.0), event("click", 7)]),
        T0 + WAIT,
    )
    assert rows.schema.equals(JOINED_SCHEMA)
    assert rows_of(rows) == [
        (
            "impression-0",
            T0,
            "u",
            "#1",
            "home",
            "r",
            {"geo": "de"},
            {"click": 0.0, "view": 8.0},
            False,
            T0 + WAIT,
        )
    ]
    assert join.take(table([]), T0 + HORIZON).num_rows == 0
    assert join.state.open.num_rows == join.state.held.num_rows == join.state.waiting.num_rows == 0


def test_a_late_row_comes_once_with_everything() -> None:
    join = ImpressionJoin(CONFIG)
    join.take(table([event("impression", 0), event("view", 5, value=3.0)]), T0 + WAIT)
    late = [event("click", WAIT), event("purchase", HORIZON - 1, value=2.0), event("click", HORIZON)]
    assert join.take(table(late[:1]), T0 + 2 * WAIT).num_rows == 0
    assert join.take(table(late[1:]), T0 + HORIZON + 1).to_pylist()[0]["actions"] == [
        ("click", 0.0),
        ("view", 3.0),
        ("purchase", 2.0),
    ]
    assert join.take(table([]), T0 + 3 * HORIZON).num_rows == 0
    counts = join.counts
    assert (counts.emitted, counts.late, counts.joined, counts.orphans) == (1, 1, 3, 1)


def test_what_joins_nothing_is_counted() -> None:
    join = ImpressionJoin(CONFIG)
    events = [
        event("impression", 0, request=""), event("impression", 1, request=""), event("impression", 2),
        event("impression", 3), event("click", 4, request=""), event("click", 5, item=2), event("like", 6),
    ]  # fmt: skip
    rows = join.take(table(events), T0 + WAIT + 2)
    assert [(row[0], row[7]) for row in rows_of(rows)] == [(f"impression-{n}", {}) for n in (0, 1, 2)]
    join.take(table([]), T0 + 2 * HORIZON)
    assert join.take(table([event("impression", 7)]), T0 + 2 * HORIZON + 1).num_rows == 0
    counts = join.counts
    assert (counts.impressions, counts.without_request, counts.duplicates, counts.too_late) == (3, 2, 1, 1)
    assert (counts.joined, counts.orphans, counts.emitted, counts.late) == (0, 2, 3, 0)


def test_the_horizon_bounds_memory() -> None:
    join, rng = ImpressionJoin(CONFIG), Random(1)
    step, sizes, each = HORIZON // 10, [], 20
    for n in range(100):
        at = n * step
        events = [event("impression", at, f"r{n}", i) for i in range(each)]
        # Many actions of an impression take the room of one per kind and interval.
        back = rng.randrange(12)
        events += [event("click", at + 1, f"r{max(0, n - back)}", i % each) for i in range(10 * each)]
        events += [event("click", at + 2, f"nobody-{n}-{i}") for i in range(each)]
        join.take(table(events), T0 + at + step)
        sizes.append([len(join.state.open), len(join.state.held), len(join.state.waiting)])
    most = [max(column) for column in zip(*sizes[30:], strict=True)]
    assert most[0] <= 11 * each
    assert most[1] <= 12 * each
    assert most[2] <= 11 * (each + 10 * each)


def test_an_interval_is_taken_once() -> None:
    join = ImpressionJoin(CONFIG)
    join.take(table([]), T0)
    with pytest.raises(ValueError, match="ends after"):
        join.take(table([]), T0)


def test_a_state_survives_new_kinds_in_the_contract() -> None:
    join = ImpressionJoin(CONFIG)
    join.take(table([event("impression", 0), event("click", 1), event("view", 2, item=5)]), T0 + 3)
    frames = join.state.frames()
    swapped = frames[0].replace(b'"click"', b'"?"').replace(b'"hate"', b'"click"').replace(b'"?"', b'"hate"')
    state = JoinState.from_frames([swapped, *frames[1:]])
    assert [KINDS[kind] for kind in state.held["kind"].to_pylist()] == ["hate"]
    assert [KINDS[kind] for kind in state.waiting["kind"].to_pylist()] == ["view"]
    with pytest.raises(ValueError, match="frames"):
        JoinState.from_frames(frames[:-1])


def test_schema() -> None:
    assert JOINED_SCHEMA.to_string() == (
        "event_id: string not null\nts_ms: int64 not null\nuser_id: string not null\n"
        "item_id: string not null\nscene: string not null\nrequest_id: string not null\n"
        "context: map<string, string> not null\n"
        "  child 0, entries: struct<key: string not null, value: string> not null\n"
        "      child 0, key: string not null\n      child 1, value: string\n"
        "actions: map<string, double> not null\n"
        "  child 0, entries: struct<key: string not null, value: double> not null\n"
        "      child 0, key: string not null\n      child 1, value: double\n"
        "late: bool not null\nemitted_ms: int64 not null"
    )
    assert pa.types.is_map(JOINED_SCHEMA.field("actions").type)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValidationError, match="at least wait_s"):
        JoinConfig(wait_s=10, horizon_s=5)
    with pytest.raises(ValidationError, match="impression"):
        JoinConfig(kinds=("click", "impression"))
    with pytest.raises(ValidationError, match="waits"):
        JoinConfig(waits=3)  # type: ignore[call-arg]
