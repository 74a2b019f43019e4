"""Items written from arrays are what an encoder makes of objects, whatever their IDs are."""

import msgspec
import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from models.index import IndexConfig, build_index
from models.item_index import ItemIndex
from models.items_json import items_json
from stream.keys import ID_LIMIT_BYTES, INT64_MAX, INT64_MIN, decode_id, encode_id

PLAIN = (
    st.integers(INT64_MIN, INT64_MAX)
    | st.sampled_from(["#", "##", "#5", "5", "ü€𝄞", "a b", "\x7f", "x" * ID_LIMIT_BYTES])
    | st.text("ab#01 -/", min_size=1, max_size=20)
)
IDS = st.lists(PLAIN, min_size=1, max_size=30, unique_by=encode_id)
CHANNELS = st.sampled_from(["m", "", 'a "quoted" name', "ü"])
NONE = pa.array([], pa.string())


def index_of(ids, late):
    """The last `late` of them came after the bundle."""
    keys = pa.array([encode_id(one) for one in ids], pa.string())
    vectors, first = np.zeros((len(ids), 2), np.float32), len(ids) - late
    base = ItemIndex.over(keys[:first], build_index(vectors[:first], IndexConfig()))
    return base.with_changes(keys[first:], vectors[first:], NONE)


@given(IDS, CHANNELS, st.data())
def test_it_is_what_an_encoder_makes_of_objects(ids, channel, data):
    index = index_of(ids, data.draw(st.integers(0, len(ids))))
    places = data.draw(st.permutations(range(len(ids))))
    places = places[: data.draw(st.integers(1, len(ids)))]
    scores = data.draw(
        st.lists(
            st.floats(width=32, allow_nan=False, allow_infinity=False),
            min_size=len(places),
            max_size=len(places),
        )
    )
    lists = np.array([places, places[::-1]], np.int64)
    written = items_json(index, lists, np.array([scores, scores[::-1]], np.float32), channel)
    objects = [
        {"id": decode_id(encode_id(ids[place])), "score": score, "channel": channel}
        for place, score in zip(places, scores, strict=True)
    ]
    assert [b"[" + one + b"]" for one in written] == [
        msgspec.json.encode(objects),
        msgspec.json.encode(objects[::-1]),
    ]


@given(IDS, st.sampled_from(['"', "\\", "\n", "\x00", "\x1f"]), st.integers(0, 5))
def test_what_needs_escapes_is_left_to_the_encoder(ids, special, at):
    at = min(at, len(ids))
    ids = [*ids[:at], f"a{special}b", *ids[at:]]
    index, scores = index_of(ids, 1), np.zeros((len(ids), 1), np.float32)
    written = items_json(index, np.arange(len(ids))[:, None], scores, "m")
    assert [not one for one in written] == [place == at for place in range(len(ids))]
    together = items_json(index, np.arange(len(ids))[None], scores.T, "m")
    assert together == [b""]


def test_keys_of_any_length_have_room():
    keys = pa.array(["x" * 5000, "y"])
    index = ItemIndex.over(keys, build_index(np.zeros((2, 2), np.float32), IndexConfig()))
    (written,) = items_json(index, np.array([[0, 1]]), np.zeros((1, 2), np.float32), "m")
    assert [one["id"] for one in msgspec.json.decode(b"[" + written + b"]")] == ["x" * 5000, "y"]
