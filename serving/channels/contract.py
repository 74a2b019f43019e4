"""The contract of a channel: what it is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from models.arrays import Float32Array, Int64Array
from serving.eligible import Barred
from serving.profile import Profile

T = TypeVar("T")
Ranking = list[tuple[str, float]]
"""(item key text, score), best first, every key once. Scores compare within one channel only."""


@dataclass(frozen=True)
class Ask:
    """One request, as every channel reads it.

    user: key text; ts_ms: moment of the request; excluded: key texts that must not be answered; gone: those
    of items that are deleted or left out for everybody, which item indexes do not hold. memo: what a channel
    computed for this request and needs again, by the part of the snapshot that it was computed with.
    """

    user: str
    ts_ms: int
    context: Mapping[str, str]
    profile: Profile
    excluded: Set[str]
    gone: Container[str] = frozenset()
    memo: dict[int, Any] = field(default_factory=dict, compare=False, repr=False)

    def once(self, part: object, compute: Callable[[], T]) -> T:
        """What `compute` gives for this request and part of the snapshot, computed once."""
        if id(part) not in self.memo:
            self.memo[id(part)] = compute()
        found: T = self.memo[id(part)]
        return found

    def allows(self, key: str) -> bool:
        """Whether an item may be answered."""
        return key not in self.excluded and key not in self.gone

    def allowed(self, keys: Collection[str]) -> set[str]:
        """Those that may be answered; many are looked up in little more time than one."""
        if isinstance(self.gone, Barred):
            self.gone.read(keys)
        return {key for key in keys if self.allows(key)}

    def without(self, keys: Set[str]) -> Ask:
        """The same, with more items that must not be answered."""
        return replace(self, excluded=self.excluded | keys)

    @cached_property
    def excluded_keys(self) -> pa.StringArray:
        """The excluded items as string[n]."""
        return pa.array(list(self.excluded), pa.string())


class Source(Protocol):
    """A channel of one snapshot."""

    def candidates(self, ask: Ask, k: int) -> Ranking:
        """At most k items, none of them excluded; fewer only when the channel knows no more. Pure: no clock,
        no I/O, nothing kept. It may be called from any thread, one call at a time.
        """
        ...

    def scores(self, ask: Ask, keys: Sequence[str]) -> Float32Array:
        """What it says of these items, float32[n], higher is better, -inf = it does not know one: what a
        blend averages (models/blend.py). Under the same rules as candidates().
        """
        ...


class Positions(Protocol):
    """What turns places into item keys."""

    def keys_of(self, positions: Int64Array) -> list[str]:
        """Keys of positions int64[n] (no -1 among them)."""
        ...


def ranking_of(found: tuple[Float32Array, Int64Array], items: Positions) -> Ranking:
    """The first row of scores float32[1, k] and positions int64[1, k], without the empty places (-1)."""
    scores, positions = found[0][0], found[1][0]
    if len(positions) and positions[-1] < 0:
        scores, positions = scores[positions >= 0], positions[positions >= 0]
    return list(zip(items.keys_of(positions), scores.tolist(), strict=True))
