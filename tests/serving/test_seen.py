"""Seen sets from the store to an answer: nothing seen comes back, and nothing else is missing."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.blend import Blend
from models.item_to_item import ItemToItemConfig
from serving.config import ServingConfig
from serving.filters import HeldBack
from serving.profile import NO_PROFILE
from serving.recall import recall
from serving.schema import RecallRequest
from stream.change import Change
from stream.profiles import AsyncProfiles, ProfileConfig
from stream.seen import BloomSeen, ExactSeen
from stream.seen_config import SeenConfig
from stream.seen_store import SeenSets
from tests.serving.test_caps import ITEMS, METHODS, OLD
from tests.serving.test_channels import EVENTS, channel
from tests.serving.test_fresh import NOW, Shop
from tests.serving.test_recall import CLICKS, profile
from tests.serving.world import HOUR
from tests.stream.samples import batch, event

EVERY = [f"i{n}" for n in range(60)]


def seen_set(items, store, rate=0.01, horizon_h=72):
    """A set as it is read, of items met at NOW - 1 h."""
    config = SeenConfig(kinds=("impression",), horizon_h=horizon_h, store=store, items=100,
                        false_positive_rate=rate)  # fmt: skip
    if store == "exact":
        return ExactSeen("shown", config, dict.fromkeys(items, NOW - HOUR))
    bits = bytearray(-(-config.shape.bits // 8))
    for place in config.shape.places(pa.array(items, pa.string())).ravel().tolist():
        bits[place >> 3] |= 1 << (7 - (place & 7))
    return BloomSeen("shown", config, {(NOW - HOUR) // config.slice_ms: bytes(bits)} if items else {})


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    shop = Shop(tmp_path_factory.mktemp("w"), caps={"author_id": 1}, same={"author_id": {}})
    config = ItemToItemConfig(positives=("click",))
    neighbours = {"cf": (config, channel(config, EVENTS).neighbours())}
    shop.world.serve(shop.world.bundle(watermark_ms=NOW, models=("m", "n"), channels=neighbours))
    shop.change(*(Change(id=item, ts_ms=OLD, attributes=of) for item, of in ITEMS.items()))
    weights = np.array([0.7, 0.2, 0.1, 0.1, 0.0, 0.1], np.float32)
    shop.served = replace(shop.world.snapshot, blend=Blend(("m", "n", "popularity"), weights))
    return shop


@settings(max_examples=300, deadline=None)
@given(
    method=st.sampled_from(METHODS),
    k=st.integers(1, 70),
    cap=st.integers(0, 3),
    depth=st.integers(1, 20),
    seen=st.lists(st.sampled_from(EVERY), unique=True, max_size=55),
    rate=st.sampled_from([0.01, 0.3]),
    guaranteed=st.integers(0, 3),
    same=st.booleans(),
)
def test_an_answer_is_that_of_a_list_of_what_is_held_back(
    shop, method, k, cap, depth, seen, rate, guaranteed, same
):
    config = ServingConfig.model_validate(
        {
            "fusion": {"method": method, "depth": depth},
            "caps": {"author_id": cap},
            "channels": {"popularity": {"guaranteed": guaranteed, "quota": 4}},
            "same": {"author_id": {"values": 2}} if same else {},
        }
    )
    asked = RecallRequest("u1", k, explain=True)

    def answered(*sets):
        user = profile(CLICKS, seen=sets)
        return recall(shop.served, asked, user, NOW, "r", config=config)

    exact, bloom = seen_set(seen, "exact"), seen_set(seen, "bloom", rate)
    listed = answered(exact)
    found = [item.id for item in listed.items]
    assert not set(found) & set(seen)
    if len(found) < k and not cap:
        assert set(EVERY) <= {*found, *seen}
    assert listed.explain.filters == ({"seen shown": len(seen)} if seen else {})
    # The same answer as with the exact list of all that the filter holds, false positives with it.
    held = sorted(one for one in {*EVERY, *ITEMS} if bloom.holds([one], NOW)[0])
    assert set(seen) <= set(held)
    tested, oracle = answered(bloom), answered(seen_set(held, "exact"))
    assert not {item.id for item in tested.items} & set(held)
    if not cap:
        assert tested.items == oracle.items
    assert len(tested.items) == len(oracle.items)
    assert set(tested.explain.filters) == ({"seen shown"} if seen else set())


def test_channels_are_asked_again_only_for_what_was_held_back(shop, monkeypatch):
    asked_for = []
    search = type(shop.world.snapshot.channels["m"].items).search

    def counted(self, u, k, excluded=None):
        asked_for.append(k)
        return search(self, u, k, excluded)

    monkeypatch.setattr(type(shop.world.snapshot.channels["m"].items), "search", counted)
    only, config = replace(shop.world.snapshot, names=("m",)), ServingConfig(models=("m",))

    def answered(*sets):
        asked_for.clear()
        answer = recall(only, RecallRequest("u1", 10), profile(CLICKS, seen=sets), NOW, "r", config=config)
        return [item.id for item in answer.items], list(asked_for)

    best, asked = answered()
    assert asked == [10]
    assert answered(seen_set([], "bloom")) == (best, [10])  # a filter of nothing costs nothing
    assert answered(seen_set(best[:3], "bloom"))[1] == [20]
    assert answered(seen_set(EVERY[:50], "bloom"))[1][0] == 20
    assert len(answered(seen_set(EVERY[:50], "bloom"))[1]) > 1
    assert answered(seen_set(EVERY, "bloom"))[0] == []


def test_newcomers_get_nothing_popular_that_they_saw(shop):
    for store in ("exact", "bloom"):
        sets = (seen_set([f"i{n}" for n in range(18)], store),)
        user = SimpleNamespace(history=[], consumed={}, attributes={}, position="", seen=sets)
        answer = recall(shop.world.snapshot, RecallRequest("nobody", 60), user, NOW, "r")
        assert not {item.id for item in answer.items} & {f"i{n}" for n in range(18)}
        assert len(answer.items) >= 40


def test_what_lies_behind_the_horizon_is_answered_again():
    for store in ("exact", "bloom"):
        one = seen_set(["i1"], store, horizon_h=2)
        held = one.listed if store == "exact" else lambda ts, one=one: HeldBack([one], ts).among(["i1"])
        assert held(NOW) == {"i1"}
        assert held(NOW + 5 * HOUR) == set()


def test_from_events_in_the_store_to_an_answer_over_http(store, topics, tmp_path):
    shop = Shop(tmp_path)
    shop.world.serve(shop.world.bundle(watermark_ms=NOW))
    sets = {
        "shown": SeenConfig(kinds=("impression",), horizon_h=24, store="bloom", items=50, always=True),
        "bought": SeenConfig(kinds=("purchase",)),
    }
    prefix = ProfileConfig(prefix=topics("seen"))
    writer = SeenSets(store, sets, prefix.prefix)
    impressions = [
        event(n, ts_ms=NOW - HOUR, user_id="u1", item_id=f"i{n}", kind="impression") for n in range(20)
    ]
    purchases = [event(n, ts_ms=1, user_id="u1", item_id=f"i{n}", kind="purchase") for n in range(20, 30)]
    writer.apply(batch(impressions + purchases))
    writer.close()

    async def ask(url, **more):
        shop.world.profiles = AsyncProfiles(url, prefix, sets)
        async with shop.world.client() as client:
            body = {"user_id": "u1", "k": 60, "explain": True, **more}
            answer = (await client.post("/v1/recall", json=body)).json()
        await shop.world.profiles.close()
        return answer, {item["id"] for item in answer["items"]}

    answer, found = asyncio.run(ask(store))
    assert not found & {f"i{n}" for n in range(20)}
    assert len(found & {f"i{n}" for n in range(20, 30)}) >= 9
    assert answer["explain"]["filters"]["seen shown"] >= 20
    assert answer["degraded"] == []
    answer, found = asyncio.run(ask(store, exclude_seen=True))
    assert not found & {f"i{n}" for n in range(30)}
    assert answer["explain"]["filters"]["seen bought"] == 10
    answer, found = asyncio.run(ask("redis://127.0.0.1:1", exclude_seen=True))
    assert len(found) == 60
    assert answer["degraded"][0].startswith("profile: Unreachable")
    assert NO_PROFILE.seen == ()
