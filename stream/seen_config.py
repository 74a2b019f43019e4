"""What a user was shown or consumed, and for how long it is kept: configuration."""

from __future__ import annotations

import math
from functools import lru_cache
from hashlib import sha256
from typing import Literal, Self

import msgspec
from pydantic import BaseModel, ConfigDict, Field, model_validator

from stream.bloom import BloomShape
from stream.event import Kind

_HOUR_MS = 3_600_000


class SeenConfig(BaseModel):
    """One set of items that a user met: kept in the store beside the profile, left out of answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kinds: tuple[Kind, ...] = Field(min_length=1, description="Kinds of events that make an item seen.")
    horizon_h: float | None = Field(
        None, gt=0, description="Hours of event time after which it no longer is; none = never (exact only)."
    )
    always: bool = Field(
        False, description="Leave these items out of every answer; else where exclude_seen asks for it."
    )
    store: Literal["exact", "bloom"] = Field(
        "exact",
        description="exact: every item with its time. bloom: a few bits an item, and some items are left "
        "out that were not seen; none that was comes back within the horizon.",
    )
    items: int = Field(
        5_000,
        gt=0,
        description="exact: most items per user, the newest; bloom: items per user and horizon that "
        "false_positive_rate holds for.",
    )
    false_positive_rate: float = Field(
        0.01, gt=0, lt=1, description="Share of items not seen that are left out all the same (bloom)."
    )
    generations: int = Field(
        4, ge=1, le=64, description="Slices of the horizon that are forgotten one after another (bloom)."
    )

    @model_validator(mode="after")
    def _can_forget(self) -> Self:
        if self.store == "bloom" and self.horizon_h is None:
            raise ValueError("horizon_h: expected one, for a Bloom filter forgets by slices of it, got none")
        return self

    @property
    def horizon_ms(self) -> int:
        """The horizon in ms, 0 = none."""
        return round((self.horizon_h or 0) * _HOUR_MS)

    @property
    def slice_ms(self) -> int:
        """Event time of one generation."""
        return max(1, math.ceil(self.horizon_ms / self.generations))

    @property
    def expire_ms(self) -> int:
        """Wall time after which what nobody adds to may go, 0 = never: later than the horizon by what a
        slice and clocks that are ahead take.
        """
        return self.horizon_ms + 2 * self.slice_ms if self.horizon_ms else 0

    @property
    def slots(self) -> int:
        """Generations that are held: one begins before the horizon, and a clock that is ahead may have begun
        the next.
        """
        return self.generations + 2

    @property
    def shape(self) -> BloomShape:
        """Of one generation. All that are asked together have the rate that was wanted."""
        rate = 1 - (1 - self.false_positive_rate) ** (1 / self.slots)
        return _shape(math.ceil(self.items / self.generations), rate)

    @property
    def rule(self) -> str:
        """Names what is kept and how: what was kept by another rule is of no use."""
        told: tuple[object, ...] = (self.kinds, self.horizon_ms, self.store, self.items)
        if self.store == "bloom":
            told = (*told, self.slice_ms, self.slots, self.shape.bits, self.shape.hashes)
        return _named(told)


_shape = lru_cache(BloomShape.of)  # read by every request


@lru_cache
def _named(told: tuple[object, ...]) -> str:
    return sha256(msgspec.json.encode(told)).hexdigest()[:8]
