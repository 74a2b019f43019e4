import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy import replay as replay_module
from deploy.event_ids import derived_event_ids
from deploy.replay import replay


class Wall:
    """A clock that only its own sleep moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds + 1e-6


def test_events_are_sent_when_their_event_time_comes() -> None:
    wall = Wall()
    sent: list[tuple[float, int]] = []

    def send(part: pa.Table) -> None:
        sent.extend((wall.now_s - 100.0, ts) for ts in part["ts_ms"].to_pylist())

    times = [1_000_000, 1_000_000, 1_003_600, 1_360_000, 4_600_000]
    assert replay(pa.table({"ts_ms": times}), send, 3600.0, clock=wall.clock, sleep=wall.sleep) == 5
    assert [ts for _, ts in sent] == times
    for wall_s, ts in sent:
        assert wall_s == pytest.approx((ts - times[0]) / 3_600_000, abs=replay_module.TICK_S)


def test_as_fast_as_possible_in_bounded_parts_with_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_module, "MAX_ROWS", 3)
    sizes: list[int] = []
    reached: list[tuple[int, int]] = []
    table = pa.table({"ts_ms": list(range(7))})
    assert (
        replay(table, lambda part: sizes.append(len(part)), None, lambda n, ts: reached.append((n, ts))) == 7
    )
    assert sizes == [3, 3, 1]
    assert reached == [(3, 2), (6, 5), (7, 6)]


def test_an_empty_table_sends_nothing() -> None:
    assert replay(pa.table({"ts_ms": pa.array([], pa.int64())}), lambda part: pytest.fail("sent"), 1.0) == 0


rows = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from(["u", "v", "#1"]),
        st.sampled_from(["a", "b"]),
        st.sampled_from([None, 0.0, 1.5]),
    ),
    max_size=40,
)


def table_of(content: list[tuple[int, str, str, float | None]]) -> pa.Table:
    ts, users, items, values = (
        zip(*sorted(content, key=lambda row: row[0]), strict=True) if content else ((),) * 4
    )
    return pa.table(
        {
            "ts_ms": pa.array(ts, pa.int64()),
            "user_id": pa.array(users, pa.string()),
            "item_id": pa.array(items, pa.string()),
            "kind": pa.repeat("click", len(ts)),
            "scene": pa.repeat("", len(ts)),
            "request_id": pa.repeat("", len(ts)),
            "value": pa.array(values, pa.float64()),
        }
    )


@given(rows, st.integers(0, 3))
def test_derived_ids_are_distinct_and_the_same_for_any_span_of_time(
    content: list[tuple[int, str, str, float | None]], cut: int
) -> None:
    table = table_of(content)
    whole = derived_event_ids(table).to_pylist()
    assert len(set(whole)) == len(whole)
    first = sum(ts < cut for ts in table["ts_ms"].to_pylist())
    parts = [table.slice(0, first), table.slice(first)]
    assert [text for part in parts for text in derived_event_ids(part).to_pylist()] == whole


def test_derived_ids_are_pinned() -> None:
    """Another value would make every event of a table that was already replayed look new."""
    table = table_of([(1, "u", "a", None), (1, "u", "a", None), (2, "v", "b", 1.5)])
    assert derived_event_ids(table).to_pylist() == PINNED


def test_an_integer_id_differs_from_its_text() -> None:
    text = table_of([(1, "5", "a", None)])
    number = text.set_column(1, "user_id", pa.array([5]))
    assert derived_event_ids(text)[0].as_py() != derived_event_ids(number)[0].as_py()


PINNED = [
    "68a4940da124d8b4a1884e0271d74989",
    "fae93423d0846951668b57b952de9945",
    "6f04eca39d62f67d09ec68f994ed09cd",
]
