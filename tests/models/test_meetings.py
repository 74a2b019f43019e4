"""What users meet: values by hand, neighbours and hours against brute force, and what is read of a user."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from math import log, sqrt

import numpy as np
import pyarrow as pa
import pytest

from models import meeting_counts
from models.affinities import HISTORY, MET, Affinities, Sides
from models.affinity_counts import AffinityCounts
from models.arrays import Int64Array
from models.catalogue_columns import CatalogueColumns
from models.feature_config import FeatureConfig
from models.meeting_counts import MeetingCounts
from models.meetings import DAY_MS, HOUR_MS, LATELY_MS, Meetings
from models.met_items import MetItems
from models.moments import Moments

KINDS = ("impression", "click")
START = 400 * DAY_MS


def events(n: int = 500, seed: int = 0, span_ms: int = 4 * DAY_MS) -> pa.Table:
    """Of 12 users and 15 items; many requests have several events."""
    rng = np.random.default_rng(seed)
    ts_ms = np.sort(START + rng.integers(0, span_ms, n))
    return pa.table(
        {
            "ts_ms": pa.array(ts_ms, pa.int64()),
            "user_id": [f"u{drawn}" if drawn else "" for drawn in rng.integers(0, 12, n)],
            "item_id": [f"i{drawn}" if drawn else "" for drawn in rng.integers(0, 15, n)],
            "kind": rng.choice(["impression", "click", "view"], n),
            "request_id": [f"r{drawn}" if drawn > 3 else "" for drawn in rng.integers(0, 40, n)],
        }
    )


def drawn_meetings() -> Meetings:
    """Of four items."""
    return Meetings(
        np.array([0, 2, 3, 3, 3]),
        np.array([1, 3, 0], np.int32),
        np.array([0.5, 0.25, 0.5], np.float16),
        np.arange(96).reshape(24, 4).astype(np.float16),
    )


def test_values_by_hand() -> None:
    meetings, now_ms = drawn_meetings(), START + 5 * HOUR_MS
    met = np.array([1, 0, -1, 0])  # the third one is not known, but was met
    met_ms = now_ms - np.array([5, 4, 3, 2]) * DAY_MS
    found = meetings.of(np.array([3, 0, -1, 1]), met, met_ms, now_ms)
    near = {0: 0.85**3 * 0.5, 1: (1 + 0.85**2) * 0.5, 3: (1 + 0.85**2) * 0.25}
    expected = [
        [np.log1p(near[3] / 0.01), 0, 0, 23],
        [np.log1p(near[0] / 0.01), 1, 2.0**-2, 20],
        [0, 0, 0, 0],
        [np.log1p(near[1] / 0.01), 1, 2.0**-5, 21],
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    nobody = meetings.of(np.array([3, 0]), met[:0], met_ms[:0], now_ms)
    assert nobody.tolist() == [[0, 0, 0, 23], [0, 0, 0, 20]]


def similarities(table: pa.Table) -> dict[tuple[str, str], float]:
    """ItemCF by its formula, of every user's distinct items."""
    held: dict[str, set[str]] = defaultdict(set)
    for row in table.to_pylist():
        if row["kind"] in KINDS and row["user_id"] and row["item_id"]:
            held[row["user_id"]].add(row["item_id"])
    counts: dict[str, int] = defaultdict(int)
    for items in held.values():
        for item in items:
            counts[item] += 1
    return {
        (a, b): sum(1 / log(1 + len(had)) for had in held.values() if {a, b} <= had)
        / (sqrt(counts[a] * counts[b]) + 5)
        for a in counts
        for b in counts
        if a != b
    }


def lift(table: pa.Table, item: str, hour: int, now_ms: int) -> float:
    sums = dict.fromkeys(("all", "item", "hour", "both"), 0.0)
    for row in table.to_pylist():
        if row["kind"] not in KINDS or not row["item_id"]:
            continue
        weight = 0.5 ** ((now_ms - row["ts_ms"]) / (3 * DAY_MS))
        near = (row["ts_ms"] // HOUR_MS - hour + 1) % 24 <= 2
        sums["all"] += weight
        sums["item"] += weight * (row["item_id"] == item)
        sums["hour"] += weight * near
        sums["both"] += weight * near * (row["item_id"] == item)
    share = sums["item"] / sums["all"]
    return log((sums["both"] + 5 * share) / ((sums["hour"] + 5) * share))


def counted(table: pa.Table, parts: int = 1) -> MeetingCounts:
    counts = MeetingCounts(KINDS)
    for part in np.array_split(np.arange(len(table)), parts):
        counts.observe(table.take(pa.array(part)))
    return counts


@pytest.mark.parametrize("parts", [1, 6])
def test_published_is_what_brute_force_finds_however_the_events_come(parts: int) -> None:
    table = events(120)
    items = [f"i{n}" for n in range(13, 2, -1)] + ["never"]
    published = counted(table, parts).published(pa.array(items))
    assert len(published) == len(items)
    wanted = similarities(table)
    for at, item in enumerate(items):
        own = slice(published.offsets[at], published.offsets[at + 1])
        found = {
            items[one]: score
            for one, score in zip(published.neighbours[own], published.scores[own], strict=True)
        }
        expected = {b: value for (a, b), value in wanted.items() if a == item and b in items and value}
        assert found == pytest.approx(expected, rel=2e-3)
    now_ms = max(row["ts_ms"] for row in table.to_pylist() if row["kind"] in KINDS and row["item_id"])
    hours = [[lift(table, item, hour, now_ms) for item in items[:-1]] for hour in range(24)]
    np.testing.assert_allclose(published.hours[:, :-1], hours, rtol=3e-3, atol=3e-3)
    assert not published.hours[:, -1].any()


def test_counts_go_on_from_their_state_and_forget(monkeypatch: pytest.MonkeyPatch) -> None:
    table, items = events(), pa.array([f"i{n}" for n in range(1, 15)])
    counts = counted(table.slice(0, 300))
    again = MeetingCounts.from_state(KINDS, counts.state("m."), "m.")
    for one in (counts, again):
        one.observe(table.slice(300))
    read = [one.published(items).tensors("x/") for one in (counts, again)]
    assert all(read[0][name].tobytes() == part.tobytes() for name, part in read[1].items())
    assert Meetings.from_tensors(read[0], "x/").tensors("x/").keys() == read[0].keys()
    monkeypatch.setattr(meeting_counts, "_HELD", 5)
    late = events(30, seed=1).slice(0, 20)
    later = late.set_column(0, "ts_ms", pa.array(np.array(late["ts_ms"]) + LATELY_MS + 5 * DAY_MS))
    counts.observe(later)
    assert counts._counts.shape[1] == 5
    told = {row["item_id"] for row in later.to_pylist() if row["kind"] in KINDS and row["user_id"]}
    left = counts.published(items)
    assert all((items[at].as_py() in told) for at in np.flatnonzero(np.diff(left.offsets)))


def test_parts_that_do_not_fit_are_refused() -> None:
    whole = drawn_meetings()
    for changes, why in (
        ({"offsets": np.array([0, 2, 1, 3, 3])}, "expected offsets of 3 neighbours"),
        ({"scores": whole.scores[:2]}, "and as many scores"),
        ({"neighbours": np.array([1, 4, 0], np.int32)}, "expected neighbours among 4 items"),
        ({"hours": whole.hours[:, :3]}, r"hours: expected \[24, 4\]"),
        ({"scores": np.array([1, np.inf, 1], np.float16)}, "expected finite scores"),
    ):
        with pytest.raises(ValueError, match=why):
            replace(whole, **changes)


def before_by_hand(table: pa.Table, user: str, now_ms: int) -> list[tuple[str, int]]:
    found, had = [], set()
    for row in table.to_pylist():
        wanted = row["user_id"] == user and row["item_id"] and row["kind"] in KINDS
        if not wanted or row["ts_ms"] >= now_ms:
            continue
        once = (row["request_id"], row["item_id"])
        if row["request_id"] and once in had:
            continue
        had.add(once)
        if row["ts_ms"] >= now_ms - LATELY_MS:
            found.append((row["item_id"], row["ts_ms"]))
    return found[-HISTORY:]


def test_what_users_met_is_what_came_before() -> None:
    table = events(3000, seed=3, span_ms=2 * LATELY_MS)
    shuffled = table.take(pa.array(np.random.default_rng(1).permutation(len(table))))
    met = MetItems(shuffled, KINDS)
    users = ["u3", "nobody", "u11", "u3", "u1"]
    moments = START + np.array([5 * DAY_MS, DAY_MS, 2 * LATELY_MS, 20 * DAY_MS, 0])
    lists = met.before(pa.array(users), moments)
    keys, ts_ms = lists.id.to_pylist(), lists.ts_ms.tolist()
    for at, (user, now_ms) in enumerate(zip(users, moments.tolist(), strict=True)):
        own = slice(lists.offsets[at], lists.offsets[at + 1])
        assert list(zip(keys[own], ts_ms[own], strict=True)) == before_by_hand(table, user, now_ms)
    assert np.diff(lists.offsets)[[1, 4]].tolist() == [0, 0]
    nothing = MetItems(table.select(["ts_ms"]), ()).before(pa.array(users), moments)
    assert nothing.offsets.tolist() == [0] * 6


def test_sides_of_before_there_were_meetings_are_read() -> None:
    declared = [FeatureConfig(name="scene", source="context")]
    older = json.dumps([one.model_dump(mode="json") for one in declared]).encode()
    sides = Sides.of_stored(np.frombuffer(older, np.uint8))
    assert sides.same(Sides(tuple(declared)))
    assert json.loads(sides.stored().tobytes()) == json.loads(older)
    assert not sides.same(Sides(tuple(declared), KINDS))
    assert Sides.of_stored(Sides(tuple(declared), KINDS).stored()).same(Sides(tuple(declared), KINDS))


def asking(lists: list[list[tuple[str, int]]], now_ms: Int64Array) -> Moments:
    """Moments of users who met these items."""
    flat = [one for met in lists for one in met]
    offsets = np.cumsum([0, *map(len, lists)], dtype=np.int64)
    zeros = np.zeros(len(lists) + 1, np.int64)
    plain = Moments(pa.array(["u"] * len(lists)), now_ms, pa.array([], pa.string()), zeros, zeros[:0])
    history = type(plain.history)(
        pa.array([key for key, _ in flat], pa.string()), offsets, np.array([ts for _, ts in flat], np.int64)
    )
    return replace(plain, histories={MET: history})


def test_affinities_hold_them_where_kinds_are_named() -> None:
    table = events()
    counts = AffinityCounts((), HOUR_MS, KINDS)
    assert counts
    counts.observe(table, CatalogueColumns())
    published = counts.published()
    assert published.named == ("met together", "met before", "met lately", "met at this hour")
    again = Affinities.from_tensors(published.tensors("a/"), "a/")
    assert again.sides.same(published.sides)
    other = AffinityCounts.from_state(counts.state()).published()
    now_ms = START + np.array([3, 4]) * DAY_MS + 7 * HOUR_MS
    who = asking([[("i3", START), ("i4", START + 9)], [("i5", START), ("new", START)]], now_ms)
    keys = pa.array(["i4", "new", "i9"])
    direct = counted(table).published(published.items)
    for at, (met, met_ms) in enumerate(((["i3", "i4"], [START, START + 9]), (["i5", "new"], [START] * 2))):
        places = published.places(pa.array(met))
        expected = direct.of(published.places(keys), places, np.array(met_ms), int(now_ms[at]))
        assert expected.any()
        for one in (published, again, other):
            assert one.of(one.places(keys), one.askers(who), at).tolist() == expected.tolist()
    silent = AffinityCounts((), HOUR_MS, KINDS).published()
    assert not silent.of(silent.places(keys), silent.askers(who), 0).any()
