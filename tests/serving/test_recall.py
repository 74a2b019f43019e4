from types import SimpleNamespace

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.moments import HistoryLists
from serving.asking import ask
from serving.channels.moment import moment_of
from serving.config import ServingConfig
from serving.errors import BadRequest, NotFound
from serving.fusion_config import ChannelConfig
from serving.profile import NO_PROFILE
from serving.recall import answer_of_one, answer_of_written, answered, only_call, recall
from serving.schema import RecallRequest
from serving.similar import similar
from serving.written import answer_json, with_items
from tests.serving.world import HOUR, FakeProfiles, World


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("w"))
    base = world.bundle()
    for sequence in (1, 2, 3):
        world.delta(base, sequence)
    world.serve(base, 3)
    return world.snapshot


def profile(history=(), **more):
    profiles = FakeProfiles()
    profiles.put("u", history, **more)
    return profiles.held["u"]


CLICKS = [("i5", "click", 100), ("i6", "purchase", 200), ("i7", "click", 300)]


def merged_vectors(snapshot):
    items = snapshot.channels["m"].items
    names = [f"i{n}" for n in range(60)] + [f"new{n}" for n in range(1, 4)]
    positions = items.lookup(pa.array(names))
    return {
        name: items.vectors_of(positions[at : at + 1])[0]
        for at, name in enumerate(names)
        if positions[at] >= 0
    }


def test_known_user_gets_the_towers_best(served):
    answer = recall(served, RecallRequest("u3", 10), profile(CLICKS), 500, "r")
    tower = served.channels["m"].tower
    u = tower.rows["u3"] + 2 * tower.bias  # two clicks; the purchase is not a kind of this model
    scores = {name: float(v @ u) for name, v in merged_vectors(served).items()}
    best = sorted(scores, key=scores.get, reverse=True)[:10]
    assert [item.id for item in answer.items] == best
    np.testing.assert_allclose(
        [item.score for item in answer.items], [scores[name] for name in best], rtol=1e-5
    )
    assert {item.channel for item in answer.items} == {"m"}
    assert (answer.bundle, answer.delta, answer.watermark_ms) == (served.bundle, 3, HOUR + 3000)
    assert answer.profile == "0:0:1:0"
    assert not set(best) & {"i31", "i32", "i33"}  # tombstones


def test_history_after_the_moment_is_not_read(served):
    late = recall(served, RecallRequest("u3", 5, explain=True), profile(CLICKS), 500, "r")
    early = recall(served, RecallRequest("u3", 5, explain=True), profile(CLICKS), 250, "r")
    assert (late.explain.history, early.explain.history) == (2, 1)
    assert [i.score for i in late.items] != [i.score for i in early.items]


def test_a_click_and_the_context_change_the_answer(served):
    plain = recall(served, RecallRequest("u3", 5), profile(CLICKS[:1]), 500, "r")
    clicked = recall(served, RecallRequest("u3", 5), profile(CLICKS), 500, "r")
    scene = recall(served, RecallRequest("u3", 5, {"scene": "tab"}), profile(CLICKS[:1]), 500, "r")
    scores = [[item.score for item in answer.items] for answer in (plain, clicked, scene)]
    assert scores[0] != scores[1]
    assert scores[0] != scores[2]


def test_unknown_user_gets_popularity_and_the_cold_row_in_turn(served):
    answer = recall(served, RecallRequest("stranger", 8, explain=True), NO_PROFILE, 500, "r")
    assert answer.explain.cold
    assert len(answer.items) == 8
    popular = [item.id for item in answer.items if item.channel == "popularity"]
    assert popular[0] == "new3"
    assert 3 <= len(popular) <= 5
    assert answer.explain.channels["m"] + len(popular) == 8
    assert answer.items[0].channel == "popularity"
    assert len({item.id for item in answer.items}) == 8


def test_excluded_and_seen_items_never_come_back(served):
    consumed = {"i1": 5, "i2": 6, "new3": 7}
    first = recall(served, RecallRequest("u3", 10), profile(CLICKS, consumed=consumed), 500, "r")
    out = [item.id for item in first.items[:4]]
    asked = RecallRequest("u3", 60, exclude=out, exclude_seen=True, explain=True)
    answer = recall(served, asked, profile(CLICKS, consumed=consumed), 500, "r")
    found = [item.id for item in answer.items]
    assert not set(found) & {*out, *consumed}
    # 60 of the bundle + 3 new - 3 deleted, less what was left out: everything eligible comes.
    assert len(found) == len(set(found)) == 60 - len({*out, *consumed} & set(merged_vectors(served)))
    unseen = recall(served, RecallRequest("u3", 60), profile(CLICKS, consumed=consumed), 500, "r")
    assert set(consumed) <= {item.id for item in unseen.items}


@settings(max_examples=50, deadline=None)
@given(exclude=st.lists(st.sampled_from([f"i{n}" for n in range(62)]), max_size=60), k=st.integers(1, 80))
def test_never_short_while_items_remain(served, exclude, k):
    for user in (profile(CLICKS), NO_PROFILE):
        answer = recall(served, RecallRequest("u1", k, exclude=exclude), user, 500, "r")
        eligible = (set(merged_vectors(served)) | set(served.popular_keys)) - set(exclude)
        assert len({item.id for item in answer.items}) == len(answer.items) == min(k, len(eligible))
        assert not {item.id for item in answer.items} & set(exclude)


def test_popularity_fills_what_the_towers_leave_empty(tmp_path):
    world = World(tmp_path)
    snapshot = world.serve(world.bundle(items=3))  # 20 popular items, 3 of them in the index
    answer = recall(snapshot, RecallRequest("u1", 18), profile(CLICKS), 500, "r")
    assert [item.channel for item in answer.items] == ["m"] * 3 + ["popularity"] * 15
    assert len({item.id for item in answer.items}) == 18


def test_integer_and_string_ids_differ(tmp_path):
    world = World(tmp_path)
    base = world.bundle(users=3)
    snapshot = world.serve(base)
    text = recall(snapshot, RecallRequest("u1", 3), profile(CLICKS), 1000, "r")
    number = recall(snapshot, RecallRequest(1, 3), profile(CLICKS), 1000, "r")
    assert [i.score for i in text.items] != [i.score for i in number.items]
    with pytest.raises(BadRequest, match="user_id"):
        recall(snapshot, RecallRequest("é" * 200, 3), NO_PROFILE, 1, "r")
    with pytest.raises(BadRequest, match=r"\$.exclude\[1\]"):
        recall(snapshot, RecallRequest("a", 3, exclude=["b", "é" * 200]), NO_PROFILE, 1, "r")


def test_several_models_take_turns(tmp_path):
    world = World(tmp_path)
    snapshot = world.serve(world.bundle(models=("m", "n")))
    answer = recall(snapshot, RecallRequest("u1", 10, explain=True), profile(CLICKS), 500, "r")
    assert answer.explain.channels["m"] >= 3
    assert answer.explain.channels["n"] >= 3
    assert len({item.id for item in answer.items}) == 10


def test_similar(served):
    vectors = merged_vectors(served)
    for name in ("i9", "new2"):
        answer = similar(served, [name], 5)
        scores = {other: float(v @ vectors[name]) for other, v in vectors.items() if other != name}
        assert [item.id for item in answer.items] == sorted(scores, key=scores.get, reverse=True)[:5]
    with pytest.raises(NotFound, match="got 'i31'"):
        similar(served, ["i31"], 5)
    with pytest.raises(NotFound, match="expected one of m, got 'x'"):
        similar(served, ["i1"], 5, "x")


def test_an_item_counts_once_per_request_at_its_first_kind_of_the_model() -> None:
    def entry(item: str, kind: str, ts_ms: int, request: str) -> SimpleNamespace:
        return SimpleNamespace(item_id=item, kind=kind, ts_ms=ts_ms, request_id=request)

    history = [
        entry("a", "click", 1, "r"), entry("a", "long_view", 2, "r"), entry("a", "like", 3, "r"),
        entry("a", "long_view", 4, "s"), entry("b", "long_view", 5, ""), entry("b", "long_view", 6, ""),
    ]  # fmt: skip
    further = {
        "clicks": SimpleNamespace(kinds=("click",), length=9),
        "b": SimpleNamespace(kinds=("like", "x"), length=1),
    }
    config = SimpleNamespace(positives=("long_view", "like"), read_length=9, histories=further)
    moment = moment_of(config, "u", 5, history, {}, {})

    def entries(lists: HistoryLists) -> list[tuple[str, int]]:
        return list(zip(lists.id.to_pylist(), lists.ts_ms.tolist(), strict=True))

    assert entries(moment.history) == [("a", 2), ("a", 4), ("b", 5)]
    assert {name: entries(lists) for name, lists in moment.histories.items()} == {
        "clicks": [("a", 1)], "b": [("a", 3)],
    }  # fmt: skip
    newest = SimpleNamespace(positives=("long_view", "like"), read_length=2, histories={})
    assert entries(moment_of(newest, "u", 9, history, {}, {}).history) == [("b", 5), ("b", 6)]


@given(st.integers(1, 20), st.lists(st.integers(0, 59).map("i{}".format), max_size=5))
def test_one_channels_ranking_is_the_answer_without_a_detour(served, k, exclude):
    asking = ask(served, RecallRequest("u3", k, exclude=exclude), profile(CLICKS), 500)
    assert asking.only == "m"
    ranking = asking.sources["m"].candidates(asking.ask, asking.k)
    assert answer_of_one(asking, ranking, "r") == answered(asking, "r")[0]
    written = only_call(asking)()
    assert isinstance(written, bytes)
    content = answer_json(answer_of_written(asking, "r"), written)
    assert content == msgspec.json.encode(answered(asking, "r")[0])
    assert with_items(answer_of_written(asking, "r"), written) == answered(asking, "r")[0]


@pytest.mark.parametrize(("k", "exclude"), [(7, []), (7, ["i3"]), (1000, [])])
def test_answers_made_together_are_those_made_alone(served, k, exclude):
    asked = [
        ask(
            served,
            RecallRequest(f"u{at}", k, {"scene": "x" * (at % 2)}, exclude),
            profile(CLICKS[at % 3 :]),
            500,
        )
        for at in range(3)
    ]
    calls = [only_call(one) for one in asked]
    assert len({call.like for call in calls}) == 1
    assert calls[0].of_each(calls) == [call() for call in calls]


def test_what_differs_is_not_made_together(served):
    known = profile(CLICKS)
    requests = [RecallRequest("u1", 7), RecallRequest("u1", 8), RecallRequest("u1", 7, exclude=["i3"])]
    calls = [only_call(ask(served, one, known, 500)) for one in requests]
    assert len({call.like for call in calls}) == 3


def test_a_ranking_that_is_too_short_is_not_written(served):
    asking = ask(served, RecallRequest("u3", 1000), profile(CLICKS), 500)
    found = only_call(asking)()
    assert found == asking.sources["m"].candidates(asking.ask, asking.k)
    assert 0 < len(found) < 1000


@pytest.mark.parametrize("request_", [RecallRequest("u3", 5, explain=True), RecallRequest("nobody", 5)])
def test_no_shortcut_where_more_than_one_ranking_counts(served, request_):
    known = profile(CLICKS) if request_.explain else profile()
    assert ask(served, request_, known, 500).only == ""


def test_what_is_worked_out_for_a_scene_follows_what_it_came_from(served):
    config = ServingConfig(channels={"editorial": ChannelConfig()})

    def channels(lists, config=config):
        return recall(
            served, RecallRequest("u3", 4), profile(CLICKS), 500, "r", config=config, editorial=lists
        )

    first = channels({"": ["i1"]})
    assert "editorial" in {item.channel for item in first.items}
    later = channels({"": ["i2"]})
    assert "i2" in {item.id for item in later.items if item.channel == "editorial"}
    assert {item.channel for item in channels({"": ["i2"]}, ServingConfig()).items} == {"m"}
    assert channels({"": ["i1"]}) == first
