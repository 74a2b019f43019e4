"""Counts by segment and the affinities made of them, against brute force."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from models import affinity_counts
from models.affinities import HISTORY, JOINT, Affinities, read_features
from models.affinity_counts import AffinityCounts
from models.catalogue_columns import CatalogueColumns
from models.feature_config import FeatureConfig
from models.moments import Moments

HOUR = 3_600_000
FEATURES = (
    FeatureConfig(name="scene", source="context"),
    FeatureConfig(name="age", source="user"),
    FeatureConfig(name="place", source="context"),
    FeatureConfig(name="author", source="item"),
    FeatureConfig(name="tags", source="item", kind="categories", length=3),
)
NAMED = (
    *("lift by context.scene", "lift by user.age", "lift by context.place"),
    *("share of item.author", "share of item.tags"),
)
AUTHORS = {f"i{n}": f"a{n % 3}" if n % 5 else "" for n in range(20)}
TAGS = {f"i{n}": [f"t{n % 2}", f"t{n % 4}", "x"][: n % 4] for n in range(20)}
CATALOGUE = CatalogueColumns(
    users=pa.table({"user_id": [f"u{n}" for n in range(30)], "age": [str(n % 4) for n in range(30)]}),
    items=pa.table(
        {
            "item_id": list(AUTHORS),
            "author": list(AUTHORS.values()),
            "tags": [",".join(tags) for tags in TAGS.values()],
        }
    ),
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
    table, counts = events(), AffinityCounts(FEATURES, 6 * HOUR)
    for part in np.array_split(np.arange(len(table)), parts):
        counts.observe(table.take(pa.array(part)), CATALOGUE)
    lifts = counts.published()
    segments, items = lifts.segments.to_pylist(), lifts.items.to_pylist()
    expected = {f"context.scene{JOINT}s", f"context.scene{JOINT}t", f"context.place{JOINT}x"}
    assert set(segments) == expected | {f"user.age{JOINT}{age}" for age in range(4)}
    assert set(items) == {f"i{n}" for n in range(1, 20)}
    wanted = [[by_hand(table, segment, item, 6 * HOUR) for item in items] for segment in segments]
    np.testing.assert_allclose(lifts.lifts, wanted, rtol=2e-3, atol=2e-3)


def asking(scenes: list[str], ages: list[str | None], histories: list[list[str]]) -> Moments:
    """Moments of users with histories."""
    n = len(scenes)
    flat = [item for history in histories for item in history]
    offsets = np.cumsum([0, *map(len, histories)], dtype=np.int64)
    return Moments(
        pa.array(["u"] * n), np.zeros(n, np.int64), pa.array(flat, pa.string()), offsets,
        np.zeros(len(flat), np.int64), {"scene": pa.array(scenes)}, {"age": pa.array(ages, pa.string())},
    )  # fmt: skip


def counted(table: pa.Table | None = None) -> AffinityCounts:
    counts = AffinityCounts(FEATURES, 6 * HOUR)
    counts.observe(events() if table is None else table, CATALOGUE)
    return counts


def test_lifts_are_read_by_the_segments_of_the_one_who_asks() -> None:
    published = counted().published()
    assert published.named == NAMED
    askers = published.askers(asking(["t", "never"], [None, "2"], [[], []]))
    names = [[published.segments[row].as_py() if row >= 0 else "" for row in one] for one in askers.segments]
    assert names == [[f"context.scene{JOINT}t", "", ""], ["", f"user.age{JOINT}2", ""]]
    places = published.places(pa.array(["i3", "unknown", "i1"]))
    found = published.of(places, askers, 0)
    assert found.shape == (3, 5)
    assert found[[0, 2], 0].tolist() == published.lifts[askers.segments[0, 0], places[[0, 2]]].tolist()
    assert not found[1].any()
    assert not found[:, 1:].any()


def test_shares_are_those_of_brute_force() -> None:
    rng = np.random.default_rng(4)
    published = counted().published()
    histories = [[f"i{n}" for n in rng.integers(1, 22, length)] for length in (0, 1, 7, HISTORY + 20)]
    askers = published.askers(asking(["s"] * 4, [None] * 4, histories))
    items = [f"i{n}" for n in range(1, 22)]  # two of them unknown
    for at, history in enumerate(histories):
        newest = history[-HISTORY:]
        found = published.of(published.places(pa.array(items)), askers, at)[:, 3:]
        for item, shares in zip(items, found, strict=True):
            author, tags = AUTHORS.get(item, ""), TAGS.get(item, [])
            by_author = sum(AUTHORS.get(one) == author for one in newest) if author else 0
            by_tag = sum(one in TAGS.get(had, []) for one in set(tags) for had in newest)
            expected = [by_author / (len(newest) + 1), by_tag / (len(newest) + 1)]
            np.testing.assert_allclose(shares, expected, rtol=1e-6)


def test_before_anything_is_counted_all_is_nought() -> None:
    published = AffinityCounts(FEATURES, HOUR).published()
    assert published.named == NAMED
    askers = published.askers(asking(["s"], ["2"], [["i1"]]))
    assert published.of(published.places(pa.array(["i3"])), askers, 0).tolist() == [[0] * 5]
    silent = AffinityCounts((), HOUR)
    assert not silent
    silent.observe(events(), CATALOGUE)
    assert silent.published().named == ()


def test_round_trips_go_on_alike() -> None:
    table = events()
    counts = counted(table.slice(0, 300))
    again = AffinityCounts.from_state(counts.state())
    for one in (counts, again):
        one.observe(table.slice(300), CATALOGUE)
    tensors, other = counts.published().tensors("a/"), again.published().tensors("a/")
    assert all(tensors[name].tobytes() == part.tobytes() for name, part in other.items())
    read = Affinities.from_tensors(tensors, "a/")
    assert read.named == NAMED
    assert read.categories.tobytes() == counts.published().categories.tobytes()
    with pytest.raises(ValueError, match="affinities: lifts: expected finite"):
        Affinities.from_tensors({**tensors, "a/lifts": tensors["a/lifts"][:-1]}, "a/")
    with pytest.raises(ValueError, match="affinities: categories: expected"):
        Affinities.from_tensors({**tensors, "a/categories": tensors["a/categories"][:, :-1]}, "a/")


def test_what_is_held_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affinity_counts, "ITEMS", 4)
    monkeypatch.setattr(affinity_counts, "SEGMENTS", 3)
    table = events()
    counts = counted(table)
    assert counts.published().lifts.shape == (3, 4)
    assert len(counts.state()["count"]) <= 2 * 3 * 2 * 4
    # A week later all but what comes then has faded.
    late = table.slice(0, 9).set_column(0, "ts_ms", pa.array([200 * HOUR] * 9, pa.int64()))
    counts.observe(late, CATALOGUE)
    told = {row["item_id"] for row in late.to_pylist() if row["item_id"] and row["kind"] != "reject"}
    assert set(counts.published().items.to_pylist()) <= told
    authors = dict(
        zip(*(counts.published().items.to_pylist(), counts.published().categories[:, 0]), strict=True)
    )
    assert all((authors[item] < 0) == (AUTHORS[item] == "") for item in authors)


def test_what_is_read() -> None:
    number = FeatureConfig(name="price", source="item", kind="number")
    words = FeatureConfig(name="title", source="item", kind="tokens")
    hour = FeatureConfig(name="hour_of_day", source="time")
    assert read_features((*FEATURES, number, words, hour)) == FEATURES
    with pytest.raises(ValueError, match="half_life_ms must be above 0"):
        AffinityCounts(FEATURES, 0)
