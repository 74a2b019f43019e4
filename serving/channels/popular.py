"""What is popular: the version's time-decayed counts, or the live list that a request gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np

from models.arrays import Float32Array
from serving.channels.contract import Ask, Ranking


@dataclass(frozen=True)
class PopularSource:
    """A list of key texts, best first, with decayed counts (popularity) or events per hour (popular_now)."""

    keys: Sequence[str]
    counts: Sequence[float]

    def candidates(self, ask: Ask, k: int) -> Ranking:
        """The first k items that may be answered."""
        listed = zip(self.keys, self.counts, strict=True)
        return list(islice((entry for entry in listed if ask.allows(entry[0])), k))

    def scores(self, ask: Ask, keys: Sequence[str]) -> Float32Array:
        """Logarithms of 1 + count: counts have heavy tails. 0 for what is not on the list."""
        found = [self._by_key.get(key, 0.0) for key in keys]
        return np.log1p(np.array(found, np.float64)).astype(np.float32)

    @cached_property
    def _by_key(self) -> dict[str, float]:
        return dict(zip(self.keys, self.counts, strict=True))
