"""How often every item was taken and shown of late: read from the store every moment, for blends and the
pre-rank.

A third immutable reference beside the snapshot and what is popular now, read once per request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from models.arrays import Float32Array, Float64Array
from models.item_signals import HALF_LIVES_H, NAMES, PARTS, SIGNALS, ItemSignals
from serving.popular_now import PopularReader
from serving.store_follower import StoreFollower
from stream.popular_counts import EVERYTHING
from stream.popular_store import PopularReading, ReadList

_HOUR_MS = 3_600_000
_NO_READING = PopularReading()


@dataclass(frozen=True)
class LiveCounts:
    """One reading. places: key text -> row of values float32[n + 1, S], whose last one is of items that are
    on no list. missing: why there are none, "" = there are.
    """

    places: Mapping[str, int] = field(default_factory=dict)
    values: Float32Array = field(default_factory=lambda: np.zeros((1, SIGNALS), np.float32))
    missing: str = ""

    @classmethod
    def of(cls, lists: Mapping[str, Sequence[ReadList]], newest_ms: int) -> LiveCounts:
        """Of each part's lists, one for each of HALF_LIVES_H, as of newest_ms: as ItemSignals.values()."""
        keys = dict.fromkeys(key for part in PARTS for one in lists.get(part, ()) for key in one.items)
        places = {key: place for place, key in enumerate(keys)}
        counts = np.zeros((len(keys) + 1, SIGNALS), np.float64)
        for at, part in enumerate(PARTS):
            for column, one in enumerate(lists.get(part, ()), at * len(HALF_LIVES_H)):
                half_life_ms = HALF_LIVES_H[column % len(HALF_LIVES_H)] * _HOUR_MS
                rows = [places[key] for key in one.items]
                since_ms = one.landmark_ms - newest_ms
                counts[rows, column] = np.array(one.sums) * np.exp2(since_ms / half_life_ms)
        return cls(places, np.log1p(counts).astype(np.float32))

    @cached_property
    def outcomes(self) -> tuple[list[str], Float64Array, Float64Array]:
        """Items that were met, how often each was taken, and how often it was shown and not taken (decayed by
        the longest half-life; float64[n] both).
        """
        last = len(HALF_LIVES_H) - 1
        taken, shown = (
            np.expm1(self.values[:-1, at * len(HALF_LIVES_H) + last].astype(np.float64)) for at in (0, 1)
        )
        return list(self.places), taken, np.maximum(shown - taken, 0.0)

    @classmethod
    def as_of(cls, counted: ItemSignals, ts_ms: int) -> LiveCounts:
        """Of all items that were counted, without a store."""
        values = counted.values(counted.entries(counted.items), ts_ms)
        places = {key: place for place, key in enumerate(counted.items.to_pylist())}
        return cls(places, np.concatenate([values, np.zeros((1, SIGNALS), np.float32)]))

    def signals(self, keys: Sequence[str]) -> Float32Array:
        """float32[N, S] of items by key text."""
        nowhere = len(self.values) - 1
        found: Float32Array = self.values[[self.places.get(key, nowhere) for key in keys]]
        return found

    def scores(self, keys: Sequence[str]) -> dict[str, Float32Array]:
        """The same as a blend reads them: float32[N] by name; empty while there are none."""
        return {} if self.missing else dict(zip(NAMES, self.signals(keys).T, strict=True))


class CountsFollower(StoreFollower):
    """Of how often items were taken and shown."""

    def __init__(
        self,
        readers: Mapping[str, PopularReader],
        publish: Callable[[LiveCounts], None],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """readers: of each of PARTS, of lists by HALF_LIVES_H; publish: takes every new reading."""
        config = readers[PARTS[0]].config
        what = "counts of items are not known, no blend and no pre-rank by them"
        super().__init__(what, config.poll_interval_s, config.stale_s, clock_s)
        self._readers, self._publish = readers, publish
        self._told = dict.fromkeys(readers, _NO_READING)
        self._lists: dict[str, Sequence[ReadList]] = {}
        self._unpublished = False

    def step(self) -> bool:
        """Read once; True when something changed. Never raises: without the store there are no counts."""
        try:
            for part, reader in self._readers.items():
                told = self._told[part]
                reading = reader.read(told.epoch, told.sequence)
                if (reading.epoch, reading.sequence) == (told.epoch, told.sequence):
                    continue
                self._told[part], self._unpublished = reading, True
                self._lists[part] = reading.changed.get(EVERYTHING, ())
        except Exception as error:  # whatever is wrong, requests are answered and the thread lives on
            return self._lost(f"{type(error).__name__}: {str(error)[:200]}")
        if not any(self._lists.values()):
            return self._lost("nothing has been counted yet")
        self._read_s = self._clock_s()
        changed = self._unpublished or self._missing != ""
        if changed:
            self._missing, self._unpublished = "", False
            newest_ms = max(reading.newest_ms for reading in self._told.values())
            self._publish(LiveCounts.of(self._lists, newest_ms))
        return changed

    def _publish_missing(self, why: str) -> None:
        self._publish(LiveCounts(missing=why))
