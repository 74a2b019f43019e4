"""What is popular now, the same for everybody: time-decayed counts, refreshed with every delta."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from serving.channels.contract import Ask, Ranking


@dataclass(frozen=True)
class PopularSource:
    """The snapshot's list: key texts and decayed counts, best first."""

    keys: Sequence[str]
    scores: Sequence[float]

    def candidates(self, ask: Ask, k: int) -> Ranking:
        """The k items with the greatest counts."""
        listed = zip(self.keys, self.scores, strict=True)
        return list(islice((entry for entry in listed if entry[0] not in ask.excluded), k))
