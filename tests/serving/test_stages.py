"""Pre-rank and rank over fused candidates: order, what is kept, what is turned down, and when they fail."""

import asyncio
from dataclasses import replace

import httpx
import numpy as np
import pytest

from serving.config import ServingConfig
from serving.fusion import Found, Fused
from serving.http import build_app
from serving.metrics import ServingMetrics
from serving.recall import recall
from serving.rejects import RejectSender
from serving.schema import RecallRequest
from serving.stages import Rejected, Staged, spread
from stream.codec import decode, encode_packed
from tests.serving.test_recall import CLICKS, profile
from tests.serving.world import World


class ByName:
    """Scores an item by the number in its key; greater numbers first, or last."""

    def __init__(self, sign=1.0):
        self.sign, self.asked = sign, []

    def scores(self, ask, keys):
        self.asked.append(len(keys))
        return np.array([self.sign * int(key.strip("inew")) for key in keys], np.float32)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("w"))
    return world.serve(world.bundle())


def answered(snapshot, k, rankers, **stages):
    config = ServingConfig.model_validate(stages)
    snapshot = replace(snapshot, rankers=rankers)
    return recall(snapshot, RecallRequest("u3", k, explain=True), profile(CLICKS), 500, "r", config=config)


def test_both_stages_order_what_they_are_given(served):
    plain = [item.id for item in answered(served, 30, {}).items]
    light, heavy = ByName(), ByName(-1.0)
    stages = {"prerank": {"model": "light", "candidates": 30}, "rank": {"model": "heavy", "candidates": 10}}
    answer = answered(served, 4, {"light": light, "heavy": heavy}, **stages)
    by_number = sorted(plain, key=lambda item: -int(item[1:]))[:10]
    assert [item.id for item in answer.items] == by_number[::-1][:4]
    assert (light.asked, heavy.asked) == ([30], [10])
    for item in answer.explain.items:
        number = float(item.id[1:])
        assert item.stages == {"prerank": number, "rank": -number}
        assert item.found_by[0].channel == "m"


def test_one_stage_alone_and_none_whose_ranker_is_missing(served):
    plain = [item.id for item in answered(served, 6, {}).items]
    only = answered(served, 6, {"r": ByName()}, rank={"model": "r", "candidates": 6})
    assert [item.id for item in only.items] == sorted(plain, key=lambda item: -int(item[1:]))
    gone = answered(served, 6, {}, rank={"model": "r", "candidates": 6})
    assert [item.id for item in gone.items] == plain
    assert gone.degraded == [f"stage rank: bundle {served.bundle} has no ranker 'r'"]
    assert only.degraded == []


def test_more_is_asked_for_than_a_stage_looks_at(served):
    plain = [item.id for item in answered(served, 12, {}).items]
    few = answered(served, 12, {"r": ByName()}, rank={"model": "r", "candidates": 5})
    first = sorted(plain[:5], key=lambda item: -int(item[1:]))
    assert [item.id for item in few.items] == first + plain[5:]


def test_what_a_stage_turns_down():
    fused = [Fused(key, 0.0, (Found("m", 1.0, at),)) for at, key in enumerate("abcde")]
    staged = Staged(fused, {}).then("prerank", 4, np.array([1, 4, 2, 3], np.float32), 2)
    assert [one.key for one in staged.order] == ["b", "d", "c", "a", "e"]
    assert [(one.key, one.stage, one.rank, one.score, one.cutoff) for one in staged.rejected] == [
        ("c", "prerank", 2, 2.0, 3.0),
        ("a", "prerank", 3, 1.0, 3.0),
    ]
    again = staged.then("rank", 2, np.array([1, 9], np.float32), 1)
    assert [one.key for one in again.order] == ["d", "b", "c", "a", "e"]
    assert [(one.key, one.stage) for one in again.rejected] == [
        ("c", "prerank"),
        ("a", "prerank"),
        ("b", "rank"),
    ]
    assert Staged([], {}).then("rank", 5, np.empty(0, np.float32), 5).order == []


def test_a_failing_stage_keeps_the_order_and_is_named(tmp_path):
    class Broken:
        def scores(self, ask, keys):
            raise ArithmeticError("no")

    config = {"clock": "event", "channel_timeout_ms": 60_000}
    stage = {"model": "r", "candidates": 20, "timeout_ms": 60_000}
    world = World(tmp_path, ServingConfig.model_validate({**config, "prerank": stage}))
    world.serve(world.bundle())
    body = {"user_id": "u1", "k": 5, "explain": True}

    async def ask():
        async with world.client() as client:
            plain = (await client.post("/v1/recall", json=body)).json()
            world.swapper.served.snapshot = replace(world.snapshot, rankers={"r": Broken()})
            broken = (await client.post("/v1/recall", json=body)).json()
            world.swapper.served.snapshot = replace(world.snapshot, rankers={"r": ByName()})
            return plain, broken, (await client.post("/v1/recall", json=body)).json()

    plain, broken, ranked = asyncio.run(ask())
    ids = [[item["id"] for item in answer["items"]] for answer in (plain, broken, ranked)]
    assert ids[0] == ids[1] != ids[2]
    assert len(ids[1]) == 5
    assert broken["degraded"] == ["channel prerank: ArithmeticError: no"]
    assert ids[2] == sorted(ids[2], key=lambda item: -int(item.strip("inew")))


def test_a_damaged_ranker_refuses_the_version(tmp_path, monkeypatch):
    world = World(tmp_path, ServingConfig.model_validate({"prerank": {"model": "r"}}))
    bundle = world.bundle(rankers={"r": {"kind": "deepfm", "config": {}, "features": []}})
    world.point(bundle)
    assert not world.swapper.step()
    assert "rankers/r" in world.swapper.last_refusal


def test_rejects_are_spread_over_the_ranks_and_sent_as_events(tmp_path):
    rejected = [
        Rejected(f"i{n}", stage, n, -float(n), 0.5) for stage in ("prerank", "rank") for n in range(4, 14)
    ]
    assert [(one.stage, one.rank) for one in spread(rejected, 2)] == [
        ("prerank", 4), ("prerank", 9), ("rank", 4), ("rank", 9),
    ]  # fmt: skip
    assert spread(rejected, 0) == []
    assert len(spread(rejected, 100)) == 20
    config = {"clock": "event", "channel_timeout_ms": 60_000, "rejects_per_answer": 3}
    stage = {"model": "r", "candidates": 20, "timeout_ms": 60_000}
    world = World(tmp_path, ServingConfig.model_validate({**config, "prerank": stage}))
    world.serve(world.bundle())
    world.swapper.served.snapshot = replace(world.snapshot, rankers={"r": ByName()})
    api = world.api()

    async def ask():
        transport = httpx.ASGITransport(build_app(api))
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
            body = {"user_id": 5, "k": 5, "context": {"scene": "tab"}}
            answer = (await client.post("/v1/recall", json=body)).json()
        await api.rejects.settled()
        return answer

    answer = asyncio.run(ask())
    assert len(world.events) == 3
    kept = {item["id"] for item in answer["items"]}
    for event in world.events:
        assert (event.kind, event.user_id, event.scene) == ("reject", 5, "tab")
        assert event.request_id == answer["request_id"]
        assert event.item_id not in kept
        assert event.context["stage"] == "prerank"
        assert event.context["bundle"] == answer["bundle"]
        assert float(event.context["cutoff"]) >= event.value
    assert [int(event.context["rank"]) for event in world.events] == [5, 10, 15]
    assert decode(encode_packed(world.events)) == world.events


def test_a_stream_that_takes_no_rejects_costs_no_answer(tmp_path):
    def away(events):
        raise ConnectionError("no broker")

    metrics = ServingMetrics()

    async def run():
        sender = RejectSender(away, metrics)
        sender.send([1, 2, 3])
        await sender.settled()

    asyncio.run(run())
    assert metrics.registry.get_sample_value("freshrecall_rejects_lost_total") == 3.0
