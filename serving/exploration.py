"""Exploration for users of whom little is known: how many places of an answer, and which ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")


class Stream(IntEnum):
    """What the numbers of a request are for. Values are part of what a request ID means: never renumber."""

    ITEMS = 0
    PLACES = 1


class ExplorationConfig(BaseModel):
    """Places that users with little history give to items of which little is known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    below_events: int = Field(
        0, ge=0, description="For users with fewer events than this in the history; 0 = for nobody."
    )
    share: float = Field(0.2, gt=0, le=1, description="Share of an answer's places, to the nearest whole.")
    after: int = Field(0, ge=0, description="First places of an answer that are left alone.")
    prior_taken: float = Field(
        1.0, gt=0, description="a of the draw from Beta(taken + a, shown - taken + b)."
    )
    prior_passed: float = Field(
        10.0, gt=0, description="b of the draw: a / (a + b) is what is expected of an item nobody was shown."
    )
    pool: int = Field(1_000, gt=0, description="New items that are drawn from: the newest.")

    def places(self, k: int) -> int:
        """How many of k."""
        return int(self.share * k + 0.5)


def generator(request_id: str, stream: Stream) -> np.random.Generator:
    """A generator of its own for each (request, stream)."""
    return np.random.default_rng([int(stream), *request_id.encode()])


@dataclass(frozen=True)
class Spread:
    """Which places explored items take: drawn by the request, all alike but for the first `after`."""

    after: int
    request_id: str

    def over(self, others: Sequence[T], explored: Sequence[T]) -> list[T]:
        """One list of both, each in its order."""
        total = len(others) + len(explored)
        first = min(self.after, len(others))
        rng = generator(self.request_id, Stream.PLACES)
        places = set((first + rng.permutation(total - first)[: len(explored)]).tolist())
        mine, theirs = iter(explored), iter(others)
        return [next(mine) if place in places else next(theirs) for place in range(total)]
