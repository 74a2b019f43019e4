"""How far a store was given the archive's events: marks in the store itself, moved after every batch.

What is kept there tells by itself what was applied twice; the marks say where a replay has to begin.
"""

from __future__ import annotations

from collections.abc import Mapping

import redis

from stream.errors import StoreForgot
from stream.seals import Positions, from_text


class AppliedMarks:
    """The marks under one key. What a store that is away raises is the caller's."""

    def __init__(self, store: redis.Redis, key: str, setting: str, url: str) -> None:
        """setting, url: what StoreForgot names."""
        self._store, self._key, self._told = store, key, (setting, url)
        self._marked: dict[str, int] = {}

    def check(self, following: Mapping[tuple[int, int], int]) -> None:
        """Before anything is applied on top of a gap: what came after it would hide it for good.

        Raises StoreForgot if marks of these partitions are not those that were left.
        """
        names = [name for i, p in following if (name := f"{i}:{p}") in self._marked]
        if names:
            held = self._store.hmget(self._key, names)
            if [int(mark or 0) for mark in held] != [self._marked[name] for name in names]:
                raise StoreForgot(*self._told)

    def move(self, following: Mapping[tuple[int, int], int]) -> None:
        """Leave the next offsets of partitions."""
        if following:
            marks = {f"{i}:{p}": offset for (i, p), offset in following.items()}
            self._store.hset(self._key, mapping=marks)  # type: ignore[arg-type]
            self._marked |= marks

    def read(self) -> Positions:
        """(incarnation, partition) -> next offset to apply."""
        marks: dict[bytes, bytes] = self._store.hgetall(self._key)  # type: ignore[assignment]
        self._marked = {key.decode(): int(offset) for key, offset in marks.items()}
        return from_text(self._marked)
