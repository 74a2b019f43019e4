import random

from stream.codec import REASONS
from stream.validate import TimeGuard, TimeLimits, bad_fields
from tests.stream.samples import T0, batch, event

NOW = T0 + 10 * 365 * 86_400_000
DAY = 86_400_000


def guard(**limits):
    return TimeGuard(TimeLimits(**limits))


def times(judge, *ts, partition=0, now=NOW):
    bad = judge.bad_times(batch([event(n, ts_ms=t) for n, t in enumerate(ts)], partition=partition), now)
    return {row: reason for row, (reason, _) in bad.items()}


def test_ids_are_measured_in_bytes():
    events = [
        event(0, user_id="ü" * 128),
        event(1, user_id="ü" * 129),
        event(2, user_id="#" * 256),
        event(3, item_id="é" * 200),
        event(4, event_id="é" * 200),
        event(5, scene="é" * 200),
        event(6, request_id="é" * 200),
        event(7, user_id="#" + "ü" * 128),
    ]
    bad = bad_fields(batch(events))
    assert sorted(bad) == [1, 3, 4, 5, 6, 7]
    assert {reason for reason, _ in bad.values()} == {"invalid_id"}
    assert "258 bytes" in bad[1][1]


def test_an_item_where_the_kind_needs_one():
    bad = bad_fields(batch([event(0, item_id=None), event(1, item_id=None, kind="search")]))
    assert bad == {0: ("missing_field", "item_id is missing; kind 'click' needs one")}


def test_impossible_times():
    judge = guard()
    assert times(judge, T0, T0 + DAY, T0 + 400 * DAY, T0 + 2 * DAY, T0 - 500 * DAY) == {
        2: "time_future",
        4: "time_past",
    }
    assert times(judge, T0 + 3 * DAY, T0 - 300 * DAY) == {}
    assert {"time_future", "time_past"} <= set(REASONS)


def test_the_wall_clock_is_a_ceiling_even_for_the_first_event():
    judge = guard()
    assert times(judge, T0 + 2 * DAY, T0, now=T0) == {0: "time_future"}
    assert times(judge, 2**63 - 1) == {0: "time_future"}
    assert times(judge, T0 + 1) == {}


def test_a_new_partition_is_judged_by_the_others():
    judge = guard()
    times(judge, T0)
    assert times(judge, T0 + 100 * DAY, partition=1) == {0: "time_future"}
    assert times(judge, T0 - 500 * DAY, partition=1) == {0: "time_past"}
    assert times(judge, T0 - DAY, partition=1) == {}


def test_a_jump_of_the_stream_is_believed_in_the_end():
    judge = guard(believe_after=3)
    assert times(judge, T0, *[T0 + 100 * DAY + n for n in range(6)]) == dict.fromkeys(
        (1, 2, 3), "time_future"
    )
    judge = guard(believe_after=3)  # a first event from the past does not lock the stream out
    assert times(judge, 1, *[T0 + n for n in range(6)]) == dict.fromkeys((1, 2, 3), "time_future")


def test_the_verdict_does_not_depend_on_polls():
    rng = random.Random(2)
    ts = [max(1, T0 + rng.randint(-600, 100) * DAY // rng.choice([1, 50])) for _ in range(300)]
    whole = times(guard(), *ts)
    judge, pieces, place = guard(), {}, 0
    while place < len(ts):
        size = rng.randint(1, 20)
        pieces |= {place + row: reason for row, reason in times(judge, *ts[place : place + size]).items()}
        place += size
    assert pieces == whole
    assert whole
