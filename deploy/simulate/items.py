"""The items of a world: columns that grow as items are born. Item number i has the ID i + 1."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from deploy.simulate.config import DAY_MS, WorldConfig
from deploy.simulate.randomness import Stream, generator
from models.arrays import Float32Array, Float64Array, Int32Array, Int64Array

BEFORE_MS = 30 * DAY_MS
"""Items that are there at the start were born within this time before it."""


class Items:
    """Columns [I] in order of birth; `vector` [I, D] has rows of length 1."""

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        rng = generator(config.seed, Stream.GEOMETRY, -1)
        self.centre = unit(rng.standard_normal((config.categories, config.dims)))
        """float32[categories, D]"""
        weights = 1.0 / np.arange(1, config.categories + 1)  # Zipf: a few categories hold most authors
        self._category_of = rng.choice(config.categories, config.authors, p=weights / weights.sum())
        around = 0.6 * unit(rng.standard_normal((config.authors, config.dims)))
        self._style = unit(self.centre[self._category_of] + around)
        self.count = 0
        self._vector = np.empty((0, config.dims), np.float32)
        self._columns: dict[str, np.ndarray] = {
            "author": np.empty(0, np.int32), "category": np.empty(0, np.int32),
            "duration_ms": np.empty(0, np.int64), "price": np.empty(0), "quality": np.empty(0),
            "born_ms": np.empty(0, np.int64), "trend_ms": np.empty(0, np.int64), "trend_peak": np.empty(0),
        }  # fmt: skip
        ages_ms = np.sort(rng.integers(0, BEFORE_MS, config.items))[::-1]
        self.bear(config.start_ms - ages_ms, -1)

    def bear(self, born_ms: Int64Array, step: int) -> None:
        """Add items with these moments of birth int64[n], ascending; step: the minute they come in."""
        new, config = len(born_ms), self.config
        if not new:
            return
        rng = generator(config.seed, Stream.ITEMS, step)
        author = rng.integers(0, config.authors, new, dtype=np.int32)
        own = 0.5 * unit(rng.standard_normal((new, config.dims)))
        self._reserve(self.count + new)
        at = slice(self.count, self.count + new)
        self._vector[at] = unit(self._style[author] + own)
        drawn = {
            "author": author,
            "category": self._category_of[author],
            "duration_ms": np.clip(30_000 * np.exp(0.8 * rng.standard_normal(new)), 3_000, 600_000),
            "price": np.round(np.exp(2.5 + 0.7 * rng.standard_normal(new)), 2),
            "quality": config.quality * rng.standard_normal(new),
            "born_ms": born_ms,
            "trend_ms": born_ms,
            "trend_peak": config.newness_peak * rng.standard_exponential(new),
        }
        for name, values in drawn.items():
            self._columns[name][at] = values
        self.count += new

    def begin_trends(self, item: Int64Array, peak: Float64Array, now_ms: int) -> None:
        """These items [n] become a trend with this highest addition to their logit [n]."""
        self._columns["trend_ms"][item] = now_ms
        self._columns["trend_peak"][item] = peak

    def appeal(self, now_ms: int) -> Float32Array:
        """What every item's logit has for everybody at this moment, float32[I]: quality and trend.

        A trend adds peak * x * exp(1 - x), x = time since its start / rise: 0, peak after the rise, decay.
        """
        x = (now_ms - self.column("trend_ms")) / (self.config.trend_rise_h * 3_600_000)
        trend = self.column("trend_peak") * x * np.exp(1.0 - x)
        return np.asarray(self.column("quality") + trend, np.float32)

    @property
    def vector(self) -> Float32Array:
        """float32[I, D]"""
        return self._vector[: self.count]

    @property
    def born_ms(self) -> Int64Array:
        """int64[I], ascending."""
        return self.column("born_ms")

    def column(self, name: str) -> np.ndarray:
        """One of the columns [I]; a view that the next birth may leave behind."""
        return self._columns[name][: self.count]

    def table(self, first: int = 0) -> pa.Table:
        """What a site knows of the items from number `first` on: item_id int64, attributes."""
        author, category = self.column("author")[first:], self.column("category")[first:]
        return pa.table(
            {
                "item_id": np.arange(first, self.count) + 1,
                "author": _names("a", author),
                "category": _names("c", category),
                "duration_s": self.column("duration_ms")[first:] / 1000.0,
                "price": self.column("price")[first:],
            }
        )

    def _reserve(self, count: int) -> None:
        if count <= len(self._vector):
            return
        capacity = max(count, 2 * len(self._vector))
        for name, values in self._columns.items():
            grown = np.zeros(capacity, values.dtype)
            grown[: self.count] = values[: self.count]
            self._columns[name] = grown
        vector = np.zeros((capacity, self.config.dims), np.float32)
        vector[: self.count] = self._vector[: self.count]
        self._vector = vector


def unit(rows: np.ndarray) -> Float32Array:
    """Rows [n, D] at length 1, float32."""
    length = np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
    return np.asarray(rows / np.maximum(length, 1e-12), np.float32)


def _names(letter: str, numbers: Int32Array) -> list[str]:
    return [f"{letter}{number}" for number in numbers.tolist()]
