"""How often each item was a target since the model began: what negatives are drawn by, and positives thinned.

An ID table counts sightings, views and impressions too where a further history holds them; a sampler by those
would draw what is shown often and not what is chosen often.
"""

from __future__ import annotations

import numpy as np

from models.arrays import Int64Array, Tensors
from models.native import compiled


@compiled
def _count(items: Int64Array, counts: Int64Array) -> None:
    """Add up in place: many more entries than targets are left alone."""
    for i in range(len(items)):
        counts[items[i]] += 1


class TargetCounts:
    """int64 counts by item entry; an entry that was never a target counts 0."""

    def __init__(self) -> None:
        self._counts = np.zeros(0, np.int64)

    def observe(self, items: Int64Array, entries: int) -> None:
        """Count targets int64[N]; entries: one more than the largest item entry there is."""
        if entries > len(self._counts):
            self._counts = np.concatenate([self._counts, np.zeros(entries - len(self._counts), np.int64)])
        _count(items, self._counts)

    def drop(self, items: Int64Array) -> None:
        """Forget removed items: their entries may be given again."""
        self._counts[items[items < len(self._counts)]] = 0

    @property
    def by_entry(self) -> Int64Array:
        """Live view int64[entries]."""
        return self._counts

    def state(self) -> Tensors:
        """Everything from_state() needs."""
        return {"counts": self._counts.copy()}

    @classmethod
    def from_state(cls, state: Tensors) -> TargetCounts:
        """The counts that state() described."""
        counts = cls()
        counts._counts = np.array(state["counts"], np.int64)
        return counts
