from hypothesis import given
from hypothesis import strategies as st

from serving.merge import snake_merge


def picked(channels, k):
    ranked = [[(key, None) for key in channel] for channel in channels]
    return [channels[at][place] for at, place in snake_merge(ranked, k)]


def test_turns_alternate():
    assert picked(["abcd", "wxyz"], 6) == ["a", "w", "x", "b", "c", "y"]
    assert picked(["abc"], 5) == ["a", "b", "c"]
    assert picked(["a", "", "a"], 5) == ["a"]
    assert picked([], 5) == []


@given(st.lists(st.lists(st.sampled_from("abcdefghij"), unique=True), max_size=4), st.integers(0, 12))
def test_distinct_complete_and_in_each_channels_order(channels, k):
    found = picked(channels, k)
    every = {key for channel in channels for key in channel}
    assert len(found) == len(set(found)) == min(k, len(every))
    picks = snake_merge([[(key, None) for key in channel] for channel in channels], k)
    for at in range(len(channels)):
        places = [place for channel, place in picks if channel == at]
        assert places == sorted(places)
