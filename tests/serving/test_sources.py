"""Channels that read the profile or what editors wrote, filters, and who gets which channel."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.blend import Blend
from serving.channels.contract import Ask
from serving.channels.editorial import EditorialFile, EditorialSource, read_editorial
from serving.channels.of_snapshot import sources_of
from serving.channels.own import OwnItemsConfig, OwnItemsSource
from serving.channels.popular import PopularSource
from serving.config import ServingConfig
from serving.eligible import eligible
from serving.errors import EditorialRefused
from serving.filters import FilterConfig, barred
from serving.popular_now import PopularItems
from serving.profile import NO_PROFILE
from serving.recall import recall
from serving.schema import RecallRequest
from tests.serving.test_recall import CLICKS, profile
from tests.serving.world import HOUR, World


def asked(history=(), excluded=(), ts_ms=10 * HOUR, **context):
    return Ask("u", ts_ms, context, profile(history), frozenset(excluded))


def test_own_items_by_hand():
    history = [
        ("milk", "purchase", 2 * HOUR),
        ("tea", "purchase", 6 * HOUR),
        ("film", "play", 7 * HOUR),
        ("milk", "purchase", 8 * HOUR),
        ("film", "finish", 9 * HOUR),
        ("seen", "impression", 9 * HOUR),
        ("jam", "purchase", 11 * HOUR),  # after the moment
    ]
    source = OwnItemsSource(OwnItemsConfig(half_life_h=2))
    assert source.candidates(asked(history), 5) == [("milk", 2**-1 + 2**-4), ("tea", 2**-2)]
    assert source.candidates(asked(history, {"milk"}), 5) == [("tea", 0.25)]
    assert source.candidates(asked(history), 1) == [("milk", 2**-1 + 2**-4)]
    again = [*history[:-1], ("film", "play", 10 * HOUR)]
    assert source.candidates(asked(again), 1) == [("film", 1.0)]
    tie = [("a", "purchase", HOUR), ("b", "purchase", HOUR)]
    assert [key for key, _ in source.candidates(asked(tie), 2)] == ["b", "a"]


def test_popular_leaves_out_and_stops():
    source = PopularSource(["a", "b", "c"], [3.0, 2.0, 1.0])
    assert source.candidates(asked(excluded={"a"}), 1) == [("b", 2.0)]
    assert source.candidates(asked(), 9) == [("a", 3.0), ("b", 2.0), ("c", 1.0)]


def test_editorial_lists_by_scene(tmp_path):
    path = tmp_path / "lists.json"
    path.write_text(json.dumps({"home": [5, "5", 5], "": ["x"]}))
    lists = read_editorial(path)
    home = EditorialSource(lists).candidates(asked(scene="home"), 9)
    assert [score for _, score in home] == [1.0, 0.5]
    assert len({key for key, _ in home}) == 2  # 5 and "5" differ
    assert EditorialSource(lists).candidates(asked(scene="other"), 9) == [("x", 1.0)]
    assert EditorialSource({"home": ["x"]}).candidates(asked(), 9) == []
    assert EditorialSource(lists).candidates(asked(excluded={"x"}), 9) == []


def test_editorial_file_is_read_again_and_a_broken_one_changes_nothing(tmp_path, caplog):
    path = tmp_path / "lists.json"
    path.write_text('{"": ["x"]}')
    file = EditorialFile(path)
    assert file.lists() == {"": ["x"]}
    assert file.lists() is file.lists()
    path.write_text('{"": ["y", "z"]}')
    assert file.lists() == {"": ["y", "z"]}
    path.write_text('{"": "y and z"}')
    assert file.lists() == {"": ["y", "z"]}
    assert "expected" in caplog.text
    os.remove(path)
    assert file.lists() == {"": ["y", "z"]}
    with pytest.raises(EditorialRefused, match=r"lists\.json"):
        EditorialFile(path)
    assert EditorialFile(None).lists() == {}


def test_filters_by_kind_and_age():
    history = [
        ("old", "purchase", HOUR),
        ("new", "purchase", 9 * HOUR),
        ("shown", "impression", 5 * HOUR),
        ("clicked", "click", 9 * HOUR),
        ("later", "purchase", 11 * HOUR),
    ]
    config = FilterConfig.model_validate(
        {
            "seen": [{"kinds": ["purchase"], "horizon_h": 4}, {"kinds": ["impression"]}],
            "blocked_items": ["bad"],
        }
    )
    user = profile(history, consumed={"old": HOUR})
    found = barred(config, user, 10 * HOUR, {"out"}, True)
    assert found == {
        "request": {"out"},
        "consumed": {"old"},
        "seen": {"new", "shown"},
    }
    assert barred(FilterConfig(), user, 10 * HOUR, set(), False) == {}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("w"))
    snapshot = world.serve(world.bundle(models=("m", "n")))
    weights = np.array([0.7, 0.2, 0.1, 0.1, 0.0, 0.1], np.float32)
    return replace(snapshot, blend=Blend(("m", "n", "popularity"), weights))


METHODS = ("blend", "snake", "quota", "rrf", "weighted")


@settings(max_examples=40, deadline=None)
@given(
    method=st.sampled_from(METHODS),
    k=st.integers(1, 70),
    seen=st.lists(st.sampled_from([f"i{n}" for n in range(62)]), unique=True, max_size=60),
    blocked=st.lists(st.sampled_from([f"i{n}" for n in range(62)]), unique=True, max_size=20),
)
def test_nothing_barred_comes_back_and_answers_are_full(served, method, k, seen, blocked):
    config = ServingConfig.model_validate(
        {
            "fusion": {"method": method, "depth": 5},
            "channels": {"popularity": {}, "own_items": {"users": "all"}, "n": {"quota": 3, "weight": 2}},
            "filters": {"seen": [{"kinds": ["purchase"]}], "blocked_items": blocked},
        }
    )
    user = profile([(item, "purchase", 100 + at) for at, item in enumerate(seen)] + CLICKS)
    answer = recall(served, RecallRequest("u1", k, explain=True), user, 500, "r", config=config)
    found = [item.id for item in answer.items]
    bad = {*seen, *blocked, "i6"}  # i6: a purchase of CLICKS
    assert not set(found) & bad
    assert len(set(found)) == len(found) == min(k, len({f"i{n}" for n in range(60)} - bad))
    assert [item.id for item in answer.explain.items] == found
    assert answer.explain.filters.get("seen", 0) == len({*seen, "i6"})
    again = recall(served, RecallRequest("u1", k, explain=True), user, 500, "r", config=config)
    assert again == answer


def test_scores_of_a_channel_are_those_of_its_candidates(served):
    """The contract of a source: both of its answers agree."""
    history = [("i5", "click", 100), ("i3", "purchase", 200), ("i7", "click", 300)]
    ask = asked(history, scene="tab")
    lists = {"": ["i9", "i2"]}
    logs = {"popularity": np.log1p, "popular_now": np.log1p}
    popular = PopularItems(["i4", "i8"], [2.5, 0.5], 100.0)
    for name, source in sources_of(eligible(served, ()), ServingConfig(), lists, popular).items():
        ranking = source.candidates(ask, 9)
        assert ranking or name == "fresh"
        if not ranking:
            continue
        scores = source.scores(ask, [key for key, _ in ranking])
        expected = np.array([score for _, score in ranking])
        np.testing.assert_allclose(scores, logs.get(name, np.asarray)(expected), rtol=1e-5)
        unknown = source.scores(ask, ["nobody has this"])
        assert unknown.shape == (1,)
        assert unknown[0] < scores.min() + 1e-9


def test_a_blend_answers_by_its_values(served):
    answer = recall(served, RecallRequest("u1", 12, explain=True), profile(CLICKS), 500, "r")
    assert answer.explain.method == "blend"
    assert answer.explain.candidates == {"m": 60, "n": 60}
    values = [item.value for item in answer.explain.items]
    assert values == sorted(values, reverse=True)
    bare = replace(served, blend=None)
    assert (
        recall(bare, RecallRequest("u1", 12, explain=True), profile(CLICKS), 500, "r").explain.method
        == "snake"
    )


def test_who_gets_a_channel(served):
    def channels(user, **given):
        config = ServingConfig.model_validate({"channels": given, "fusion": {"method": "rrf"}})
        answer = recall(served, RecallRequest("u1", 6, explain=True), user, 500, "r", config=config)
        return list(answer.explain.candidates)

    known = profile(CLICKS)
    assert channels(known) == ["m", "n"]
    assert channels(NO_PROFILE) == ["popularity", "m", "n"]
    assert channels(known, popularity={}) == ["m", "n", "popularity"]
    assert channels(NO_PROFILE, popularity={"users": "nobody"}, n={"users": "cold"}) == ["n", "m"]
    assert channels(known, n={"users": "cold"}, own_items={}) == ["m", "own_items"]


def test_a_scene_has_its_own_settings(served):
    config = ServingConfig.model_validate(
        {
            "fusion": {"method": "rrf"},
            "scenes": {
                "cart": {
                    "fusion": {"method": "quota"},
                    "channels": {"m": {"quota": 1}, "n": {"users": "nobody"}, "popularity": {}},
                }
            },
        }
    )

    def answered(scene):
        request = RecallRequest("u1", 6, {"scene": scene}, explain=True)
        return recall(served, request, profile(CLICKS), 500, "r", config=config)

    cart, other = answered("cart"), answered("home")
    assert (cart.explain.method, other.explain.method) == ("quota", "rrf")
    assert cart.explain.channels == {"m": 1, "popularity": 5}
    assert set(other.explain.candidates) == {"m", "n"}
