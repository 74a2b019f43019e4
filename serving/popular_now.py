"""What is popular now: lists that are read from the store every moment, and the one that a request gets.

Beside the snapshot a second immutable reference, read once per request: a reading is replaced as a whole.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Protocol

import numpy as np

from models.arrays import Float64Array
from serving.metrics import ServingMetrics
from serving.store_follower import StoreFollower
from stream.popular_counts import EVERYTHING, PopularNowConfig, segment_of
from stream.popular_store import PopularReading, ReadList


class PopularReader(Protocol):
    """What is read of the store (stream.popular_store.PopularReader)."""

    @property
    def config(self) -> PopularNowConfig:
        """What is counted."""
        ...

    def read(self, epoch: str = "", after: int = 0) -> PopularReading:
        """All lists, or those that changed after sequence `after` of the same epoch; may raise."""
        ...


@dataclass(frozen=True)
class PopularItems:
    """One list: key texts, best first; rates: events per hour, averaged over the half-lives; events: decayed
    events of the whole list, by the longest half-life.
    """

    items: Sequence[str]
    rates: Sequence[float]
    events: float


@dataclass(frozen=True)
class PopularNow:
    """One reading. lists: by segment; missing: why there are none, "" = there are."""

    config: PopularNowConfig
    lists: Mapping[str, PopularItems] = field(default_factory=dict)
    missing: str = ""

    def of(self, context: Mapping[str, str]) -> list[PopularItems]:
        """The lists for a request, the one that fits best first: the first segment of the context with enough
        events, then the list of all. Empty while there are none.
        """
        everything = [self.lists[EVERYTHING]] if EVERYTHING in self.lists else []
        for fields in self.config.by:
            values = tuple(context.get(name, "") for name in fields)
            found = self.lists.get(segment_of(fields, values)) if all(values) else None
            if found is not None and found.events >= self.config.least_events:
                return [found, *everything]
        return everything


class PopularFollower(StoreFollower):
    """Of what is popular now."""

    def __init__(
        self,
        reader: PopularReader,
        publish: Callable[[PopularNow], None],
        metrics: ServingMetrics,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """publish: takes every new reading."""
        self._config = reader.config
        what = "what is popular now is not known, the version's popularity serves"
        super().__init__(what, self._config.poll_interval_s, self._config.stale_s, clock_s)
        self._reader, self._publish, self._metrics = reader, publish, metrics
        self._told: PopularReading = PopularReading()
        self._held: dict[str, _Counts] = {}
        metrics.popular_age.set_function(lambda: clock_s() - self._read_s)

    def step(self) -> bool:
        """Read once; True when something changed. Never raises: a store that stays away leaves no lists."""
        try:
            reading = self._reader.read(self._told.epoch, self._told.sequence)
        except Exception as error:  # whatever is wrong, requests are answered and the thread lives on
            return self._lost(f"{type(error).__name__}: {str(error)[:200]}")
        if not reading.epoch:
            return self._lost("nothing has been counted yet")
        self._read_s = self._clock_s()
        known = (self._told.epoch, self._told.sequence) == (reading.epoch, reading.sequence)
        if known and self._missing == "":
            return False
        held = self._held if reading.epoch == self._told.epoch else {}
        self._held = {name: held[name] for name in reading.segments if name in held}
        self._held |= {name: _Counts.of(lists, self._config) for name, lists in reading.changed.items()}
        lists = {name: one.listed(reading.newest_ms, self._config) for name, one in self._held.items()}
        self._told, self._missing = reading, ""
        self._publish(PopularNow(self._config, lists))
        self._metrics.popular_newest_ms.set(reading.newest_ms)
        self._metrics.popular_refused.set(reading.refused)
        if not known:
            self._metrics.popular_seconds.observe(reading.age_s)
        return True

    def _publish_missing(self, why: str) -> None:
        self._publish(PopularNow(self._config, missing=why))


@dataclass(frozen=True)
class _Counts:
    """The lists of one segment, of all half-lives together: items [n], sums_HN float64[H, n] relative to the
    landmarks.
    """

    items: list[str]
    sums_HN: Float64Array
    landmarks_ms: list[int]

    @classmethod
    def of(cls, lists: Sequence[ReadList], config: PopularNowConfig) -> _Counts:
        items = list(dict.fromkeys(chain.from_iterable(one.items for one in lists)))
        places = {item: place for place, item in enumerate(items)}
        sums_HN = np.zeros((len(config.half_lives_h), len(items)), np.float64)
        for row, one in zip(sums_HN, lists, strict=True):
            row[[places[item] for item in one.items]] = one.sums
        return cls(items, sums_HN, [one.landmark_ms for one in lists])

    def listed(self, newest_ms: int, config: PopularNowConfig) -> PopularItems:
        """One list of them, as of newest_ms. A steady rate r has a decayed count of r * half-life / ln 2."""
        half_lives_ms = np.array(config.half_lives_ms, np.float64)
        ages = (np.array(self.landmarks_ms, np.float64) - newest_ms) / half_lives_ms
        counts_HN = self.sums_HN * np.exp2(ages)[:, None]
        weights = np.array(config.weights or np.ones(len(half_lives_ms)), np.float64)
        per_hour = weights / weights.sum() * math.log(2) / (half_lives_ms / 3_600_000)
        rates = per_hour @ counts_HN
        order = np.argsort(-rates, kind="stable")[: int((rates > 0).sum())]
        events = float(counts_HN[int(half_lives_ms.argmax())].sum())
        return PopularItems([self.items[at] for at in order.tolist()], rates[order].tolist(), events)
