"""Item-to-item similarities against brute force, and their state against the stream cut anyhow."""

import math
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from models.item_to_item import DAY_MS, HOUR_MS, ItemToItem, ItemToItemConfig
from models.moments import Moments
from models.neighbour_rows import NeighbourRows
from models.neighbours import Neighbours

CONFIGS = {
    "item_cf": ItemToItemConfig(window=5, neighbours=4),
    "item_cf_all": ItemToItemConfig(
        window=6, neighbours=9, half_life_days=2, gap_half_life_h=5, backward=0.4, shrinkage=0.5
    ),
    "item_cf_capped": ItemToItemConfig(window=6, users_per_item=2, neighbours=9, gap_half_life_h=5),
    "swing": ItemToItemConfig(kind="swing", window=6, neighbours=9, alpha=0.5),
    "swing_capped": ItemToItemConfig(kind="swing", window=5, users_per_item=2, neighbours=3),
}
Event = tuple[str, str, int]


def events_of(seed: int, count: int = 120, users: int = 8, items: int = 11) -> list[Event]:
    rng = np.random.default_rng(seed)
    ts = np.sort(rng.integers(0, 4 * DAY_MS, count))
    ts += rng.integers(-DAY_MS, 1, count) * (rng.random(count) < 0.2)  # some are late
    skewed = (rng.random(count) ** 2 * items).astype(int)
    return [(f"u{rng.integers(users)}", f"#{item}", int(at)) for item, at in zip(skewed, ts, strict=True)]


def observe(channel: ItemToItem, events: list[Event]) -> ItemToItem:
    user, item, ts = (list(column) for column in zip(*events, strict=True)) if events else ([], [], [])
    channel.observe(pa.array(user, pa.string()), pa.array(item, pa.string()), np.array(ts, np.int64))
    return channel


def as_dict(rows: NeighbourRows) -> dict[str, list[tuple[str, float]]]:
    names, found = rows.items.to_pylist(), {}
    for place, trigger in enumerate(rows.triggers.to_pylist()):
        span = range(rows.offsets[place], rows.offsets[place + 1])
        found[trigger] = [(names[rows.neighbours[at]], float(rows.scores[at])) for at in span]
    return found


def windows_of(events: list[Event], window: int, before_ms: int | None = None) -> dict[str, dict[str, int]]:
    """user -> item -> newest time, of the newest `window` distinct items; a later arrival wins a tie."""
    held: dict[str, dict[str, int]] = {}
    for user, item, ts in events:
        mine = held.setdefault(user, {})
        if item in mine and mine[item] >= ts:
            continue
        mine.pop(item, None)
        if len(mine) == window and ts < min(mine.values()):
            continue
        mine[item] = ts
        order = sorted(mine, key=lambda name: mine[name])  # stable: insertion order breaks ties
        held[user] = {name: mine[name] for name in order[-window:]}
    if before_ms is not None:
        held = {u: {i: t for i, t in mine.items() if t >= before_ms} for u, mine in held.items()}
    return held


def brute_force(
    held: dict[str, dict[str, int]], first_seen: list[str], config: ItemToItemConfig, newest: int
) -> dict[str, dict[str, float]]:
    """sim(i, j) of every pair, from the formulas; users who tie are told apart by who was seen first."""
    items = sorted({item for mine in held.values() for item in mine})

    def age(ts: int) -> float:
        return 2 ** ((ts - newest) / (config.half_life_days * DAY_MS)) if config.half_life_days else 1.0

    counts = {i: sum(age(mine[i]) for mine in held.values() if i in mine) for i in items}
    found: dict[str, dict[str, float]] = {}
    for i in items:
        holders = sorted(
            (u for u, mine in held.items() if i in mine), key=lambda u: (held[u][i], first_seen.index(u))
        )
        chosen = holders[-config.users_per_item :]
        sims: dict[str, float] = {}
        if config.kind == "item_cf":
            for u in chosen:
                for j, ts in held[u].items():
                    if j != i:
                        gap = abs(ts - held[u][i])
                        decay = (
                            2 ** (-gap / (config.gap_half_life_h * HOUR_MS)) if config.gap_half_life_h else 1
                        )
                        sims[j] = sims.get(j, 0) + (
                            age(max(ts, held[u][i])) * decay / math.log(1 + len(held[u]))
                        ) * (config.backward if ts < held[u][i] else 1)
            for j in sims:
                sims[j] *= len(holders) / len(chosen)
                sims[j] /= math.sqrt(counts[i] * counts[j]) + config.shrinkage
        else:
            for u, v in combinations(chosen, 2):
                common = held[u].keys() & held[v].keys()
                for j in common - {i}:
                    weight = 1 / math.sqrt(len(held[u])) / math.sqrt(len(held[v]))
                    sims[j] = sims.get(j, 0) + weight / (config.alpha + len(common))
        found[i] = sims
    return found


def assert_best_of(rows: NeighbourRows, sims: dict[str, dict[str, float]], n: int) -> None:
    """The rows are the n best by brute force; equal scores may stand in any order."""
    got = as_dict(rows)
    assert got.keys() <= sims.keys()
    assert {trigger for trigger, best in sims.items() if best} <= got.keys()
    for trigger, best in got.items():
        expected = sorted(sims[trigger].values(), reverse=True)[:n]
        assert [score for _, score in best] == pytest.approx(expected, rel=1e-5)
        assert [score for _, score in best] == pytest.approx([sims[trigger][j] for j, _ in best], rel=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", range(4))
def test_equals_brute_force_however_the_stream_is_cut(name: str, seed: int) -> None:
    config, events = CONFIGS[name], events_of(seed)
    cuts = sorted(np.random.default_rng(seed).integers(0, len(events), 5))
    whole = observe(ItemToItem(config), events)
    by_part = ItemToItem(config)
    for begin, end in zip([0, *cuts], [*cuts, len(events)], strict=True):
        by_part = observe(by_part, events[begin:end])
        by_part = ItemToItem.from_state(config, by_part.state())  # a restart between any two parts
    for one, other in zip(whole.state().items(), by_part.state().items(), strict=True):
        assert one[0] == other[0]
        assert one[1].tobytes() == other[1].tobytes(), one[0]
    assert as_dict(whole.neighbours()) == as_dict(by_part.neighbours())
    sims = brute_force(
        windows_of(events, config.window),
        list(dict.fromkeys(user for user, _, _ in events)),
        config,
        max(ts for _, _, ts in events),
    )
    assert_best_of(whole.neighbours(), sims, config.neighbours)
    assert_best_of(whole.neighbours(2), sims, 2)


@pytest.mark.parametrize("name", CONFIGS)
def test_changed_rows_are_those_from_scratch_and_no_other_sum_changed(name: str) -> None:
    config, events = CONFIGS[name], events_of(9, users=30)
    before = observe(ItemToItem(config), events[:110])
    old = as_dict(before.neighbours())
    before.settle()
    assert len(before.changed()) == 0
    changed = observe(before, events[110:]).changed()
    whole = as_dict(before.neighbours())
    assert 0 < len(changed) < 11
    for trigger, best in as_dict(changed).items():
        assert best == whole.get(trigger, [])
    acted = {user for user, _, _ in events[110:]}
    touched = {
        item for user, mine in windows_of(events, config.window).items() if user in acted for item in mine
    }
    assert touched <= set(changed.triggers.to_pylist())
    if config.kind == "swing":  # without norms, rows of other triggers are the very same
        assert {t: best for t, best in whole.items() if t not in as_dict(changed)} == {
            t: best for t, best in old.items() if t not in as_dict(changed)
        }


@pytest.mark.parametrize("name", CONFIGS)
def test_expiry_forgets_events_users_and_items(name: str) -> None:
    config, events = CONFIGS[name], [*events_of(3), ("u_old", "#old", 5), ("u_old", "#0", 6)]
    channel = observe(ItemToItem(config), events)
    channel.settle()
    before_ms = 3 * DAY_MS
    channel.expire(before_ms)
    held = windows_of(events, config.window, before_ms)
    order = list(dict.fromkeys(user for user, _, _ in events))
    sims = brute_force(held, order, config, max(ts for _, _, ts in events))
    assert_best_of(channel.neighbours(), sims, config.neighbours)
    changed = as_dict(channel.changed())
    assert changed["#old"] == []
    observe(channel, [("u_new", "#new", 4 * DAY_MS), ("u_new", "#old", 4 * DAY_MS)])  # entries again
    assert [j for j, _ in as_dict(channel.neighbours()).get("#old", [("#new", 1)])] == ["#new"]
    channel.expire(10 * DAY_MS)
    assert len(channel.neighbours()) == 0
    assert all(best == [] for best in as_dict(channel.changed()).values())


def test_hand_computed() -> None:
    events = [("a", "x", 0), ("a", "y", HOUR_MS), ("b", "x", 0), ("b", "y", 0), ("b", "z", 0), ("c", "x", 0)]
    cf = observe(ItemToItem(ItemToItemConfig(gap_half_life_h=1, backward=0.5, shrinkage=0)), events)
    found = {trigger: dict(best) for trigger, best in as_dict(cf.neighbours()).items()}
    # x holds 3 users, y 2, z 1. a: y came an hour after x; b: all at once; c: one item, no pair.
    assert found["x"]["y"] == pytest.approx((0.5 / math.log(3) + 1 / math.log(4)) / math.sqrt(6))
    assert found["y"]["x"] == pytest.approx((0.25 / math.log(3) + 1 / math.log(4)) / math.sqrt(6))
    assert found["z"]["y"] == pytest.approx(1 / math.log(4) / math.sqrt(2))
    swing = observe(ItemToItem(ItemToItemConfig(kind="swing", alpha=1)), events)
    # Only the pair (a, b) shares two items: 1 / sqrt(2 * 3) / (1 + 2).
    assert as_dict(swing.neighbours()) == {
        "x": [("y", pytest.approx(1 / math.sqrt(6) / 3))],
        "y": [("x", pytest.approx(1 / math.sqrt(6) / 3))],
    }


def test_checkerboard() -> None:
    rng = np.random.default_rng(1)
    events = [
        (f"u{u}", f"i{2 * rng.integers(10) + u % 2}", int(t)) for t, u in enumerate(rng.integers(0, 40, 400))
    ]
    for kind in ("item_cf", "swing"):
        rows = as_dict(observe(ItemToItem(ItemToItemConfig(kind=kind)), events).neighbours())
        assert len(rows) == 20
        for trigger, best in rows.items():
            assert {int(j[1:]) % 2 for j, _ in best} == {int(trigger[1:]) % 2}


def test_reading_moves_nothing_and_empty_ids_count_nothing() -> None:
    channel = observe(ItemToItem(CONFIGS["swing"]), events_of(2))
    before = {name: array.tobytes() for name, array in channel.state().items()}
    channel.neighbours()
    channel.changed()
    observe(channel, [])
    assert before == {name: array.tobytes() for name, array in channel.state().items()}
    alone = observe(ItemToItem(CONFIGS["item_cf"]), [("", "x", 1), ("u", "", 2)])
    assert len(alone.neighbours()) == 0
    assert len(ItemToItem(CONFIGS["item_cf"]).neighbours()) == 0


def test_a_smaller_window_cuts_the_restored_state() -> None:
    events = events_of(5)
    held = observe(ItemToItem(ItemToItemConfig(window=6)), events)
    smaller = ItemToItemConfig(window=3, neighbours=20)
    sims = brute_force(windows_of(events, 3), sorted({u for u, _, _ in events}), smaller, 0)
    assert_best_of(ItemToItem.from_state(smaller, held.state()).neighbours(), sims, 20)


def test_config_refuses_what_the_kind_does_not_read() -> None:
    assert (ItemToItemConfig().users_per_item, ItemToItemConfig(kind="swing").users_per_item) == (0, 200)
    for kind in ("item_cf", "swing"):
        config = ItemToItemConfig(kind=kind)
        assert ItemToItemConfig.model_validate(config.model_dump(mode="json")) == config
    with pytest.raises(ValidationError, match="only a channel of kind swing"):
        ItemToItemConfig(alpha=2)
    with pytest.raises(ValidationError, match="only a channel of kind item_cf"):
        ItemToItemConfig(kind="swing", backward=0.5)
    with pytest.raises(ValidationError, match="not an action"):
        ItemToItemConfig(positives=("impression",))


Table = dict[str, dict[str, float]]


def rows_of(table: Table) -> NeighbourRows:
    names = sorted({j for row in table.values() for j in row})
    flat = [
        (names.index(j), s) for row in table.values() for j, s in sorted(row.items(), key=lambda x: -x[1])
    ]
    offsets = np.cumsum([0, *(len(row) for row in table.values())]).astype(np.int64)
    return NeighbourRows(
        pa.array(list(table), pa.string()),
        offsets,
        pa.array(names, pa.string()),
        np.array([code for code, _ in flat], np.int32),
        np.array([score for _, score in flat], np.float32),
    )


tables = st.dictionaries(
    st.sampled_from("abcdef"),
    st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 64).map(lambda n: n / 8), max_size=4),
    max_size=5,
)
histories = st.lists(st.tuples(st.sampled_from("abcdefz"), st.integers(0, 9)), max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.lists(tables, min_size=1, max_size=4), st.lists(histories, min_size=1, max_size=3), st.data())
def test_search_sums_over_triggers(
    versions: list[Table], asked: list[list[tuple[str, int]]], data: st.DataObject
) -> None:
    half_life = data.draw(st.sampled_from([0.0, 4.0]))
    index = Neighbours.over(rows_of(versions[0]), half_life)
    merged, sum_of = dict(versions[0]), NeighbourRows.none()
    for table in versions[1:]:
        index = index.with_rows(rows_of(table))
        merged |= table
        sum_of = sum_of.followed_by(rows_of(table))
    assert len(index) == len(merged)
    asked = [sorted(history, key=lambda entry: entry[1]) for history in asked]
    flat = [entry for history in asked for entry in history]
    moments = Moments(
        pa.array(["u"] * len(asked)),
        np.full(len(asked), 10, np.int64),
        pa.array([item for item, _ in flat], pa.string()),
        np.cumsum([0, *map(len, asked)]).astype(np.int64),
        np.array([ts for _, ts in flat], np.int64),
    )
    out = [data.draw(st.lists(st.sampled_from("abcdefghz"), max_size=3)) for _ in asked]
    excluded = [index.lookup(pa.array(row, pa.string())) for row in out]
    scores, positions = index.search(moments, 5, excluded)
    at_once = Neighbours.over(rows_of(versions[0]), half_life).with_rows(sum_of)
    for n, history in enumerate(asked):
        expected: dict[str, float] = {}
        for item, ts in history:
            weight = 2 ** ((ts - history[-1][1]) / half_life) if half_life else 1.0
            for j, score in merged.get(item, {}).items():
                expected[j] = expected.get(j, 0.0) + weight * score
        expected = {j: score for j, score in expected.items() if j not in out[n]}
        found = positions[n][positions[n] >= 0]
        best = sorted(expected.values(), reverse=True)[:5]
        assert scores[n][: len(found)].tolist() == pytest.approx(best, rel=1e-6)
        assert [expected[j] for j in index.keys_of(found)] == pytest.approx(best, rel=1e-6)
        assert np.isneginf(scores[n][len(found) :]).all()
    names = pa.array(list("abcdefghz"))
    dense = index.dense_scores(moments, names)
    for n, row in enumerate(out):
        allowed = [
            score for name, score in zip("abcdefghz", dense[n], strict=True) if score and name not in row
        ]
        held = positions[n] >= 0
        assert scores[n][held].tolist() == pytest.approx(sorted(allowed, reverse=True)[:5], rel=1e-6)
    same = at_once.search(moments, 5, [at_once.lookup(pa.array(row, pa.string())) for row in out])
    np.testing.assert_allclose(same[0], scores, rtol=1e-6)
    # Items masked out of the index are left out like items excluded from every moment.
    barred = index.lookup(pa.array(sorted(set().union(*out)), pa.string()))
    allowed_of = np.ones(index.ids.entry_capacity, bool)
    allowed_of[barred[barred >= 0]] = False
    masked = index.only(allowed_of).search(moments, 5)
    for one, other in zip(masked, index.search(moments, 5, [barred] * len(out)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_neighbours_of_one_item() -> None:
    index = Neighbours.over(rows_of({"a": {"b": 3, "c": 2}, "b": {"a": 1}}), 0).with_rows(
        rows_of({"b": {"c": 4}})
    )
    at = index.lookup(pa.array(["a", "b", "c"]))
    for position, expected in zip(at, (["b", "c"], ["c"], []), strict=True):
        assert index.keys_of(index.similar(int(position), 2)[1]) == expected
    assert index.similar(int(at[0]), 1)[0].tolist() == [3.0]


@settings(max_examples=30, deadline=None)
@given(tables)
def test_rows_round_trip(table: Table) -> None:
    rows = rows_of(table)
    back = NeighbourRows.from_tensors(rows.tensors("x/"), "x/")
    assert as_dict(back) == as_dict(rows)
    assert as_dict(rows.followed_by(NeighbourRows.none())) == as_dict(rows)


def test_damaged_rows_are_refused() -> None:
    tensors = rows_of({"a": {"b": 1.0, "c": 0.5}}).tensors()
    for name, value, match in (
        ("offsets", np.array([0, 3]), "expected 3 of them"),
        ("offsets", np.array([0]), "2 rising offsets"),
        ("neighbours", np.array([0, 2], np.int32), "positions among 2"),
        ("scores", np.array([1, np.nan], np.float32), "finite"),
    ):
        with pytest.raises(ValueError, match=match):
            NeighbourRows.from_tensors({**tensors, name: value})
