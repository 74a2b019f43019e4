"""Fusion against what each method says by hand, and properties that hold for all of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.blend import Blend, blend_features
from serving.fusion import all_keys, blended, calibrated, fuse, snake_merge
from serving.fusion_config import ChannelConfig, FusionConfig

METHODS = ("snake", "quota", "rrf", "weighted")


def ranking(keys):
    return [(key, float(len(keys) - place)) for place, key in enumerate(keys)]


def fused(method, lists, k, channels=None, **changes):
    rankings = {name: ranking(keys) for name, keys in lists.items()}
    return fuse(FusionConfig(method=method, **changes), channels or {}, rankings, k)


def keys(found):
    return "".join(one.key for one in found)


def test_turns_alternate():
    assert keys(fused("snake", {"a": "abcd", "b": "wxyz"}, 6)) == "awxbcy"
    assert keys(fused("snake", {"a": "abc"}, 5)) == "abc"
    assert keys(fused("snake", {"a": "a", "b": "", "c": "a"}, 5)) == "a"
    assert fused("snake", {}, 5) == []


def test_a_full_quota_passes_its_turns_and_the_rest_fills_up():
    two = {"a": ChannelConfig(quota=2)}
    assert keys(fused("quota", {"a": "abcd", "b": "wxyz"}, 6, two)) == "awxbyz"
    assert keys(fused("quota", {"a": "abcd", "b": "w"}, 5, two)) == "awbcd"
    assert keys(fused("quota", {"a": "abcd"}, 3, {"a": ChannelConfig(quota=0)})) == "abc"
    # A quota is one of quota fusion; taking turns knows none.
    assert keys(fused("snake", {"a": "abcd", "b": "w"}, 4, two)) == "awbc"


def test_reciprocal_ranks_by_hand():
    found = fused("rrf", {"a": "xy", "b": "yz"}, 3, {"b": ChannelConfig(weight=2.0)}, rrf_constant=1)
    values = {"y": 1 / 3 + 2 / 2, "z": 2 / 3, "x": 1 / 2}
    assert {one.key: one.value for one in found} == pytest.approx(values)
    assert keys(found) == "yzx"
    assert [(by.channel, by.rank, by.score) for by in found[0].found] == [("b", 0, 2.0), ("a", 1, 1.0)]


def test_weighted_scores_are_calibrated_within_their_channel():
    assert calibrated([("x", 30.0), ("y", 15.0), ("z", 0.0)]) == [1.0, 0.5, 0.0]
    assert calibrated([("x", 3.0), ("y", 3.0)]) == [1.0, 1.0]
    assert calibrated([]) == []
    found = fuse(
        FusionConfig(method="weighted"),
        {"b": ChannelConfig(weight=3.0)},
        {"a": [("x", 9.0), ("y", 8.0), ("z", 1.0)], "b": [("z", 0.2), ("y", 0.1)]},
        2,
    )
    assert [(one.key, one.value) for one in found] == [("z", 3.0), ("x", 1.0)]


@pytest.mark.parametrize("method", METHODS)
@given(lists=st.lists(st.lists(st.sampled_from("abcdefghij"), unique=True), max_size=4), k=st.integers(0, 12))
def test_distinct_full_named_and_the_same_again(method, lists, k):
    named = {f"c{at}": "".join(one) for at, one in enumerate(lists)}
    quotas = {name: ChannelConfig(quota=at, weight=1 + at) for at, name in enumerate(named)}
    found = fused(method, named, k, quotas)
    every = {key for one in lists for key in one}
    assert len({one.key for one in found}) == len(found) == min(k, len(every))
    for one in found:
        said = {by.channel: (by.rank, by.score) for by in one.found}
        assert said == {
            name: (held.index(one.key), float(len(held) - held.index(one.key)))
            for name, held in named.items()
            if one.key in held
        }
    assert found == fused(method, named, k, quotas)
    # A longer answer begins like a shorter one.
    if method != "quota":
        assert found == fused(method, named, k + 3, quotas)[:k]


@given(st.lists(st.lists(st.sampled_from("abcdefghij"), unique=True), max_size=4), st.integers(0, 12))
def test_each_channels_order_is_kept(lists, k):
    picks = snake_merge([ranking(one) for one in lists], [k] * len(lists), k)
    for at in range(len(lists)):
        places = [place for channel, place in picks if channel == at]
        assert places == sorted(places)


@given(
    lists=st.lists(st.lists(st.sampled_from("abcdefghij"), unique=True, min_size=1), min_size=1, max_size=4),
    seed=st.integers(0, 99),
    k=st.integers(1, 12),
)
def test_blend_by_brute_force(lists, seed, k):
    rng = np.random.default_rng(seed)
    rankings = {f"c{at}": ranking("".join(one)) for at, one in enumerate(lists)}
    keys = all_keys(rankings)
    assert keys == sorted({key for one in lists for key in one})
    scores = {name: rng.normal(size=len(keys)).astype(np.float32) for name in rankings}
    missing = rng.choice(list(rankings))
    del scores[missing]  # it gave candidates, and then no scores: it moves nobody
    known = (*rankings, "gone")  # a channel of the blend that is not served any more
    blend = Blend(known, rng.normal(size=2 * len(known)).astype(np.float32))
    found = blended(blend, rankings, keys, scores, k)
    values = np.zeros(len(keys), np.float32)
    for at, name in enumerate(known):
        if name in scores:
            features = blend_features(scores[name][None])
            values += features @ blend.weights[[at, len(known) + at]]
    by_key = dict(zip(keys, values.tolist(), strict=True))
    np.testing.assert_allclose([by_key[one.key] for one in found], [one.value for one in found], atol=1e-4)
    np.testing.assert_allclose([one.value for one in found], np.sort(values)[::-1][:k], atol=1e-4)
    for one in found:
        assert [by.rank for by in one.found] == sorted(by.rank for by in one.found)
