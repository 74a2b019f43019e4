"""Item-to-item channels beside the towers: merged, explained, refreshed by deltas, audited."""

import asyncio

import numpy as np
import pyarrow as pa
import pytest

from models.item_to_item import ItemToItem, ItemToItemConfig
from models.neighbour_rows import NeighbourRows
from serving.audit import AuditCheck, AuditLog, read_audit
from serving.config import ServingConfig
from serving.errors import NotFound, SnapshotRefused
from serving.profile import NO_PROFILE
from serving.recall import recall
from serving.schema import RecallRequest
from serving.similar import similar
from serving.snapshot import Snapshot
from tests.serving.test_recall import CLICKS, profile
from tests.serving.world import FakeTower, World

CONFIG = ItemToItemConfig(positives=("click",), history_length=2, recency_half_life_h=1)
SWING = ItemToItemConfig(kind="swing", positives=("purchase",))


def channel(config, events):
    made = ItemToItem(config)
    user, item = (pa.array(list(column), pa.string()) for column in zip(*events, strict=True))
    made.observe(user, item, np.arange(len(events)))
    return made


EVENTS = [
    ("a", "i5"),
    ("a", "i1"),
    ("b", "i7"),
    ("b", "i1"),
    ("b", "i2"),
    ("c", "i6"),
    ("c", "i3"),
    ("d", "i8"),
]
SHARED = [
    ("a", "i6"),
    ("a", "i3"),
    ("b", "i6"),
    ("b", "i3"),
    ("c", "i6"),
    ("c", "i4"),
    ("d", "i6"),
    ("d", "i4"),
]


@pytest.fixture
def served(tmp_path):
    world = World(tmp_path, ServingConfig(clock="event"))
    cf, swing = channel(CONFIG, EVENTS), channel(SWING, SHARED)
    base = world.bundle(channels={"cf": (CONFIG, cf.neighbours()), "swing": (SWING, swing.neighbours())})
    cf.settle()
    cf.observe(pa.array(["d", "d"]), pa.array(["i7", "brand_new"]), np.array([50, 51]))
    world.delta(base, 1, channels={"cf": cf.changed()})
    world.serve(base, 0)
    return world, base, cf


def best_of(found, triggers):
    sums = {}
    for trigger, weight in triggers:
        row = found.triggers.to_pylist().index(trigger)
        for at in range(found.offsets[row], found.offsets[row + 1]):
            key = found.items[int(found.neighbours[at])].as_py()
            sums[key] = sums.get(key, 0.0) + weight * float(found.scores[at])
    return sorted(sums.items(), key=lambda entry: -entry[1])


def test_channels_answer_from_the_history_of_their_kinds(served):
    snapshot = served[0].snapshot
    assert list(snapshot.names) == ["m", "cf", "swing"]
    asked = RecallRequest("u3", 12, explain=True)
    answer = recall(snapshot, asked, profile(CLICKS), 500, "r")
    # i5 was clicked 200 ms before i7; i6 was purchased: a trigger of swing only.
    expected = best_of(channel(CONFIG, EVENTS).neighbours(), [("i5", 2 ** (-200 / 3_600_000)), ("i7", 1.0)])
    got = [(item.id, item.score) for item in answer.items if item.channel == "cf"]
    assert {key for key, _ in expected} == {"i1", "i2"}
    assert [key for key, _ in got] == [key for key, _ in expected]
    assert [score for _, score in got] == pytest.approx([score for _, score in expected], rel=1e-5)
    assert {item.id for item in answer.items if item.channel == "swing"} == {"i3", "i4"}
    assert answer.explain.channels == {"m": 8, "cf": 2, "swing": 2}
    assert answer.explain.history == 2
    out = recall(snapshot, RecallRequest("u3", 12, exclude=["i1", "i3"]), profile(CLICKS), 500, "r")
    assert not {"i1", "i3"} & {item.id for item in out.items}
    assert "i4" in {item.id for item in out.items if item.channel == "swing"}
    stranger = recall(snapshot, RecallRequest("x", 8, explain=True), NO_PROFILE, 500, "r")
    assert stranger.explain.channels == {"m": 4, "popularity": 4}


def test_a_delta_refreshes_a_channel(served):
    world, base, cf = served
    before = world.snapshot
    after = world.serve(base, 1)
    find = lambda snapshot: {  # noqa: E731
        item.id: item.score
        for item in recall(snapshot, RecallRequest("u3", 20), profile(CLICKS), 500, "r").items
        if item.channel == "cf"
    }
    expected = best_of(cf.neighbours(), [("i5", 2 ** (-200 / 3_600_000)), ("i7", 1.0)])
    assert "brand_new" not in find(before)
    found = find(after)
    assert "brand_new" in found
    for key in ("brand_new", "i8"):  # the neighbours of i7, whose row changed
        assert found[key] == pytest.approx(dict(expected)[key], rel=1e-5)
    assert find(before) == find(before)
    fresh = Snapshot.load(world.registry.open_bundle(base), FakeTower.load)
    assert find(fresh.with_delta(world.registry.open_delta(world.registry.deltas(base)[0]))) == found


def test_neighbours_of_one_item(served):
    world, base, cf = served
    answer = similar(world.serve(base, 1), ["i7"], 2, "cf")
    expected = best_of(cf.neighbours(), [("i7", 1.0)])[:2]
    assert [item.score for item in answer.items] == pytest.approx([score for _, score in expected], rel=1e-5)
    with pytest.raises(NotFound, match="expected one of m, cf, swing, got 'x'"):
        similar(world.snapshot, ["i7"], 2, "x")
    with pytest.raises(NotFound, match="got 'zz'"):
        similar(world.snapshot, ["zz"], 2, "cf")


def test_names_pick_and_order_channels(served):
    world, base, _ = served
    opened = world.registry.open_bundle(base)
    assert list(Snapshot.load(opened, FakeTower.load, ["swing", "m"]).names) == ["swing", "m"]
    only = Snapshot.load(opened, FakeTower.load, ["cf"])
    answer = recall(only, RecallRequest("u3", 5), profile(CLICKS), 500, "r")
    assert [item.channel for item in answer.items] == ["cf", "cf", "popularity", "popularity", "popularity"]
    with pytest.raises(SnapshotRefused, match="expected models nobody, got m, cf, swing"):
        Snapshot.load(opened, FakeTower.load, ["nobody"])


def test_audited_answers_of_channels_come_again_from_the_files(served, tmp_path):
    world, base, _ = served
    world.profiles.put("u1", [("i5", "click", 100), ("i6", "purchase", 200), ("i7", "click", 300)])
    log = AuditLog(tmp_path / "a.jsonl")

    async def ask():
        async with world.client(log) as client:
            assert (await client.post("/v1/recall", json={"user_id": "u1", "k": 20})).status_code == 200

    for sequence in (0, 1):
        if sequence:
            world.serve(base, sequence)
        asyncio.run(ask())
    log.close()
    check = AuditCheck(world.registry, FakeTower.load)
    records = read_audit(tmp_path / "a.jsonl")
    for record in records:
        assert {item.channel for item in record.answer.items} == {"m", "cf", "swing"}
        assert check.recompute(record).mixed == ""
    old, new = (record.answer.items for record in records)
    assert [item for item in old if item.channel == "cf"] != [item for item in new if item.channel == "cf"]


def test_damaged_neighbours_are_refused_and_the_old_version_serves(served, tmp_path):
    world, base, _ = served
    rows = channel(CONFIG, EVENTS).neighbours()
    wrong = NeighbourRows(rows.triggers, rows.offsets, rows.items[:1], rows.neighbours, rows.scores)
    other = world.bundle(seed=5, channels={"cf": (CONFIG, wrong)}, watermark_ms=7_200_000)
    world.point(other, 0, watermark_ms=7_200_000)
    assert not world.swapper.step()
    assert "expected positions among 1 items" in world.swapper.last_refusal
    assert world.snapshot.bundle == base
