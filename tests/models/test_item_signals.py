"""Signals of items, against a plain sum over the events before each moment."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from models.item_signals import HALF_LIVES_H, SIGNALS, ItemSignals

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
    return values


@pytest.mark.parametrize("parts", [1, 4])
def test_values_are_sums_over_what_came_before(parts: int) -> None:
    table = events(900, parts)
    signals = ItemSignals(POSITIVES)
    signals.observe(table.slice(0, 0))
    for at in range(parts):
        signals.observe(table.slice(at * 900 // parts, 900 // parts))
    items = [f"#{item}" for item in range(14)]
    for as_of_ms in (0, 17 * HOUR + 5, 160 * HOUR, 400 * HOUR):
        values = signals.values(signals.entries(pa.array(items)), as_of_ms)
        assert values.shape == (14, SIGNALS)
        expected = [by_hand(table, item, as_of_ms) for item in items]
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
