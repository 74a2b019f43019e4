import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.popularity import Popularity


@settings(max_examples=60)
@given(st.lists(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 5000)), max_size=10), max_size=5))
def test_is_the_decayed_count(batches):
    popularity = Popularity(half_life_ms=700)
    for batch in batches:
        popularity.observe(
            pa.array([key for key, _ in batch], pa.string()), np.array([ts for _, ts in batch], np.int64)
        )
    flat = [event for batch in batches for event in batch]
    newest = max([ts for _, ts in flat], default=0)
    expected = {key: sum(2 ** ((ts - newest) / 700) for k, ts in flat if k == key) for key, _ in flat}
    keys, scores = popularity.top(10)
    assert dict(zip(keys.to_pylist(), scores.tolist(), strict=True)) == pytest.approx(expected, rel=1e-5)
    assert sorted(scores.tolist(), reverse=True) == scores.tolist()
    restored = Popularity.from_state(popularity.state())
    for name, array in popularity.state().items():
        assert restored.state()[name].tobytes() == array.tobytes()


def test_top_and_scores():
    popularity = Popularity(half_life_ms=1000)
    popularity.observe(pa.array(["old", "new", "new", ""]), np.array([1000, 2000, 2000, 2000]))
    keys, scores = popularity.top(1)
    assert (keys.to_pylist(), scores.tolist()) == (["new"], [2.0])
    assert popularity.scores(pa.array(["old", "none"])).tolist() == [0.5, 0.0]
    popularity.expire(1500)
    assert popularity.top(5)[0].to_pylist() == ["new"]
    with pytest.raises(ValueError, match="half_life_ms"):
        Popularity(0)
