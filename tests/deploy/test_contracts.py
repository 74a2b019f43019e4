"""Formats that two rooms declare apart, because neither may import the other."""

from models.ranking.joined import JOINED
from stream.join import JOINED_SCHEMA


def test_rankers_read_what_the_join_writes() -> None:
    assert [(field.name, field.type) for field in JOINED] == [
        (field.name, field.type) for field in JOINED_SCHEMA
    ]
