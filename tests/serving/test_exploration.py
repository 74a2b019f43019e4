"""Exploration for new users: the draw against Beta itself, the quota, and what holds for every answer."""

import asyncio
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.item_signals import HALF_LIVES_H, SIGNALS
from serving.asking import Live
from serving.channels.contract import Ask
from serving.channels.explore import ExploreSource
from serving.config import ServingConfig
from serving.exploration import ExplorationConfig, Spread
from serving.fresh import Fresh
from serving.live_counts import LiveCounts
from serving.profile import NO_PROFILE
from serving.recall import recall
from serving.schema import RecallRequest
from stream.change import Change
from tests.serving.test_caps import ITEMS, METHODS, OLD, value
from tests.serving.test_fresh import NOW, Shop, upsert
from tests.serving.test_recall import CLICKS, profile
from tests.serving.test_seen import seen_set

NOBODY = profile(())
NEW = [f"new{n}" for n in range(30)]


def counted(**outcomes):
    """Counts of (taken, shown) by item."""
    values = np.zeros((len(outcomes) + 1, SIGNALS), np.float32)
    for row, (taken, shown) in zip(values, outcomes.values(), strict=False):
        row[len(HALF_LIVES_H) - 1], row[2 * len(HALF_LIVES_H) - 1] = np.log1p(taken), np.log1p(shown)
    return LiveCounts({item: at for at, item in enumerate(outcomes)}, values)


def source(counts, request_id, fresh=(), **config):
    born = Fresh(pa.array(list(fresh), pa.string()), np.arange(len(fresh), 0, -1, dtype=np.int64))
    return ExploreSource(ExplorationConfig(below_events=1, **config), born, counts, request_id, NOW)


X = np.linspace(0, 1, 20_001)


def density(a, b):
    """Of Beta(a, b) on X, for a and b above 1."""
    log_b = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    inside = X[1:-1]
    return np.concatenate([[0], np.exp((a - 1) * np.log(inside) + (b - 1) * np.log1p(-inside) - log_b), [0]])


def cumulated(density_X):
    """Its distribution function on X."""
    return np.append(0, np.cumsum((density_X[1:] + density_X[:-1]) / 2 * np.diff(X)))


def kolmogorov(draws, cumulated_X):
    """sqrt(n) times the greatest distance of two distribution functions; above 1.95 once in 1000."""
    at = np.interp(np.sort(draws), X, cumulated_X)
    steps = np.arange(len(draws) + 1) / len(draws)
    return max(np.abs(at - steps[1:]).max(), np.abs(at - steps[:-1]).max()) * math.sqrt(len(draws))


def chi_square(counts):
    """Of counts that should be alike."""
    expected = sum(counts) / len(counts)
    return sum((n - expected) ** 2 / expected for n in counts)


OUTCOMES = {"good": (40, 200), "bad": (1, 300), "young": (1, 4), "odd": (5, 2)}
ASK = Ask("u", NOW, {}, NOBODY, set())


def test_draws_are_those_of_beta():
    counts, a, b, n = counted(**OUTCOMES), 2.0, 7.0, 3_000
    draws = {item: [] for item in (*OUTCOMES, "fresh")}
    first = Counter()
    for request in range(n):
        one = source(counts, f"r{request}", ("fresh", "good"), prior_taken=a, prior_passed=b)
        ranking = one.candidates(ASK, 10)
        first[ranking[0][0]] += 1
        assert [score for _, score in ranking] == sorted((score for _, score in ranking), reverse=True)
        for item, draw in ranking:
            draws[item].append(draw)
    beta = {item: (taken + a, max(shown - taken, 0) + b) for item, (taken, shown) in OUTCOMES.items()}
    beta["fresh"] = (a, b)
    densities = {item: density(*of) for item, of in beta.items()}
    below = {item: cumulated(of) for item, of in densities.items()}
    for item in beta:
        assert len(draws[item]) == n
        assert kolmogorov(draws[item], below[item]) < 1.95, item
    # The chance to be drawn first: the integral over x of its density times all others' being below x.
    for item, of in densities.items():
        others = np.prod([one for name, one in below.items() if name != item], axis=0)
        chance = cumulated(of * others)[-1]
        assert first[item] / n == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / n) + 1e-9)


def test_without_counts_new_items_are_drawn_alike():
    fresh = [f"n{n}" for n in range(8)]
    for counts in (None, LiveCounts(missing="away")):
        first = Counter(source(counts, f"r{n}", fresh).candidates(ASK, 1)[0][0] for n in range(2_000))
        assert chi_square([first[item] for item in fresh]) < 24.3  # once in 1000, of 8 items
        assert source(counts, "r", fresh).missing
        assert len(source(counts, "r", fresh, pool=3).candidates(ASK, 9)) == 3


def test_a_draw_belongs_to_its_request_and_its_item():
    counts = counted(**{f"i{n}": (n % 7, n) for n in range(50)})
    one = source(counts, "r", ("x", "y")).candidates(ASK, 100)
    assert source(counts, "r", ("x", "y")).candidates(ASK, 100) == one
    assert source(counts, "s", ("x", "y")).candidates(ASK, 100) != one
    some = source(counts, "r", ("x", "y")).candidates(replace(ASK, excluded={one[0][0], one[5][0]}), 20)
    assert some == [pair for at, pair in enumerate(one) if at not in (0, 5)][:20]
    old = replace(source(counts, "r", ("x", "y")), ts_ms=1)
    assert "x" not in dict(old.candidates(ASK, 100))  # born later than the moment


def test_places_are_drawn_alike_behind_the_first():
    explored, others = ["x", "y"], list("abcdefgh")
    places = Counter()
    for request in range(2_000):
        both = Spread(3, f"r{request}").over(others, explored)
        assert [one for one in both if one in others] == others
        assert [one for one in both if one in explored] == explored
        places.update(at for at, one in enumerate(both) if one in explored)
    assert sorted(places) == list(range(3, 10))
    assert chi_square(list(places.values())) < 22.5  # once in 1000, of 7 places
    assert Spread(9, "r").over(["a"], explored) == ["a", "x", "y"]
    assert Spread(0, "r").over(others, []) == others


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    shop = Shop(tmp_path_factory.mktemp("w"), caps={"author_id": 1, "category": 1})
    shop.world.serve(shop.world.bundle(watermark_ms=NOW, models=("m", "n")))
    shop.change(*(Change(id=item, ts_ms=OLD, attributes=of) for item, of in ITEMS.items()))
    shop.change(*(upsert(item, author_id=n % 7, category="n") for n, item in enumerate(NEW)))
    shop.change(Change(id="new3", ts_ms=NOW, deleted=True))
    return shop


LIVE = Live(counts=counted(**{f"i{n}": (n, 3 * n) for n in range(0, 60, 2)}))
PICKED = st.lists(st.sampled_from([*NEW, *(f"i{n}" for n in range(60))]), unique=True, max_size=40)


@settings(max_examples=300, deadline=None)
@given(
    method=st.sampled_from(METHODS),
    k=st.integers(1, 40),
    share=st.sampled_from([0.1, 0.25, 0.5, 1.0]),
    after=st.integers(0, 5),
    caps=st.fixed_dictionaries({}, optional={"author_id": st.integers(0, 4), "category": st.integers(0, 9)}),
    blocked=st.lists(st.integers(0, 6), unique=True, max_size=3),
    exclude=PICKED,
    seen=PICKED,
    guaranteed=st.integers(0, 4),
    counts=st.booleans(),
    request_id=st.text(max_size=5),
)
def test_the_quota_is_held_and_so_is_all_else(
    shop, method, k, share, after, caps, blocked, exclude, seen, guaranteed, counts, request_id
):
    exploring = {"below_events": 3, "share": share, "after": after}
    given_config = {
        "fusion": {"method": method, "depth": 10},
        "caps": caps,
        "filters": {"blocked": {"author_id": blocked}},
        "channels": {"n": {"guaranteed": guaranteed}, "popularity": {"users": "all"}},
    }
    config = ServingConfig.model_validate({**given_config, "exploration": exploring})
    asked, bloom = RecallRequest("u1", k, exclude=exclude, explain=True), seen_set(seen, "bloom")
    live = LIVE if counts else Live()

    def answered(config, user):
        return recall(shop.world.snapshot, asked, user, NOW, request_id, config=config, live=live)

    user = profile(CLICKS[:2], seen=(bloom,))
    answer = answered(config, user)
    found = [item.id for item in answer.items]
    explored = [item.id for item in answer.items if item.channel == "explore"]
    assert len(set(found)) == len(found) <= k
    authors = {
        **{item: of["author_id"] for item, of in ITEMS.items()},
        **{i: n % 7 for n, i in enumerate(NEW)},
    }

    def allowed(item):
        held = item in exclude or item == "new3" or authors.get(item) in blocked
        return not held and not bloom.holds([item], NOW)[0]

    assert all(map(allowed, found))
    of = {"author_id": authors.get, "category": lambda i: "n" if i in NEW else value(i, "category")}
    for name, most in caps.items():
        held = Counter(of[name](item) for item in found if of[name](item) is not None)
        assert not most or max(held.values(), default=0) <= most
    # The quota: of the pool, as far as it goes beyond what the list begins with anyway.
    plain = answered(ServingConfig.model_validate(given_config), user)
    assert not [item for item in plain.items if item.channel == "explore"]
    wanted = config.exploration.places(k)
    assert len(explored) <= wanted
    pool = {*NEW, *LIVE.counts.places} if counts else set(NEW)
    assert set(explored) <= pool
    if not any(caps.values()):
        begins = {item.id for item in plain.items}
        if not guaranteed:
            assert len(explored) == min(wanted, len([i for i in pool if allowed(i) and i not in begins]))
            assert len(found) >= len(plain.items)
    # They stand behind the first places, as far as others are there to stand before them.
    others = len(found) - len(explored)
    if len(found) == k:
        assert all(found.index(item) >= min(after, others) for item in explored)
    assert answer.explain.channels.get("explore", 0) == len(explored)
    for item in answer.explain.items:
        ranks = {by.channel: by.rank for by in item.found_by}
        assert all(rank < answer.explain.candidates.get(name, 99) for name, rank in ranks.items())
    named = [one for one in answer.degraded if one.startswith("channel explore: drawn from new items")]
    assert len(named) == (not counts)
    assert answered(config, user) == answer
    # Who is known, or of whom nothing can be known just now, gets none.
    for someone in (profile(CLICKS, seen=(bloom,)), NO_PROFILE):
        assert not [item for item in answered(config, someone).items if item.channel == "explore"]


def test_it_is_off_by_default_and_over_http(tmp_path):
    for exploration in ({}, {"below_events": 5, "share": 0.5}):
        shop = Shop(tmp_path / str(len(exploration)), exploration=exploration)
        shop.world.serve(shop.world.bundle(watermark_ms=NOW))
        shop.change(*(upsert(item) for item in NEW))
        shop.world.swapper.served.take_counts(counted(a=(1, 2)))

        async def ask(shop=shop):
            async with shop.world.client() as client:
                body = {"user_id": "u1", "k": 10, "explain": True}
                return [(await client.post("/v1/recall", json=body)).json() for _ in range(2)]

        answers = asyncio.run(ask())
        explored = [
            [one["id"] for one in answer["items"] if one["channel"] == "explore"] for answer in answers
        ]
        assert [len(one) for one in explored] == ([5, 5] if exploration else [0, 0])
        assert all(answer["degraded"] == [] for answer in answers)
        if exploration:
            assert explored[0] != explored[1]  # another request, other draws
            assert answers[0]["explain"]["channels"]["explore"] == 5
