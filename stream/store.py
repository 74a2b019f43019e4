"""The store of what is served from memory, Redis or Valkey: how it is reached."""

from collections.abc import Iterator
from contextlib import contextmanager

import redis

from stream.errors import Unreachable

SETTING = "redis.url"
# Not only lost connections: a store that is full, read-only or loading refuses commands.
_AWAY = (redis.RedisError, OSError)


@contextmanager
def reached(url: str) -> Iterator[None]:
    """Raises Unreachable where the store at `url` goes away, or refuses, while something is asked of it."""
    try:
        yield
    except _AWAY as error:
        raise Unreachable(SETTING, url, type(error).__name__) from error


def connected(url: str) -> redis.Redis:
    """A connection that has been answered once. Raises Unreachable."""
    store = redis.Redis.from_url(url)
    with reached(url):
        store.ping()
    return store
