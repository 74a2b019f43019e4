"""New items are searchable and deleted ones gone as soon as the catalogue says so, through every swap."""

import numpy as np
import pyarrow as pa
import pytest

from models.item_to_item import ItemToItemConfig
from serving.audit import AuditCheck, AuditLog, read_audit
from serving.channels.contract import Ask
from serving.channels.fresh import FreshSource
from serving.config import ServingConfig
from serving.fresh import Fresh
from serving.profile import NO_PROFILE
from serving.recall import recall
from serving.schema import RecallRequest
from stream.catalogue import ITEMS, Catalogue, CatalogueWriter
from stream.change import Change, to_batch
from tests.serving.test_channels import EVENTS, channel
from tests.serving.test_recall import CLICKS, profile
from tests.serving.world import DIM, HOUR, FakeTower, World, keys

DAY = 24 * HOUR
NOW = 40 * DAY


class Shop:
    """A world whose server follows a catalogue."""

    def __init__(self, root, **settings):
        config = ServingConfig(clock="event", channel_timeout_ms=60_000, **settings)
        self.world = World(root / "registry", config)
        self.writer = CatalogueWriter(root / "catalogue")
        self.world.swapper.catalogue = Catalogue(root / "catalogue")
        self.offset = 0

    def change(self, *changes):
        self.offset += 1
        self.writer.append(ITEMS, to_batch(changes), {(0, 0): self.offset})
        return self.world.swapper.follow_catalogue()

    def answered(self, user="u3", k=80, **config):
        given = ServingConfig.model_validate({"channels": config})
        asked = RecallRequest(user, k, explain=True)
        return recall(self.world.snapshot, asked, profile(CLICKS), NOW, "r", config=given)

    def items(self, **config):
        return [item.id for item in self.answered(**config).items]


@pytest.fixture
def shop(tmp_path):
    shop = Shop(tmp_path)
    shop.world.serve(shop.world.bundle(watermark_ms=NOW))
    return shop


def upsert(item, ts_ms=NOW - HOUR, **attributes):
    return Change(id=item, ts_ms=ts_ms, attributes=attributes)


def test_a_new_item_is_searched_by_its_features(shop):
    assert "fresh one" not in shop.items()
    assert shop.change(upsert("fresh one", title="abc"), upsert("i5", title="known before"))
    snapshot = shop.world.snapshot
    tower, items = snapshot.channels["m"].tower, snapshot.channels["m"].items
    place = items.lookup(keys("fresh one"))
    np.testing.assert_array_equal(items.vectors_of(place)[0], (tower.bias * 4).astype(np.float32))
    answer = shop.answered()
    found = {item.id: item for item in answer.items}
    u = tower.rows["u3"] + 2 * tower.bias
    assert found["fresh one"].score == pytest.approx(float(tower.bias * 4 @ u), rel=1e-5)
    assert answer.catalogue == 2
    # What the version knows stays as it has it.
    assert found["i5"].score == pytest.approx(float(items.base.vectors[5] @ u), rel=1e-5)
    assert not shop.world.swapper.follow_catalogue()  # nothing more to take in


def test_deleted_items_leave_every_channel_and_may_come_back(tmp_path):
    shop = Shop(tmp_path)
    config = ItemToItemConfig(positives=("click",))
    cf = channel(config, EVENTS)
    shop.world.serve(shop.world.bundle(watermark_ms=NOW, channels={"cf": (config, cf.neighbours())}), 0)
    users = {"popularity": {}, "own_items": {}, "fresh": {}}
    everything = shop.items(**users)
    assert {"i1", "i2", "i5", "i7"} <= set(everything)
    shop.change(*(Change(id=item, ts_ms=NOW - 5, deleted=True) for item in ("i1", "i2", "i5", "never there")))
    left = shop.items(**users)
    assert set(everything) - set(left) == {"i1", "i2", "i5"}
    assert len(left) == len(everything) - 3
    shop.change(upsert("i1", NOW - 3))
    assert "i1" in shop.items(**users)


def test_it_stays_through_deltas_and_bundles_until_they_bring_it(shop):
    bundle = shop.world.snapshot.bundle
    shop.change(
        upsert("fresh one", title="a"), upsert("new2", title="b"), Change(id="i9", ts_ms=NOW, deleted=True)
    )
    for sequence in (1, 2):
        shop.world.delta(bundle, sequence, watermark_ms=NOW + sequence)
    shop.world.serve(bundle, 2)
    assert {"fresh one", "new2"} <= set(shop.items())
    items = shop.world.snapshot.channels["m"].items
    # The second delta has a row and a vector of new2: no longer what its features say.
    own = np.random.default_rng([100, 2])
    _, _, expected = own.normal(size=DIM), own.normal(size=DIM), own.normal(size=DIM)
    np.testing.assert_allclose(items.vectors_of(items.lookup(keys("new2")))[0], expected, rtol=1e-6)
    shop.world.serve(shop.world.bundle(seed=1, watermark_ms=NOW + DAY), watermark_ms=NOW + DAY)
    after = shop.items()
    assert {"fresh one", "new2"} <= set(after)
    assert "i9" not in after


def test_old_items_of_the_catalogue_wait_for_their_first_event(shop):
    shop.change(
        upsert("old", NOW - 31 * DAY),
        upsert("young", NOW - 29 * DAY),
        upsert("changed", NOW - 31 * DAY),
        upsert("changed", NOW - DAY),  # born long ago
    )
    assert set(shop.items()) & {"old", "young", "changed"} == {"young"}


def test_models_without_an_item_tower_and_servers_without_a_catalogue(tmp_path):
    shop = Shop(tmp_path, fresh_days=0)
    shop.world.serve(shop.world.bundle(watermark_ms=NOW))
    assert not shop.change(upsert("x"))
    other = Shop(tmp_path / "other")
    other.world.serve(other.world.bundle(watermark_ms=NOW))
    other.world.snapshot.channels["m"].tower.config.has_item_tower = False
    assert other.change(upsert("x", title="t"))
    assert "x" not in other.items()
    assert other.items(fresh={})[-1] == "x" or "x" in other.items(fresh={})


def test_an_item_that_cannot_be_encoded_holds_up_no_version(shop, monkeypatch):
    def broken(self, keys, attributes):
        raise ValueError("no such feature")

    monkeypatch.setattr(type(shop.world.snapshot.channels["m"].tower), "item_vectors", broken)
    assert not shop.change(upsert("x"))
    assert shop.world.serve(shop.world.bundle(seed=1, watermark_ms=NOW + DAY))
    metrics = shop.world.swapper.metrics.registry
    assert metrics.get_sample_value("freshrecall_swaps_refused_total", {"reason": "catalogue"}) == 2.0


def test_pools_take_turns_and_nothing_comes_from_the_future():
    hours = [0.5, 0.7, 3, 4, 5, 20, 200, 2000, -1]
    order = np.argsort(hours, kind="stable")
    names = pa.array([f"a{hours[at]}" for at in order])
    born = np.array([NOW - int(hours[at] * HOUR) for at in order])
    source = FreshSource(Fresh(names, born))
    ask = Ask("u", NOW, {}, NO_PROFILE, frozenset({"a4"}), frozenset({"a0.7"}))
    found = source.candidates(ask, 9)
    assert {key for key, _ in found} == {"a0.5", "a3", "a5", "a20", "a200"}
    assert found[0] == ("a0.5", pytest.approx(1 / 1.5))
    assert {key for key, _ in found[1:4]} >= {"a20", "a200"}
    assert [key for key, _ in source.candidates(ask, 2)] == [key for key, _ in found[:2]]
    scores = source.scores(ask, ["a20", "a2000", "nobody"])
    np.testing.assert_allclose(scores, [1 / 21, 0, 0], rtol=1e-6)
    many = FreshSource(Fresh(pa.array([f"n{n}" for n in range(50)]), np.full(50, NOW - 5)))
    first = {
        user: many.candidates(Ask(user, NOW, {}, NO_PROFILE, frozenset()), 1)[0][0] for user in "abcdefgh"
    }
    assert len(set(first.values())) > 4  # exposure is spread over the pool


def test_guaranteed_places(shop):
    shop.change(*(upsert(f"n{n}", NOW - HOUR * n) for n in range(1, 6)))
    plain = shop.items(fresh={"users": "nobody"})
    new = {f"n{n}" for n in range(1, 6)}

    def first(k, least):
        config = ServingConfig.model_validate(
            {"channels": {"fresh": {"guaranteed": least, "quota": 0}}, "fusion": {"method": "quota"}}
        )
        asked = RecallRequest("u3", k)
        return [
            item.id
            for item in recall(shop.world.snapshot, asked, profile(CLICKS), NOW, "r", config=config).items
        ]

    for k, least in ((10, 3), (10, 0), (3, 5), (1, 1), (60, 5)):
        found = first(k, least)
        assert len(set(found)) == len(found) == k
        assert len(new & set(found)) >= min(least, k, 5)
        if least < k:
            assert found[0] == plain[0]


def test_audited_answers_name_what_no_file_holds(shop, tmp_path):
    shop.change(upsert("fresh one", title="abc"))
    log = AuditLog(tmp_path / "audit.jsonl")
    asked, user = RecallRequest("u3", 80), profile(CLICKS)
    for pool in (shop.world.snapshot.fresh.key_set, frozenset()):
        answer = recall(shop.world.snapshot, asked, user, NOW, "r")
        log.write(asked, NOW, user, answer, pool)
    log.close()
    named, unnamed = read_audit(tmp_path / "audit.jsonl")
    check = AuditCheck(shop.world.registry, FakeTower.load)
    assert named.fresh == ["fresh one"]
    assert check.recompute(named).mixed == ""
    assert "fresh one" in check.recompute(unnamed).mixed
