import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.keys import INT64_MAX, INT64_MIN, decode_id, decode_ids, encode_id

texts = st.text(min_size=1, max_size=64).filter(lambda s: "\ud800" not in s)
ids = st.one_of(
    st.integers(INT64_MIN, INT64_MAX), st.text(alphabet="#0123456789-a", min_size=1, max_size=8), texts
)


@given(ids)
def test_round_trip(identifier):
    assert decode_id(encode_id(identifier)) == identifier
    assert type(decode_id(encode_id(identifier))) is type(identifier)


@given(ids, ids)
def test_injective(one, other):
    same = type(one) is type(other) and one == other
    assert (encode_id(one) == encode_id(other)) == same


@pytest.mark.parametrize(
    ("identifier", "key"), [(5, "#5"), ("5", "5"), ("#5", "##5"), ("##", "###"), (-1, "#-1")]
)
def test_examples(identifier, key):
    assert encode_id(identifier) == key


@pytest.mark.parametrize("wrong", [2**63, -(2**63) - 1, "ü" * 129, "a" * 257])
def test_out_of_range(wrong):
    with pytest.raises(ValueError):
        encode_id(wrong)


@pytest.mark.parametrize("wrong", [True, 1.5, None, b"a"])
def test_other_types(wrong):
    with pytest.raises(TypeError):
        encode_id(wrong)


@pytest.mark.parametrize("wrong", ["#", "#a", "#05", "#+5"])
def test_not_a_key_text(wrong):
    with pytest.raises(ValueError):
        decode_id(wrong)


@given(st.lists(ids | st.sampled_from(["#1", "a\0#5", "2#3", "\0#7", "\0"]) | st.integers(-9, 9)))
def test_many_ids_are_decoded_as_one(some):
    numbers = [one for one in some if isinstance(one, int)]
    for identifiers in (some, numbers):
        decoded = decode_ids([encode_id(one) for one in identifiers])
        assert [(type(one), one) for one in decoded] == [(type(one), one) for one in identifiers]
