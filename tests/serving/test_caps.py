"""Caps, filters and channels together, whatever the method: what every answer must hold, by brute force."""

import asyncio
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.blend import Blend
from models.item_signals import NAMES, SIGNALS
from models.item_to_item import ItemToItemConfig
from models.prerank import Prerank
from serving.asking import Live
from serving.audit import AuditCheck, AuditLog, read_audit
from serving.caps import Caps
from serving.channels.contract import Ask
from serving.channels.same import ByValue, SameConfig, SameSource
from serving.config import ServingConfig
from serving.live_counts import LiveCounts
from serving.recall import recall
from serving.schema import RecallRequest
from stream.change import Change
from tests.serving.test_channels import EVENTS, channel
from tests.serving.test_fresh import NOW, Shop
from tests.serving.test_recall import CLICKS, profile
from tests.serving.world import FakeTower

METHODS = ("blend", "snake", "quota", "rrf", "weighted")
OLD = NOW - 10**10
ITEMS = {
    **{f"i{n}": {"author_id": n % 7, "category": "abc"[n % 3], "available": n % 5 > 0} for n in range(40)},
    **{f"i{n}": {"author_id": 3} for n in range(40, 50)},
    **{f"c{n}": {"author_id": n % 4, "category": "d"} for n in range(6)},  # no version knows them
}
READ = {"caps": {"author_id": 1, "category": 1}, "filters": {"require": {"available": [True]}}}


class ByNumber:
    """A ranker that scores an item by the number in its key."""

    def __init__(self, sign):
        self.sign = sign

    def scores(self, ask, keys):
        return np.array([self.sign * int(key[1:]) for key in keys], np.float32)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    shop = Shop(tmp_path_factory.mktemp("w"), **READ, same={"author_id": {}})
    config = ItemToItemConfig(positives=("click",))
    neighbours = {"cf": (config, channel(config, EVENTS).neighbours())}
    shop.world.serve(shop.world.bundle(watermark_ms=NOW, models=("m", "n"), channels=neighbours))
    shop.change(*(Change(id=item, ts_ms=OLD, attributes=of) for item, of in ITEMS.items()))
    shop.change(Change(id="i4", ts_ms=OLD + 1, deleted=True))
    weights = np.array([0.7, 0.2, 0.1, 0.1, 0.0, 0.1], np.float32)
    snapshot = replace(shop.world.snapshot, blend=Blend(("m", "n", "popularity"), weights))
    shop.served = replace(snapshot, rankers={"light": ByNumber(1), "heavy": ByNumber(-1)})
    return shop


def value(item, name):
    return ITEMS.get(item, {}).get(name)


CAP = st.integers(0, 4)
AUTHORS = st.lists(st.integers(0, 6), unique=True, max_size=4)
ANY = st.lists(st.sampled_from([f"i{n}" for n in range(62)]), unique=True, max_size=40)


@settings(max_examples=300, deadline=None)
@given(
    method=st.sampled_from(METHODS),
    k=st.integers(1, 70),
    caps=st.fixed_dictionaries({}, optional={"author_id": CAP, "category": CAP}),
    blocked=AUTHORS,
    available=st.sampled_from(["", "allow", "block"]),
    scene=st.sampled_from(["", "tab"]),
    guaranteed=st.integers(0, 4),
    seen=ANY,
    exclude=ANY,
    depth=st.integers(1, 20),
    stages=st.sampled_from([(), ("prerank",), ("prerank", "rank")]),
    same=st.booleans(),
)
def test_what_every_answer_holds(
    shop, method, k, caps, blocked, available, scene, guaranteed, seen, exclude, depth, stages, same
):
    given_config = {
        "fusion": {"method": method, "depth": depth},
        "channels": {
            "popularity": {"guaranteed": guaranteed, "quota": 4},
            "n": {"quota": 3, "weight": 2, "guaranteed": guaranteed // 2},
        },
        "filters": {"blocked": {"author_id": blocked}},
        "caps": caps,
        "same": {"author_id": {"values": 2}} if same else {},
        "scenes": {"tab": {"filters": {"blocked": {"category": ["a"]}}, "caps": {"author_id": 1}}},
    }
    if available:
        given_config["filters"] |= {"require": {"available": [True]}, "missing": available}
    for stage, ranker in zip(stages, ("light", "heavy"), strict=False):
        given_config[stage] = {"model": ranker, "candidates": depth}
    config = ServingConfig.model_validate(given_config)
    user = profile(CLICKS, consumed=dict.fromkeys(seen, 5))
    asked = RecallRequest("u1", k, {"scene": scene}, exclude=exclude, exclude_seen=True, explain=True)
    answer = recall(shop.served, asked, user, NOW, "r", config=config)
    found = [item.id for item in answer.items]
    assert len(set(found)) == len(found) <= k

    def allowed(item):
        if item in exclude or item in seen or item == "i4" or value(item, "author_id") in blocked:
            return False
        if scene and value(item, "category") == "a":
            return False
        if not available or item not in ITEMS:
            return True
        there = value(item, "available")
        return available == "allow" if there is None else there

    assert all(map(allowed, found))
    most = {**caps, **({"author_id": 1} if scene else {})}
    held = {name: Counter(value(item, name) for item in found) for name in most}

    def room(item):
        return all(
            not n or value(item, name) is None or held[name][value(item, name)] < n
            for name, n in most.items()
        )

    assert all(
        n <= most[name] for name in most if most[name] for of, n in held[name].items() if of is not None
    )
    # Short only where no item is left that could join: of those any asked channel knows.
    known = {f"i{n}" for n in range(60)}
    if same:  # the history's newest clicks are of the authors 0 and 6
        known |= {item for item, of in ITEMS.items() if of["author_id"] in (0, 6)}
    if len(found) < k:
        assert not [item for item in known - set(found) if allowed(item) and room(item)]
    # What is explained adds up, and the same request gets the same answer.
    assert [item.id for item in answer.explain.items] == found
    assert set(answer.explain.caps) == {name for name, n in most.items() if n}
    for item in answer.explain.items:
        assert all(n <= answer.explain.caps[name] for name, n in item.crowded_out.items())
        ranks = {by.channel: by.rank for by in item.found_by}
        assert all(rank < answer.explain.candidates.get(name, 99) for name, rank in ranks.items())
    assert recall(shop.served, asked, user, NOW, "r", config=config) == answer


@settings(max_examples=60, deadline=None)
@given(method=st.sampled_from(METHODS), k=st.integers(1, 40), author=CAP, category=CAP)
def test_caps_are_greedy_in_the_fused_order(shop, method, k, author, category):
    """Where the first candidates are enough, an answer is what a loop over the longer one makes of it."""
    base = {"fusion": {"method": method, "depth": 80}}
    user = profile(CLICKS)

    def items(k, **more):
        config = ServingConfig.model_validate({**base, **more})
        asked = RecallRequest("u1", k, explain=True)
        return recall(shop.served, asked, user, NOW, "r", config=config)

    caps = {"author_id": author, "category": category}
    expected, held = [], Counter()
    for item in items(200).items:
        of = [
            (name, value(item.id, name)) for name, n in caps.items() if n and value(item.id, name) is not None
        ]
        if len(expected) < k and all(held[one] < caps[one[0]] for one in of):
            held.update(of)
            expected.append(item.id)
    found = [item.id for item in items(k, caps=caps).items]
    if method in ("blend", "rrf", "weighted") or 2 * k >= 60:
        assert found == expected
    assert len(found) == len(expected)


def test_no_caps_cost_no_candidates_and_full_values_are_not_asked_for_again(shop, monkeypatch):
    asked_for = []
    search = type(shop.served.channels["m"].items).search

    def counted(self, u, k, excluded=None):
        asked_for.append(k)
        return search(self, u, k, excluded)

    monkeypatch.setattr(type(shop.served.channels["m"].items), "search", counted)

    def answered(**config):
        asked_for.clear()
        given = ServingConfig.model_validate({"models": ["m"], **config})
        only = replace(shop.served, names=("m",))
        answer = recall(only, RecallRequest("u1", 20), profile(CLICKS), NOW, "r", config=given)
        return len(answer.items), list(asked_for)

    assert answered() == (20, [20])
    assert answered(caps={"author_id": 3})[1][0] == 40
    # Where few values exist, the rounds end with what is missing, not with the whole catalogue.
    assert answered(caps={"category": 1}) == (20, [40, 6])


def test_later_rounds_go_through_the_stages(shop):
    """Of 40 candidates 3 have a category's place; what comes then is ordered by the stages too."""
    stages = {"prerank": {"model": "light", "candidates": 20}, "rank": {"model": "heavy", "candidates": 20}}

    def answered(**more):
        config = ServingConfig.model_validate({"models": ["m"], "caps": {"category": 1}, **more})
        only = replace(shop.served, names=("m",))
        asked = RecallRequest("u1", 20, explain=True)
        return recall(only, asked, profile(CLICKS), NOW, "r", config=config).explain.items

    def later(items):
        return [one for one in items if one.found_by[0].channel == "m" and one.found_by[0].rank >= 40]

    plain, staged = answered(), answered(**stages)
    assert len(plain) == len(staged) == 20
    assert len(later(plain)) >= 2
    assert not any(one.stages for one in plain)
    assert {one.id for one in later(staged)} <= {one.id for one in staged[-6:]}
    numbers = [int(one.id[1:]) for one in later(staged)]
    assert numbers == sorted(numbers)  # the last stage puts small ones first
    assert [one.stages for one in later(staged)] == [{"prerank": n, "rank": -n} for n in numbers]


def test_later_rounds_go_through_a_network_over_candidates(shop):
    rng = np.random.default_rng(0)
    channels = ("m", "n", "popularity")
    width = 1 + 2 * len(channels) + SIGNALS
    mean, w1, b1, w2 = (rng.normal(size=n).astype(np.float32) for n in ((width,), (6, width), (6,), (6,)))
    network = Prerank(channels, NAMES, mean, np.full(width, 2, np.float32), w1, b1, w2)
    given = {
        "caps": {"category": 1},
        "fusion": {"depth": 1},
        "prerank": {"model": "candidates", "candidates": 20},
        "channels": {"cf": {"users": "nobody"}},
    }
    config, live = ServingConfig.model_validate(given), Live(counts=LiveCounts())
    asked = RecallRequest("u1", 23, explain=True)
    snapshot = replace(shop.served, prerank=network)
    answer = recall(snapshot, asked, profile(CLICKS), NOW, "r", config=config, live=live)
    assert answer.degraded == []
    later = [one for one in answer.explain.items if any(by.rank >= 46 for by in one.found_by)]
    assert later
    scores = [one.stages["prerank"] for one in later]
    assert scores == sorted(scores, reverse=True)


def test_same_author_channel(shop):
    attributes = shop.served.attributes
    popular, scores = ["i13", "i6", "unknown"], [3.0, 2.0, 1.0]
    index = ByValue.over(attributes, "author_id", popular, scores, "popularity")
    none = np.zeros(0, bool)
    source = SameSource(SameConfig(values=2), attributes, "author_id", index, none)
    history = [("i5", "click", 1), ("i6", "purchase", 2), ("i7", "click", 3), ("nobody", "click", 4)]
    ask = Ask("u", 10, {}, profile(history), {"i7"}, {"i35"})
    found = source.candidates(ask, 100)
    names = [key for key, _ in found]
    # Author 0 of i7, the newest entries first; then author 6 of i6, what is popular first.
    assert names == ["c4", "c0", "i28", "i21", "i14", "i0", "i13", "i6", "i34", "i27", "i20"]
    assert [key for key, _ in source.candidates(ask, 5)] == names[:5]
    scores = [score for _, score in found]
    assert scores == sorted(scores, reverse=True)
    np.testing.assert_allclose(source.scores(ask, names), scores)
    np.testing.assert_array_equal(source.scores(ask, ["i1", "nobody"]), [0, 0])
    clicks = SameSource(SameConfig(kinds=("click",), values=1, order="recency"), attributes, "author_id",
                        ByValue.over(attributes, "author_id", popular, scores, "recency"), none)  # fmt: skip
    assert [key for key, _ in clicks.candidates(ask, 9)] == names[:6]
    assert source.candidates(Ask("u", 10, {}, profile(()), set()), 5) == []
    out = np.zeros(len(attributes), bool)
    out[attributes.entries(["i28", "i13"])] = True
    masked = SameSource(SameConfig(values=2), attributes, "author_id", index, out)
    assert [key for key, _ in masked.candidates(ask, 100)] == [
        one for one in names if one not in ("i28", "i13")
    ]


def test_over_http_and_audited(tmp_path):
    shop = Shop(tmp_path, **READ, same={"author_id": {}}, scenes={"tab": {"caps": {"author_id": 2}}})
    shop.world.serve(shop.world.bundle(watermark_ms=NOW))
    shop.change(*(Change(id=item, ts_ms=OLD, attributes=of) for item, of in ITEMS.items()))
    shop.world.profiles.put("u1", [(item, kind, NOW - 1000 + ts) for item, kind, ts in CLICKS])
    log = AuditLog(tmp_path / "audit.jsonl")

    async def ask():
        async with shop.world.client(log) as client:
            body = {"user_id": "u1", "k": 30, "context": {"scene": "tab"}, "explain": True}
            return (await client.post("/v1/recall", json=body)).json()

    answer = asyncio.run(ask())
    log.close()
    assert answer["degraded"] == []
    found = [item["id"] for item in answer["items"]]
    by_author = Counter(value(item, "author_id") for item in found)
    assert max(n for author, n in by_author.items() if author is not None) <= 2
    assert answer["explain"]["caps"]["author_id"] > 0
    assert answer["explain"]["filters"] == {"require available": 8}
    assert {item["channel"] for item in answer["items"]} >= {"m", "same_author_id"}
    (record,) = read_audit(tmp_path / "audit.jsonl")
    assert AuditCheck(shop.world.registry, FakeTower.load).recompute(record).mixed == ""
    config = ServingConfig.model_validate(shop.world.config.model_dump())
    same = recall(
        shop.world.snapshot, record.request, shop.world.profiles.held["u1"], record.ts_ms, "", config=config
    )
    assert [item.id for item in same.items] == found


def test_caps_of_attributes_that_nothing_is_known_of(shop):
    caps = Caps({"colour": 1, "author_id": 0}, shop.served.attributes)
    assert caps.admit(["i0", "i7", "i14"], 2) == ["i0", "i7"]
    assert not caps.closed().any()
    assert caps.crowded("i0") == {}
