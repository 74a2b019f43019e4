"""Counts by segment and the lifts made of them, against brute force."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from models import segment_counts
from models.catalogue_columns import CatalogueColumns
from models.segment_counts import SegmentCounts
from models.segment_lifts import JOINT, SegmentLifts, field_columns, fields_of

HOUR = 3_600_000
FIELDS = ("context.scene", "user.age", "context.place")
USERS = CatalogueColumns(
    users=pa.table({"user_id": [f"u{n}" for n in range(30)], "age": [str(n % 4) for n in range(30)]})
)


def events(n: int = 600, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    places = [[("place", "x")] if drawn else [] for drawn in rng.integers(0, 2, n)]
    return pa.table(
        {
            "ts_ms": pa.array(rng.integers(0, 30 * HOUR, n), pa.int64()),
            "item_id": [f"i{drawn}" if drawn else "" for drawn in rng.integers(0, 20, n)],
            "user_id": [f"u{drawn}" for drawn in rng.integers(0, 40, n)],  # the catalogue knows 30
            "scene": [["", "s", "t"][drawn] for drawn in rng.integers(0, 3, n)],
            "kind": rng.choice(["impression", "click", "reject"], n),
            "context": pa.array(places, pa.map_(pa.string(), pa.string())),
        }
    )


def by_hand(table: pa.Table, segment: str, item: str, half_life_ms: int) -> float:
    """The lift, one event after the other."""
    rows = [row for row in table.to_pylist() if row["item_id"] and row["kind"] != "reject"]
    newest_ms = max(row["ts_ms"] for row in rows)
    totals = {"all": 0.0, "item": 0.0, "segment": 0.0, "both": 0.0}
    for row in rows:
        weight = 0.5 ** ((newest_ms - row["ts_ms"]) / half_life_ms)
        user = int(row["user_id"][1:])
        said = {
            f"context.scene{JOINT}{row['scene']}",
            f"user.age{JOINT}{user % 4 if user < 30 else ''}",
            f"context.place{JOINT}{dict(row['context']).get('place', '')}",
        }
        inside, same = segment in said, row["item_id"] == item
        totals["all"] += weight
        totals["item"] += weight * same
        totals["segment"] += weight * inside
        totals["both"] += weight * (inside and same)
    share = totals["item"] / totals["all"]
    return float(np.log((totals["both"] + 5 * share) / ((totals["segment"] + 5) * share)))


@pytest.mark.parametrize("parts", [1, 7])
def test_lifts_are_those_of_brute_force_however_the_events_come(parts: int) -> None:
    table, counts = events(), SegmentCounts(FIELDS, 6 * HOUR)
    for part in np.array_split(np.arange(len(table)), parts):
        counts.observe(table.take(pa.array(part)), USERS)
    lifts = counts.lifts()
    segments, items = lifts.segments.to_pylist(), lifts.items.to_pylist()
    expected = {f"context.scene{JOINT}s", f"context.scene{JOINT}t", f"context.place{JOINT}x"}
    assert set(segments) == expected | {f"user.age{JOINT}{age}" for age in range(4)}
    assert set(items) == {f"i{n}" for n in range(1, 20)}
    wanted = [[by_hand(table, segment, item, 6 * HOUR) for item in items] for segment in segments]
    np.testing.assert_allclose(lifts.lifts, wanted, rtol=2e-3, atol=2e-3)


def test_what_a_request_reads() -> None:
    counts = SegmentCounts(FIELDS, 6 * HOUR)
    counts.observe(events(), USERS)
    lifts = counts.lifts()
    columns = {("context", "scene"): pa.array(["t", "never"]), ("user", "age"): pa.array([None, "2"])}
    rows = lifts.rows(columns, 2)
    names = [[lifts.segments[row].as_py() if row >= 0 else "" for row in one] for one in rows]
    assert names == [[f"context.scene{JOINT}t", "", ""], ["", f"user.age{JOINT}2", ""]]
    places = lifts.places(pa.array(["i3", "unknown", "i1"]))
    found = lifts.of(places, rows[0])
    assert found.shape == (3, 3)
    assert found[[0, 2], 0].tolist() == lifts.lifts[rows[0][0], places[[0, 2]]].tolist()
    assert not found[1].any()
    assert not found[:, 1:].any()
    nothing = SegmentCounts(FIELDS, HOUR).lifts()
    assert nothing.fields == FIELDS
    assert nothing.of(nothing.places(pa.array(["i3"])), nothing.rows(columns, 2)[0]).tolist() == [[0, 0, 0]]


def test_round_trips_go_on_alike() -> None:
    table, counts = events(), SegmentCounts(FIELDS, 6 * HOUR)
    counts.observe(table.slice(0, 300), USERS)
    again = SegmentCounts.from_state(counts.state())
    for one in (counts, again):
        one.observe(table.slice(300), USERS)
    tensors, other = counts.lifts().tensors("a/"), again.lifts().tensors("a/")
    assert all(tensors[name].tobytes() == part.tobytes() for name, part in other.items())
    read = SegmentLifts.from_tensors(tensors, "a/")
    assert read.fields == FIELDS
    assert read.lifts.tobytes() == counts.lifts().lifts.tobytes()
    with pytest.raises(ValueError, match="lifts: expected finite float16"):
        SegmentLifts.from_tensors({**tensors, "a/lifts": tensors["a/lifts"][:-1]}, "a/")


def test_what_is_held_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_counts, "ITEMS", 4)
    monkeypatch.setattr(segment_counts, "SEGMENTS", 3)
    table, whole, counts = events(), SegmentCounts(FIELDS, 6 * HOUR), SegmentCounts(FIELDS, 6 * HOUR)
    whole.observe(table, USERS)
    counts.observe(table, USERS)
    lifts, state = counts.lifts(), counts.state()
    assert lifts.lifts.shape == (3, 4)
    assert len(state["count"]) <= 2 * 3 * 2 * 4
    # Two days later all but what comes then has faded.
    late = table.slice(0, 9).set_column(0, "ts_ms", pa.array([200 * HOUR] * 9, pa.int64()))
    counts.observe(late, USERS)
    told = {row["item_id"] for row in late.to_pylist() if row["item_id"] and row["kind"] != "reject"}
    assert set(counts.lifts().items.to_pylist()) <= told


def test_fields_are_the_categories_of_the_request_side() -> None:
    columns = field_columns(FIELDS)
    assert columns.reads("user") == ["age"]
    assert fields_of(columns.categories) == FIELDS
    with pytest.raises(ValueError, match="half_life_ms must be above 0"):
        SegmentCounts(FIELDS, 0)
    silent = SegmentCounts((), HOUR)
    silent.observe(events(), USERS)
    assert silent.lifts().lifts.size == 0
