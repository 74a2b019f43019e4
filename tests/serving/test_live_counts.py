"""The pre-rank by live counts: from the store to the order of an answer, and what it does without."""

import contextlib
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from deploy.config import Config
from deploy.wiring_counts import counted
from models.affinities import JOINT, Affinities, Sides, codes_of
from models.blend import Blend, blend_features, with_counts
from models.feature_config import FeatureConfig
from models.item_signals import NAMES, PARTS, SIGNALS, ItemSignals
from models.prerank import Prerank, prerank_inputs
from serving.asking import Live, ask
from serving.channels.contract import Ask
from serving.config import ServingConfig
from serving.fusion import Fused, all_keys
from serving.live_counts import CountsFollower, LiveCounts
from serving.recall import recall
from serving.schema import RecallRequest
from serving.stages import CandidateRanker
from stream.errors import Unreachable
from stream.popular_counts import EVERYTHING
from stream.popular_store import PopularCounts, PopularReader, PopularReading, ReadList
from stream.profiles import HistoryEntry, Profile
from tests.serving.test_recall import CLICKS, profile
from tests.serving.world import HOUR, World
from tests.stream.samples import T0, batch, event

CONFIG = counted(Config.model_validate({"update": {"prerank": True}}))
HISTORY = [
    ("i0", "click", 1),
    ("i2", "like", 2),
    ("i0", "click", 3),
    ("i2", "click", 4),
    ("i2", "click", 501),
]
WHO = Profile("u1", [HistoryEntry(*entry, "") for entry in HISTORY], attributes={"age": "3"})
ASK = Ask("u1", 500, {"scene": "s1"}, WHO, frozenset())
STAGE = ServingConfig.model_validate({"prerank": {"model": "candidates", "candidates": 25}})


def test_positives_are_taken_and_all_else_but_rejects_is_shown():
    taken, shown = (set(CONFIG[part].kinds) for part in PARTS)
    assert not taken & shown
    assert "impression" in shown
    assert "reject" not in taken | shown
    assert counted(Config.model_validate({"update": {"blend_counts": False}})) == {}


def test_what_a_server_reads_is_what_training_reads(store, topics):
    rng = np.random.default_rng(5)
    kinds = [*CONFIG["taken"].kinds, "impression", "view", "reject"]
    events = [
        event(
            n,
            ts_ms=T0 + n * 90_000 - int(rng.integers(0, 3)) * 40 * HOUR,
            item_id=f"i{rng.integers(20)}",
            kind=str(rng.choice(kinds)),
        )
        for n in range(900)
    ]
    published: list[LiveCounts] = []
    with contextlib.ExitStack() as stack:
        ends = {}
        for part, config in CONFIG.items():
            prefix = topics(part)
            writer = stack.enter_context(contextlib.closing(PopularCounts(store, config, prefix)))
            ends[part] = stack.enter_context(contextlib.closing(PopularReader(store, config, prefix)))
            for first in (0, 500):
                writer.apply(batch(events[first : first + 500], range(first, min(first + 500, 900))))
        follower = CountsFollower(ends, published.append)
        assert follower.step()
        assert not follower.step()
    signals = ItemSignals(CONFIG["taken"].kinds)
    signals.observe(pa.Table.from_batches([batch(events)]))
    keys = [*(f"i{n}" for n in range(20)), "unknown"]
    newest_ms = max(one.ts_ms for one in events if one.kind != "reject")
    expected = signals.values(signals.entries(pa.array(keys)), newest_ms + 1)
    np.testing.assert_allclose(published[-1].signals(keys), expected, rtol=1e-4, atol=1e-4)
    assert not published[-1].signals(["unknown"]).any()
    without_store = LiveCounts.as_of(signals, newest_ms + 1)
    assert without_store.signals(keys).tobytes() == expected.tobytes()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A snapshot with a blend and a network, and counts of some items."""
    world = World(tmp_path_factory.mktemp("w"))
    snapshot = world.serve(world.bundle(models=("m", "n")))
    rng = np.random.default_rng(0)
    channels = ("m", "n", "popularity")
    width = 1 + 2 * len(channels) + SIGNALS
    sizes = ((width,), (6, width), (6,), (6,))
    mean, w1, b1, w2 = (rng.normal(size=size).astype(np.float32) for size in sizes)
    network = Prerank(channels, NAMES, mean, np.full(width, 2, np.float32), w1, b1, w2)
    blend = Blend(channels, rng.normal(size=6).astype(np.float32))
    items = {f"i{n}": n // 2 for n in range(0, 60, 2)}
    counts = LiveCounts(items, rng.exponential(size=(31, SIGNALS)).astype(np.float32))
    return replace(snapshot, blend=blend, prerank=network), counts


def answered(snapshot, counts, config=STAGE, k=10):
    request = RecallRequest("u1", k, explain=True)
    return recall(snapshot, request, profile(CLICKS), 500, "r", config=config, live=Live(counts=counts))


def test_the_first_of_the_blend_are_ordered_by_the_network(served):
    snapshot, counts = served
    plain = answered(snapshot, counts, ServingConfig(), k=40)
    found = answered(snapshot, counts)
    assert found.degraded == []
    first = [item.id for item in plain.items][:25]
    explained = {one.id: one for one in found.explain.items}
    stage = {item: one.stages["prerank"] for item, one in explained.items()}
    order = [item.id for item in found.items]
    assert order == sorted(order, key=lambda item: -stage[item])
    assert set(order) <= set(first)
    assert order != first[:10]
    other = LiveCounts(counts.places, counts.values[::-1].copy())
    assert [item.id for item in answered(snapshot, other).items] != order


def counting(snapshot):
    """The same with a blend that reads counts too, and no network."""
    channels = (*snapshot.blend.channels, *NAMES)
    weights = np.random.default_rng(8).normal(size=2 * len(channels)).astype(np.float32)
    return replace(snapshot, blend=Blend(channels, weights), prerank=None)


def test_a_blend_reads_counts_of_every_candidate(served):
    """The order by brute force, from what the channels say without counts."""
    snapshot, counts = counting(served[0]), served[1]
    blend, own = snapshot.blend, served[0].blend.channels
    request = RecallRequest("u1", 10)
    asking = ask(snapshot, request, profile(CLICKS), 500, ServingConfig(), live=Live(counts=counts))
    rankings = {name: one.candidates(asking.ask, asking.k) for name, one in asking.sources.items()}
    keys = all_keys(rankings)
    signals = np.stack([counts.values[counts.places.get(key, 30)] for key in keys])
    assert 0 < sum(key in counts.places for key in keys) < len(keys)
    nothing = np.full(len(keys), -np.inf, np.float32)
    said = [
        asking.sources[name].scores(asking.ask, keys) if name in asking.sources else nothing for name in own
    ]
    values = blend.values(with_counts(np.stack(said), signals))
    first = [keys[at] for at in np.argsort(-values, kind="stable")[:10]]
    answer = answered(snapshot, counts, ServingConfig())
    assert [item.id for item in answer.items] == first
    assert answer.degraded == []
    assert [item.id for item in answered(served[0], counts, ServingConfig()).items] != first
    for one in answer.explain.items:
        assert one.value == pytest.approx(values[keys.index(one.id)], rel=1e-4, abs=1e-4)
        assert list(one.counts) == list(NAMES)
        logs = counts.values[counts.places.get(one.id, 30)]
        assert list(one.counts.values()) == pytest.approx(np.expm1(logs), rel=1e-4, abs=1e-6)


def test_without_counts_a_blend_weighs_what_the_channels_say(served):
    snapshot = counting(served[0])
    blind = replace(snapshot, blend=snapshot.blend.over(served[0].blend.channels))
    expected = [item.id for item in answered(blind, None, ServingConfig()).items]
    away = LiveCounts(missing="the store is away")
    for live, why in ((None, "they are not followed"), (away, "the store is away")):
        answer = answered(snapshot, live, ServingConfig())
        assert [item.id for item in answer.items] == expected
        assert answer.degraded == [f"blend: no counts of items: {why}"]
        assert not any(one.counts for one in answer.explain.items)
    turns = ServingConfig.model_validate({"fusion": {"method": "snake"}})
    assert answered(snapshot, away, turns).degraded == []
    # Weights of a bundle without counts read none, whether there are any or not.
    assert [item.id for item in answered(blind, served[1], ServingConfig()).items] == expected
    assert not any(one.counts for one in answered(blind, served[1], ServingConfig()).explain.items)


def test_scores_by_hand(served):
    snapshot, counts = served
    features = blend_features(np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32))
    values = features @ snapshot.blend.weights
    keys = ["i0", "i1", "i2", "new"]
    order = [Fused(key, float(values[at]), (), features[at]) for at, key in enumerate(keys)]
    signals = np.stack([counts.values[0], counts.values[30], counts.values[1], counts.values[30]])
    expected = snapshot.prerank.values(prerank_inputs(values, features, signals))
    scores = CandidateRanker(snapshot.prerank, counts).scores(ASK, order)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    assert len(CandidateRanker(snapshot.prerank, counts).scores(ASK, [])) == 0


def test_affinities_are_read_behind_the_counts(served):
    """A scene of the request, an attribute of the user, and the authors of what was clicked."""
    snapshot, counts = served
    rng = np.random.default_rng(3)
    declared = {"scene": "context", "age": "user", "author": "item"}
    sides = Sides(tuple(FeatureConfig(name=name, source=source) for name, source in declared.items()))
    segments = pa.array([f"context.scene{JOINT}s1", f"user.age{JOINT}3", f"user.age{JOINT}4"])
    table = rng.normal(size=(3, 2)).astype(np.float16)
    authors = codes_of(pa.array(["a", "b"])).astype(np.int32)[:, None]
    affinities = Affinities(sides, segments, pa.array(["i2", "i0"]), table, authors)
    width = len(snapshot.prerank.mean) + 3
    network = replace(
        snapshot.prerank,
        signals=(*NAMES, *affinities.named),
        mean=np.zeros(width, np.float32),
        deviation=np.ones(width, np.float32),
        w1=np.eye(3, width, width - 3, dtype=np.float32),  # the affinities alone
        b1=np.full(3, 4, np.float32),
        w2=np.array([1, 10, 100], np.float32),
    )
    features = blend_features(rng.normal(size=(3, 3)).astype(np.float32))
    values = features @ snapshot.blend.weights
    order = [Fused(key, float(values[at]), (), features[at]) for at, key in enumerate(["i0", "i2", "new"])]
    scores = CandidateRanker(network, counts, affinities, frozenset({"click"})).scores(ASK, order)
    near = [[table[0, 1], table[1, 1], 2 / 4], [table[0, 0], table[1, 0], 1 / 4], [0, 0, 0]]
    corrections = (4 + np.array(near)) @ [1, 10, 100]
    np.testing.assert_allclose(scores, values + corrections, rtol=1e-3)
    of_others = answered(replace(snapshot, prerank=network), counts)
    assert "there are taken, 1 h" in of_others.degraded[0]
    assert answered(replace(snapshot, prerank=network, affinities=affinities), counts).degraded == []


def test_what_it_cannot_do_without_is_named_and_the_fused_order_serves(served):
    snapshot, counts = served
    plain = [item.id for item in answered(snapshot, counts, ServingConfig()).items]
    for changed, live, why in (
        (replace(snapshot, prerank=None), counts, "has no network that did better than the blend"),
        (snapshot, None, "no counts of items: they are not followed"),
        (snapshot, LiveCounts(missing="the store is away"), "no counts of items: the store is away"),
    ):
        answer = answered(changed, live)
        assert [item.id for item in answer.items] == plain
        assert len(answer.degraded) == 1
        assert answer.degraded[0].startswith("stage prerank: ")
        assert why in answer.degraded[0]
    unblended = answered(replace(snapshot, blend=None), counts)
    assert "nothing was blended" in unblended.degraded[0]


class Readings:
    """A reader that says what it is told to."""

    def __init__(self):
        self.config, self.next = CONFIG["taken"], PopularReading()

    def read(self, epoch="", after=0):
        if isinstance(self.next, Exception):
            raise self.next
        return self.next


def reading(sequence, **sums):
    lists = [ReadList(T0, list(sums), list(sums.values())) for _ in range(4)]
    return PopularReading("e", sequence, T0, 0, 0.1, [EVERYTHING], {EVERYTHING: lists})


def test_counts_outlast_a_store_that_is_away_for_a_moment():
    now_s, published = [0.0], []
    taken, shown = Readings(), Readings()
    follower = CountsFollower({"taken": taken, "shown": shown}, published.append, lambda: now_s[0])
    assert follower.step()
    assert published[-1].missing == "nothing has been counted yet"
    taken.next = reading(1, a=3.0)
    assert follower.step()
    values = np.expm1(published[-1].signals(["a", "b"]))
    np.testing.assert_allclose(values, [[3, 3, 3, 3, 0, 0, 0, 0], [0] * 8], rtol=1e-6)
    shown.next = reading(1, b=1.0)
    assert follower.step()
    assert np.expm1(published[-1].signals(["b"]))[0].round(5).tolist() == [0] * 4 + [1] * 4
    shown.next = Unreachable("redis.url", "redis://nowhere")
    now_s[0] += 4.9
    assert not follower.step()
    now_s[0] += 0.2
    assert follower.step()
    assert "Unreachable" in published[-1].missing
    shown.next = reading(1, b=1.0)
    assert follower.step()
    assert published[-1].missing == ""
    taken.next, shown.next = reading(2, a=7.0), Unreachable("redis.url", "redis://nowhere")
    assert not follower.step()
    shown.next = reading(1, b=1.0)
    assert follower.step()  # what came in before the store went away is not lost with it
    assert np.expm1(published[-1].signals(["a"]))[0, 0].round(5) == 7
