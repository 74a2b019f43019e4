"""Signals of items, against a plain sum over the events before each moment."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from models.item_signals import HALF_LIVES_H, SIGNALS, ItemSignals, SignalList

HOUR = 3_600_000
POSITIVES = ("click", "buy")
KINDS = (*POSITIVES, "impression", "view", "reject")


def events(n: int, seed: int, hours: int = 300) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "item_id": [f"#{item}" if item else "" for item in rng.integers(0, 12, n)],
            "kind": rng.choice(KINDS, n),
            "ts_ms": pa.array(np.sort(rng.integers(0, hours * HOUR, n)), pa.int64()),
        }
    )


def by_hand(table: pa.Table, item: str, as_of_ms: int) -> list[float]:
    rows = [r for r in table.to_pylist() if r["item_id"] == item and r["kind"] != "reject"]
    values = []
    for taken in (True, False):
        ages = [
            as_of_ms - row["ts_ms"]
            for row in rows
            if (row["kind"] in POSITIVES) == taken and row["ts_ms"] < as_of_ms
        ]
        values += [np.log1p(sum(0.5 ** (age / (h * HOUR)) for age in ages)) for h in HALF_LIVES_H]
    first = min((row["ts_ms"] for row in rows), default=as_of_ms)
    return [*values, np.log1p(max(as_of_ms - first, 0) / HOUR)]


@pytest.mark.parametrize("parts", [1, 4])
def test_values_are_sums_over_what_came_before(parts: int) -> None:
    table = events(900, parts)
    signals = ItemSignals(POSITIVES)
    for at in range(parts):
        signals.observe(table.slice(at * 900 // parts, 900 // parts))
    items = [f"#{item}" for item in range(14)]
    for as_of_ms in (0, 17 * HOUR + 5, 160 * HOUR, 400 * HOUR):
        values = signals.values(pa.array(items), np.full(len(items), as_of_ms))
        assert values.shape == (14, SIGNALS)
        expected = [by_hand(table, item, as_of_ms) for item in items]
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)


def test_a_trim_and_a_round_trip_change_no_later_value() -> None:
    table, items = events(600, 3), pa.array([f"#{item}" for item in range(1, 12)])
    signals = ItemSignals(POSITIVES)
    signals.observe(table)
    moments = np.full(len(items), 290 * HOUR)
    before = signals.values(items, moments)
    signals.trim(280 * HOUR)
    again = ItemSignals.from_state(signals.state())
    assert again.positives == POSITIVES
    np.testing.assert_allclose(again.values(items, moments), before, rtol=1e-5)
    with pytest.raises(ValueError, match="folded"):
        again.values(items, moments - 20 * HOUR)


def test_forgotten_items_are_new_when_they_come_back() -> None:
    signals = ItemSignals(POSITIVES)
    at = pa.array([0, 90 * HOUR], pa.int64())
    signals.observe(pa.table({"item_id": ["#1", "#2"], "kind": ["click", "click"], "ts_ms": at}))
    signals.expire(50 * HOUR)
    now = np.full(2, 100 * HOUR)
    assert not signals.values(pa.array(["#1", "#3"]), now).any()
    back = pa.array([95 * HOUR], pa.int64())
    signals.observe(pa.table({"item_id": ["#1"], "kind": ["impression"], "ts_ms": back}))
    values = signals.values(pa.array(["#1", "#2"]), now)
    assert values[0, -1] == pytest.approx(np.log1p(5))
    assert values[0, :4].tolist() == [0, 0, 0, 0]
    assert values[1, -1] == pytest.approx(np.log1p(10))


def test_the_list_holds_the_newest_and_comes_back_whole() -> None:
    table = events(300, 5)
    signals = ItemSignals(POSITIVES)
    signals.observe(table)
    listed = signals.listed(300 * HOUR, 5)
    assert len(listed.keys) == 5
    expected = [by_hand(table, item, 300 * HOUR) for item in listed.keys.to_pylist()]
    np.testing.assert_allclose(listed.values, expected, rtol=1e-5, atol=1e-6)
    again = SignalList.from_tensors(listed.tensors("x/"), "x/")
    assert again.keys == listed.keys
    assert again.values.tobytes() == listed.values.tobytes()
    with pytest.raises(ValueError, match="signals: expected"):
        SignalList.from_tensors({**listed.tensors(), "values": listed.values[:, :-1]})
