"""Items of which little is known, drawn by how well they may turn out: Thompson sampling.

An item's chance to be taken when it is shown is Beta(taken + a, shown - taken + b) by the live counts of it;
a draw of each, and the best draws first (Thompson 1933; Chapelle and Li, NIPS 2011). What was shown often and
hardly taken comes up seldom, what nobody was shown as often as the prior says.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from models.arrays import Float64Array
from serving.channels.contract import Ask, Ranking
from serving.exploration import ExplorationConfig, Stream, generator
from serving.fresh import Fresh
from serving.live_counts import LiveCounts


@dataclass(frozen=True)
class ExploreSource:
    """The counted items and the newest of the catalogue, for one request; without counts the newest alone,
    all alike. ts_ms: moment of the request.
    """

    config: ExplorationConfig
    fresh: Fresh
    counts: LiveCounts | None
    request_id: str
    ts_ms: int

    def candidates(self, ask: Ask, k: int) -> Ranking:
        """The k best draws among what may be answered; score: the draw."""
        keys, draws = self._drawn
        found: Ranking = []
        order = np.argsort(-draws, kind="stable").tolist()
        for first in range(0, len(order), k):
            part = order[first : first + k]
            allowed = ask.allowed([keys[at] for at in part])
            found += [(keys[at], float(draws[at])) for at in part if keys[at] in allowed]
            if len(found) >= k:
                break
        return found[:k]

    @property
    def missing(self) -> str:
        """Why there are no counts, "" = there are."""
        return self.counts.missing if self.counts else "they are not followed"

    @cached_property
    def _drawn(self) -> tuple[list[str], Float64Array]:
        """Every item of the pool with its draw: one for each, whoever is asked for it again."""
        rng = generator(self.request_id, Stream.ITEMS)
        born = int(np.searchsorted(self.ts_ms - self.fresh.born_ms, 0))  # not what is born after the moment
        new: list[str] = self.fresh.keys.slice(born, self.config.pool).to_pylist()
        if self.counts is None or self.missing:
            return new, rng.random(len(new))
        counted, taken, passed = self.counts.outcomes
        new = [key for key in new if key not in self.counts.places]
        nothing = np.zeros(len(new))
        a = np.append(taken, nothing) + self.config.prior_taken
        b = np.append(passed, nothing) + self.config.prior_passed
        return counted + new, rng.beta(a, b)
