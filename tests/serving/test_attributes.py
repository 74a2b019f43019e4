"""Item attributes in serving against dictionaries, and the rules made of them against a loop."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.id_table import IdTable
from serving.attributes import ItemAttributes
from serving.config import ServingConfig
from serving.eligible import Barred, eligible
from serving.filters import AttributeRules
from serving.recall import recall
from serving.schema import RecallRequest
from stream.catalogue import ITEMS, Catalogue, CatalogueWriter
from stream.change import Change, plain_text, to_batch
from tests.serving.test_fresh import NOW, Shop
from tests.serving.test_recall import CLICKS, profile

ITEM = st.sampled_from([f"i{n}" for n in range(12)])
VALUE = st.sampled_from([1, 1.0, 2.5, "1", "a", "", True])
CHANGE = st.builds(
    lambda item, attributes, deleted: Change(
        id=item, ts_ms=5, attributes={} if deleted else attributes, deleted=deleted
    ),
    ITEM,
    st.dictionaries(st.sampled_from(["author", "other", "colour"]), VALUE),
    st.booleans(),
)


class Log:
    """The catalogue over a list of changes, one batch each, in times of their order."""

    def __init__(self, root):
        self.writer, self.reader, self.n = CatalogueWriter(root), Catalogue(root), 0

    def append(self, changes):
        later = [
            Change(id=one.id, ts_ms=5 + self.n + at, attributes=one.attributes, deleted=one.deleted)
            for at, one in enumerate(changes)
        ]
        self.n += len(changes)
        self.writer.append(ITEMS, to_batch(later), {(0, 0): self.n})


def values_of(attributes, name, keys):
    column = attributes.columns[name]
    codes = attributes.codes(name, attributes.entries(keys))
    return [column.values.keys_of(np.array([code]))[0].as_py() or None for code in codes]


@settings(max_examples=40, deadline=None)
@given(batches=st.lists(st.lists(CHANGE, min_size=1, max_size=8), max_size=5))
def test_columns_follow_the_catalogue(tmp_path_factory, batches):
    log = Log(tmp_path_factory.mktemp("c"))
    attributes, expected = ItemAttributes.named(["author", "colour"]), {}
    other = IdTable.of_unique(pa.array([f"i{n}" for n in range(0, 15, 2)]))
    keys = [f"i{n}" for n in range(15)]
    for batch in batches:
        log.append(batch)
        before = {name: values_of(attributes, name, keys) for name in attributes.columns}
        older, attributes = attributes, attributes.following(log.reader)
        expected |= {one.id: one.attributes for one in batch}
        for name in ("author", "colour"):
            texts = [plain_text(expected.get(key, {}).get(name, "")) or None for key in keys]
            assert values_of(attributes, name, keys) == texts
            assert values_of(older, name, keys) == before[name]  # what is being read never changes
        np.testing.assert_array_equal(
            attributes.entries_of(other), attributes.entries([f"i{n}" for n in range(0, 15, 2)])
        )
    assert attributes.following(log.reader) is attributes
    assert set(attributes.columns) == {"author", "colour"}


@settings(max_examples=60, deadline=None)
@given(
    held=st.dictionaries(ITEM, st.dictionaries(st.sampled_from(["author", "colour"]), VALUE), min_size=1),
    blocked=st.dictionaries(st.sampled_from(["author", "colour"]), st.lists(VALUE, min_size=1)),
    require=st.dictionaries(st.sampled_from(["author", "colour"]), st.lists(VALUE, min_size=1)),
    missing=st.sampled_from(["allow", "block"]),
)
def test_rules_by_brute_force(tmp_path_factory, world, held, blocked, require, missing):
    log = Log(tmp_path_factory.mktemp("c"))
    log.append([Change(id=item, ts_ms=5, attributes=of) for item, of in held.items()])
    attributes = ItemAttributes.named(["author", "colour"]).following(log.reader)
    rules = AttributeRules(blocked=blocked, require=require, missing=missing)
    found = eligible(world_with(world, attributes), (rules,))

    def out(item):
        def text(name):
            return plain_text(held.get(item, {}).get(name, ""))

        for name, values in blocked.items():
            if text(name) and text(name) in map(plain_text, values):
                return True
        for name, values in require.items():
            if not text(name) and missing == "block" and item in held:
                return True
            if text(name) and text(name) not in map(plain_text, values):
                return True
        return False

    keys = [f"i{n}" for n in range(20)]
    assert [key in found.gone for key in keys] == [out(key) for key in keys]
    places = found.snapshot.channels["m"].items.lookup(pa.array(keys))
    assert (places < 0).tolist() == [out(key) for key in keys]
    items = found.snapshot.channels["m"].items
    assert len(items) == 60 - sum(map(out, held))
    _, nearest = items.search(np.ones((1, items.dim), np.float32), 60)
    assert (nearest >= 0).sum() == len(items)


def world_with(snapshot, attributes):
    return replace(snapshot, attributes=attributes)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    shop = Shop(tmp_path_factory.mktemp("w"))
    return shop.world.serve(shop.world.bundle(watermark_ms=NOW))


def test_a_server_follows_values_and_the_next_answer_obeys(tmp_path):
    settings = {"filters": {"require": {"available": [True]}, "missing": "block"}}
    shop = Shop(tmp_path, **settings)
    shop.world.serve(shop.world.bundle(watermark_ms=NOW))

    def items(config=shop.world.config):
        asked = RecallRequest("u3", 80, explain=True)
        answer = recall(shop.world.snapshot, asked, profile(CLICKS), NOW, "r", config=config)
        return {item.id for item in answer.items}, answer.explain.filters

    every, _ = items()
    assert len(every) == 60
    old = NOW - 10**10
    shop.change(*(Change(id=f"i{n}", ts_ms=old, attributes={"available": n > 9}) for n in range(30)))
    left, filters = items()
    assert every - left == {f"i{n}" for n in range(10)}
    assert filters == {"require available": 10}
    # A value changes, one is left away; a new bundle starts with what is known.
    shop.change(
        Change(id="i3", ts_ms=old + 1, attributes={"available": True}), Change(id="i20", ts_ms=old + 1)
    )
    assert every - items()[0] == {f"i{n}" for n in range(10)} - {"i3"} | {"i20"}
    shop.world.serve(shop.world.bundle(seed=1, watermark_ms=NOW + 5), watermark_ms=NOW + 5)
    assert every - items()[0] == {f"i{n}" for n in range(10)} - {"i3"} | {"i20"}
    shop.world.delta(shop.world.snapshot.bundle, 1, watermark_ms=NOW + 6)
    shop.world.serve(shop.world.snapshot.bundle, 1, watermark_ms=NOW + 6)
    assert "i5" not in items()[0]
    assert shop.world.snapshot.eligible  # worked out before the first request
    assert not shop.world.swapper.follow_catalogue()


def test_attributes_are_followed_without_new_items_and_past_broken_ones(tmp_path, monkeypatch):
    shop = Shop(tmp_path, fresh_days=0, filters={"blocked": {"author_id": [7]}})
    shop.world.serve(shop.world.bundle(watermark_ms=NOW))
    assert shop.change(Change(id="i1", ts_ms=5, attributes={"author_id": 7}))
    assert shop.world.snapshot.catalogue == 1
    found = eligible(shop.world.snapshot, shop.world.config.rules(""))
    assert "i1" in found.gone
    assert "i2" not in found.gone

    def broken(self, keys, attributes):
        raise ValueError("no such feature")

    other = Shop(tmp_path / "other", filters={"blocked": {"author_id": [7]}})
    other.world.serve(other.world.bundle(watermark_ms=NOW))
    monkeypatch.setattr(type(other.world.snapshot.channels["m"].tower), "item_vectors", broken)
    other.change(Change(id="x", ts_ms=NOW - 5), Change(id="i1", ts_ms=5, attributes={"author_id": 7}))
    assert "i1" in eligible(other.world.snapshot, other.world.config.rules("")).gone


def test_a_scene_has_rules_beside_those_of_all(world, tmp_path):
    log = Log(tmp_path)
    log.append([Change(id=f"i{n}", ts_ms=5, attributes={"author": n % 3, "for": "kids"}) for n in range(9)])
    served = world_with(world, ItemAttributes.named(["author", "for"]).following(log.reader))
    config = ServingConfig.model_validate(
        {
            "filters": {"blocked": {"author": [0]}},
            "scenes": {
                "kids": {"filters": {"require": {"for": ["kids"]}, "missing": "block"}},
                "adult": {"filters": {"blocked": {"for": ["kids"]}}},
            },
        }
    )
    assert config.attributes == ("author", "for")

    def found(scene):
        asked = RecallRequest("u1", 60, {"scene": scene})
        return {item.id for item in recall(served, asked, profile(CLICKS), NOW, "r", config=config).items}

    first, rest = {f"i{n}" for n in range(9)}, {f"i{n}" for n in range(9, 60)}
    assert found("") == first - {"i0", "i3", "i6"} | rest
    assert found("kids") == first - {"i0", "i3", "i6"} | rest  # the catalogue does not know the rest
    assert found("adult") == rest


def test_barred_keys_are_looked_up_once():
    attributes = ItemAttributes.named(["a"])
    barred = Barred({"gone"}, attributes, np.empty(0, bool))
    assert "gone" in barred
    assert "gone" in barred
    assert "other" not in barred
    assert 5 not in barred
