"""The channel popular_now: the list a request gets, what stands in for it, and what never comes back."""

import asyncio
import contextlib
import math
from dataclasses import replace

import httpx
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.embedded import EmbeddedStore
from models.blend import Blend
from serving.asking import Live
from serving.audit import AuditCheck, AuditLog, read_audit
from serving.config import ServingConfig
from serving.fresh import Fresh
from serving.metrics import ServingMetrics
from serving.popular_now import PopularFollower, PopularItems, PopularNow
from serving.profile import NO_PROFILE
from serving.recall import recall
from serving.schema import RecallRequest
from stream.errors import Unreachable
from stream.popular_counts import PopularNowConfig, segment_of
from stream.popular_store import PopularCounts, PopularReader, PopularReading, ReadList
from tests.serving.test_recall import CLICKS, profile
from tests.serving.test_server import Running, wait_for
from tests.serving.world import HOUR, FakeTower, World
from tests.stream.samples import T0, batch, event

CONFIG = PopularNowConfig(half_lives_h=(1, 24), by=(("geo", "scene"), ("geo",)), least_events=3)
HOME = segment_of(("geo", "scene"), ("US", "home"))
US = segment_of(("geo",), ("US",))


class Readings:
    """A reader that says what it is told to."""

    def __init__(self, config=CONFIG):
        self.config, self.asked, self.next = config, [], PopularReading()

    def read(self, epoch="", after=0):
        self.asked.append((epoch, after))
        if isinstance(self.next, Exception):
            raise self.next
        return self.next


def reading(sequence, changed, segments=None, epoch="e", newest_ms=T0):
    lists = {
        name: [ReadList(T0, list(one), list(one.values())) for one in both] for name, both in changed.items()
    }
    return PopularReading(epoch, sequence, newest_ms, 0, 0.1, segments or list(changed), lists)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


@pytest.fixture
def followed(world):
    """A world whose server follows Readings."""
    readings = Readings()
    served, metrics = world.swapper.served, world.swapper.metrics
    follower = PopularFollower(readings, served.take_popular, metrics, lambda: world.now_s)
    return world, readings, follower


def popular(**lists):
    held = {"": PopularItems(["live", "i3", "i1"], [9.0, 4.0, 1.0], 100.0)}
    return PopularNow(CONFIG, held | lists)


def test_the_first_segment_with_enough_events_else_all():
    home, us = PopularItems(["a"], [1.0], 2.9), PopularItems(["b"], [1.0], 3.0)
    now = PopularNow(CONFIG, {"": PopularItems(["c"], [1.0], 0.5), HOME: home, US: us})
    everything = now.lists[""]
    assert now.of({"geo": "US", "scene": "home"}) == [us, everything]
    assert now.of({"geo": "US"}) == [us, everything]
    assert now.of({"geo": "DE", "scene": "home"}) == now.of({}) == [everything]
    enough = PopularNow(CONFIG, {**now.lists, HOME: replace(home, events=3.0)})
    assert enough.of({"geo": "US", "scene": "home"})[0].items == ["a"]
    assert PopularNow(CONFIG, missing="away").of({"geo": "US"}) == []


@pytest.mark.parametrize("weights", [(), (3.0, 1.0)])
def test_rates_are_those_of_the_definition(store, topics, weights):
    """Several half-lives as one list: weighted means of rates, from the store to the list."""
    config = PopularNowConfig(half_lives_h=(1, 24), weights=weights, by=(("scene",),), kinds=("click",))
    rng = np.random.default_rng(3)
    events = [
        event(
            n,
            ts_ms=T0 + n * 200_000 - int(rng.integers(0, 2)) * 5 * HOUR,
            item_id=f"i{rng.zipf(1.6) % 40}",
            scene=str(rng.choice(["home", "cart"])),
        )
        for n in range(800)
    ]
    prefix = topics("rates")
    published = []
    with (
        contextlib.closing(PopularCounts(store, config, prefix)) as counts,
        contextlib.closing(PopularReader(store, config, prefix)) as reader,
    ):
        follower = PopularFollower(reader, published.append, ServingMetrics())
        for first in range(0, 800, 160):
            counts.apply(batch(events[first : first + 160], range(first, first + 160)))
            assert follower.step()
            assert not follower.step()
    now = published[-1]
    assert len(published) == 5
    newest = max(one.ts_ms for one in events)
    shares = np.array(weights or (1, 1)) / sum(weights or (1, 1))
    for segment in ("", segment_of(("scene",), ("home",)), segment_of(("scene",), ("cart",))):
        rates = {}
        for one in events:
            if not segment or one.scene in segment:
                for share, hours in zip(shares, config.half_lives_h, strict=True):
                    count = 2.0 ** ((one.ts_ms - newest) / (hours * HOUR))
                    rates[one.item_id] = rates.get(one.item_id, 0.0) + share * count * math.log(2) / hours
        listed = now.lists[segment]
        assert dict(zip(listed.items, listed.rates, strict=True)) == pytest.approx(rates, rel=1e-9)
        assert list(listed.rates) == sorted(listed.rates, reverse=True)


def test_readings_replace_one_another(followed):
    world, readings, follower = followed
    served = world.swapper.served
    assert follower.step()
    assert served.popular.missing == "nothing has been counted yet"
    assert not follower.step()  # nothing new
    readings.next = reading(4, {"": [{"a": 2.0, "b": 1.0}, {"b": 48.0}], US: [{"a": 1.0}, {}]})
    assert follower.step()
    first = served.popular
    assert (first.missing, first.lists[""].items) == ("", ["b", "a"])
    readings.next = reading(5, {"": [{"c": 1.0}, {}]}, ["", US])
    assert follower.step()
    assert readings.asked[-1] == ("e", 4)
    assert served.popular.lists[""].items == ["c"]
    assert served.popular.lists[US].items == ["a"]
    assert first.lists[""].items == ["b", "a"]  # whoever holds the older reading keeps it
    readings.next = reading(6, {}, [""])  # the segment made room
    assert follower.step()
    assert set(served.popular.lists) == {""}
    readings.next = reading(6, {US: [{"z": 1.0}, {}]}, [US], epoch="f")  # counted anew
    assert follower.step()
    assert set(served.popular.lists) == {US}
    assert world.swapper.metrics.registry.get_sample_value("freshrecall_popular_now_newest_ms") == T0


def test_a_segment_fades_while_others_move_on(followed):
    world, readings, follower = followed
    readings.next = reading(1, {"": [{"a": 9.0}, {"a": 9.0}], US: [{"a": 8.0}, {"a": 8.0}]})
    follower.step()
    assert world.swapper.served.popular.lists[US].events == 8.0
    readings.next = reading(2, {"": [{"a": 9.0}, {"a": 9.0}]}, ["", US], newest_ms=T0 + 48 * HOUR)
    follower.step()
    assert world.swapper.served.popular.lists[US].events == 2.0
    assert world.swapper.served.popular.of({"geo": "US"})[0] is world.swapper.served.popular.lists[""]


def test_newcomers_get_what_is_popular_now(world):
    snapshot = world.serve(world.bundle(models=("m",)))

    def asked(user=NO_PROFILE, snapshot=snapshot, **more):
        return recall(
            snapshot, RecallRequest("u1", 6, explain=True), user, 500, "r", live=Live(popular()), **more
        )

    answer = asked()
    assert list(answer.explain.candidates) == ["popular_now", "m"]
    assert (answer.items[0].id, answer.items[0].channel, answer.items[0].score) == (
        "live",
        "popular_now",
        9.0,
    )
    assert {by.channel for item in answer.explain.items for by in item.found_by} == {"popular_now", "m"}
    assert list(asked(profile(CLICKS)).explain.candidates) == ["m"]
    # A blend was fitted to the version's popularity: that one stays, and the live list adds candidates.
    blend = Blend(("m", "popularity"), np.array([0.7, 0.2, 0.1, 0.1], np.float32))
    blended = asked(snapshot=replace(snapshot, blend=blend))
    assert list(blended.explain.candidates) == ["popularity", "popular_now", "m"]
    config = ServingConfig.model_validate({"channels": {"popular_now": {"guaranteed": 2}}})
    everybody = asked(profile(CLICKS), replace(snapshot, blend=blend), config=config)
    assert sum(item.channel == "popular_now" for item in everybody.items) >= 2
    off = recall(snapshot, RecallRequest("u1", 6, explain=True), NO_PROFILE, 500, "r")
    assert list(off.explain.candidates) == ["popularity", "m"]


def test_what_the_channels_leave_empty_is_filled_with_it(world):
    snapshot = world.serve(world.bundle(items=2))  # 20 popular items, 2 of them in the index
    us = PopularItems(["i5", "gone"], [3.0, 2.0], 50.0)
    snapshot = replace(snapshot, fresh=Fresh(gone=frozenset({"gone"})))
    request = RecallRequest("u1", 10, {"geo": "US"}, exclude=["i3"])
    answer = recall(snapshot, request, profile(CLICKS), 500, "r", live=Live(popular(**{US: us})))
    found = [(item.id, item.channel) for item in answer.items if item.channel != "m"]
    assert found == [
        ("i5", "popular_now"), ("live", "popular_now"),  # of US, then of all; i1 is there already
        *((f"i{n}", "popularity") for n in (2, 4, 6, 7, 8, 9)),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("w"))
    snapshot = world.serve(world.bundle(models=("m", "n")))
    weights = np.array([0.7, 0.2, 0.1, 0.1, 0.0, 0.1], np.float32)
    return replace(snapshot, blend=Blend(("m", "n", "popularity"), weights))


ITEMS = [*(f"i{n}" for n in range(62)), *(f"live{n}" for n in range(10))]


@settings(max_examples=40, deadline=None)
@given(
    method=st.sampled_from(("blend", "snake", "quota", "rrf", "weighted")),
    k=st.integers(1, 80),
    barred=st.lists(st.sampled_from(ITEMS), unique=True, max_size=60),
    gone=st.lists(st.sampled_from(ITEMS), unique=True),
    listed=st.lists(st.sampled_from(ITEMS), unique=True),
    cold=st.booleans(),
)
def test_nothing_barred_or_gone_comes_back_and_answers_are_full(
    served, method, k, barred, gone, listed, cold
):
    consumed, blocked = barred[::2], barred[1::2]
    config = ServingConfig.model_validate(
        {
            "fusion": {"method": method, "depth": 5},
            "channels": {"popular_now": {"guaranteed": 3}, "m": {"quota": 3}},
            "filters": {"blocked_items": blocked},
        }
    )
    snapshot = replace(served, fresh=Fresh(gone=frozenset(gone)))
    for name in ("m", "n"):
        channel = snapshot.channels[name]
        none = np.empty((0, channel.items.dim), np.float32)
        items = channel.items.with_changes(pa.array([], pa.string()), none, pa.array(gone, pa.string()))
        snapshot = replace(snapshot, channels={**snapshot.channels, name: replace(channel, items=items)})
    user = profile([] if cold else CLICKS, consumed=dict.fromkeys(consumed, 1))
    now = popular(**{"": PopularItems(listed, [float(60 - n) for n in range(len(listed))], 9.0)})
    request = RecallRequest("u1", k, exclude_seen=True, explain=True)
    answer = recall(snapshot, request, user, 500, "r", config=config, live=Live(now))
    found = [item.id for item in answer.items]
    eligible = ({f"i{n}" for n in range(60)} | set(listed)) - {*barred, *gone}
    assert set(found) <= eligible
    assert len(set(found)) == len(found) == min(k, len(eligible))
    assert recall(snapshot, request, user, 500, "r", config=config, live=Live(now)) == answer


def post(world, body, audit=None):
    async def run():
        async with world.client(audit) as client:
            return (await client.post("/v1/recall", json=body)).json()

    return asyncio.run(run())


def test_while_the_store_is_away_the_versions_popularity_serves(followed):
    world, readings, follower = followed
    world.serve(world.bundle())
    readings.next = reading(1, {"": [{"live": 5.0}, {"live": 5.0}]})
    follower.step()
    assert post(world, {"user_id": "x", "k": 4})["items"][0]["id"] == "live"
    readings.next = Unreachable("redis.url", "redis://nowhere")
    world.now_s += 4.9
    assert not follower.step()  # what was read a moment ago is good enough
    assert world.swapper.metrics.registry.get_sample_value("freshrecall_popular_now_age_seconds") == 4.9
    world.now_s += 0.2
    assert follower.step()
    assert not follower.step()
    cold = post(world, {"user_id": "x", "k": 4, "explain": True})
    assert [item["id"] for item in cold["items"][:1]] == ["i0"]  # the first of the version's list
    assert cold["explain"]["candidates"]["popular_now"] == 4
    assert len(cold["degraded"]) == 1
    assert "channel popular_now: the version's popularity instead: Unreachable" in cold["degraded"][0]
    world.profiles.put("known", [("i5", "click", 100)])
    assert post(world, {"user_id": "known", "k": 4})["degraded"] == []  # who is not asked, is not missed
    assert world.counted("popular_now_fallbacks") == 1
    readings.next = reading(1, {"": [{"live": 5.0}, {"live": 5.0}]})
    assert follower.step()
    back = post(world, {"user_id": "x", "k": 4})
    assert (back["items"][0]["id"], back["degraded"]) == ("live", [])


def test_a_store_that_dies_and_comes_back(world, tmp_path):
    config = PopularNowConfig(kinds=("click",), stale_s=0)
    with EmbeddedStore(tmp_path / "store") as service:
        port = service.port
        writer, reader = PopularCounts(service.url, config), PopularReader(service.url, config)
        follower = PopularFollower(reader, world.swapper.served.take_popular, world.swapper.metrics)
        writer.apply(batch([event(n, item_id="live") for n in range(3)]))
        follower.step()
        assert world.swapper.served.popular.lists[""].items == ["live"]
        writer.close()
    follower.step()
    assert "Unreachable" in world.swapper.served.popular.missing
    with EmbeddedStore(tmp_path / "store", port=port):
        assert follower.step()
        assert world.swapper.served.popular.missing == ""
    reader.close()


def test_audited_answers_with_live_lists_are_still_proven(followed, tmp_path):
    world, readings, follower = followed
    base = world.bundle()
    world.serve(base)
    readings.next = reading(1, {"": [{"live": 5.0, "i3": 1.0}, {"live": 5.0}]})
    follower.step()
    log = AuditLog(tmp_path / "a.jsonl")
    answer = post(world, {"user_id": "x", "k": 10}, log)
    log.close()
    assert {item["channel"] for item in answer["items"]} == {"m", "popular_now"}
    (record,) = read_audit(tmp_path / "a.jsonl")
    assert AuditCheck(world.registry, FakeTower.load).recompute(record).mixed == ""


def test_the_server_reads_before_it_answers(world):
    world.point(world.bundle())
    readings = Readings()
    readings.next = reading(1, {"": [{"live": 5.0}, {"live": 5.0}]})
    config = ServingConfig(port=0, clock="event", channel_timeout_ms=60_000, poll_interval_s=0.01)
    with Running(world, config, popular=readings) as server, httpx.Client(base_url=server.address) as http:
        wait_for(lambda: http.get("/readyz").status_code == 200)
        answer = http.post("/v1/recall", json={"user_id": "x", "k": 4}).json()
        assert answer["items"][0]["id"] == "live"
        wait_for(lambda: len(readings.asked) > 1)
        assert "freshrecall_popular_now_age_seconds" in http.get("/metrics").text
