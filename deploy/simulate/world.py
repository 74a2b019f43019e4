"""The state of the world and how it moves on by itself: drift, arrivals, trends. Step = one minute.

Shapes: U users, I items, D dims, n users asked, k places of a list. Users and items are numbers here; an
ID is the number + 1, and 0 in a served list is no item.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from deploy.simulate.config import HOUR_MS, MINUTE_MS, WorldConfig
from deploy.simulate.items import Items, unit
from deploy.simulate.randomness import Stream, generator
from models.arrays import Float32Array, Float64Array, Int64Array

RECENT = 8
"""So many of a user's newest clicks count as lately clicked."""
_DRIFT_EVERY = 60
_REGIONS = 8


class World:
    """Everything that exists. `advance` moves it on; `clicked` is the only way in which lists change it."""

    def __init__(self, config: WorldConfig) -> None:
        self.config, self.step = config, 0
        self.items = Items(config)
        rng = generator(config.seed, Stream.USERS, -1)
        users, dims = config.users, config.dims
        favourite = rng.integers(0, config.categories, users)
        around = 0.8 * unit(rng.standard_normal((users, dims)))
        self.interest = unit(self.items.centre[favourite] + around)
        """float32[U, D], rows of length 1."""
        # Half of it is shared: evenings are alike, and mornings, also for users nobody knows yet.
        evening = unit(rng.standard_normal((1, dims)))
        self._rhythm = unit(evening + unit(rng.standard_normal((users, dims))))
        self._again = np.asarray(config.again + config.again_spread * rng.standard_normal(users), np.float32)
        self._cumulative = np.cumsum(np.exp(rng.standard_normal(users)))  # few are there often
        self._favourite, self._region = favourite, rng.integers(0, _REGIONS, users)
        self._recent = np.full((users, RECENT), -1, np.int64)
        self._clicks = np.zeros(users, np.int64)
        self._begin_trends(-1, config.trends_a_day, generator(config.seed, Stream.TREND_HISTORY, -1))
        self._refresh()

    @property
    def now_ms(self) -> int:
        """Event time at which the present minute begins."""
        return self.config.start_ms + self.step * MINUTE_MS

    def advance(self) -> int:
        """Go on by a minute; returns how many items were born."""
        config = self.config
        self.step += 1
        born = _due(config.new_items_a_day, self.step)
        moments = self.now_ms - MINUTE_MS + (np.arange(born) + 1) * MINUTE_MS // max(1, born)
        self.items.bear(np.asarray(moments, np.int64), self.step)
        self._begin_trends(
            self.step, _due(config.trends_a_day, self.step), generator(config.seed, Stream.TRENDS, self.step)
        )
        if self.step % _DRIFT_EVERY == 0:
            self._drift()
        self._refresh()
        return born

    def visitors(self, requests: float) -> tuple[Int64Array, Int64Array]:
        """Who comes in this minute: users int64[n], moments int64[n] ascending; n is Poisson(requests)."""
        rng = generator(self.config.seed, Stream.VISITS, self.step)
        count = int(rng.poisson(requests))
        places = rng.random(count) * self._cumulative[-1]
        # rounding may give the very end, which is nobody's
        users = np.minimum(np.searchsorted(self._cumulative, places, side="right"), self.config.users - 1)
        return users.astype(np.int64), self.now_ms + np.sort(rng.integers(0, MINUTE_MS, count))

    def moods(self, users: Int64Array) -> Float32Array:
        """What users [n] want at this time of day, float32[n, D] of length 1."""
        hour = self.now_ms % (24 * HOUR_MS) / HOUR_MS
        sway = np.float32(self.config.day_night * np.cos(2 * np.pi * (hour - 20.0) / 24.0))
        return unit(self.interest[users] + sway * self._rhythm[users])

    def logits(self, users: Int64Array, items: Int64Array) -> Float32Array:
        """Click logits float32[n, k] of items int64[n, k] that users int64[n] look at.

        einsum and no matrix product: its sums do not depend on the number of threads.
        """
        likeness = np.einsum("nd,nkd->nk", self.moods(users), self.items.vector[items])
        scores = self.config.affinity * likeness + self._appeal[items] + self.config.bias
        lately = (items[:, :, None] == self._recent[users][:, None, :]).any(axis=2)
        return np.asarray(scores + lately * self._again[users][:, None], np.float32)

    def best(self, users: Int64Array, k: int) -> Int64Array:
        """The k items [n, k] of highest click probability for users [n], best first: the ceiling."""
        scores = self.config.affinity * (self.moods(users) @ self.items.vector.T) + self._appeal
        rows, places = np.nonzero(self._recent[users] >= 0)
        recent = self._recent[users][rows, places]
        # A clicked item may stand several times among the newest: set, not added.
        plain = scores[rows, recent]
        scores[rows, recent] = plain + self._again[users][rows]
        k = min(k, self.items.count)
        top = np.argpartition(scores, -k, axis=1)[:, -k:]
        order = np.argsort(-np.take_along_axis(scores, top, axis=1), axis=1, kind="stable")
        return np.take_along_axis(top, order, axis=1)

    def clicked(self, users: Int64Array, items: Int64Array) -> None:
        """Remember clicks [m] in their order: the newest RECENT of each user are lately clicked items."""
        order = np.argsort(users, kind="stable")
        mine = users[order]
        rank = np.arange(len(mine)) - np.searchsorted(mine, mine)
        self._recent[mine, (self._clicks[mine] + rank) % RECENT] = items[order]
        np.add.at(self._clicks, users, 1)

    def users_table(self) -> pa.Table:
        """What a site knows of users: user_id int64; the category they chose once; a region of no worth."""
        return pa.table(
            {
                "user_id": np.arange(self.config.users) + 1,
                "favourite": [f"c{number}" for number in self._favourite.tolist()],
                "region": [f"r{number}" for number in self._region.tolist()],
            }
        )

    def _drift(self) -> None:
        """Interest <- unit(rho * interest + sqrt(1 - rho^2) * noise), rho = 2 ** (-1 h / half-life)."""
        config = self.config
        rho = 2.0 ** (-_DRIFT_EVERY * MINUTE_MS / (config.interest_half_life_d * 24 * HOUR_MS))
        rng = generator(config.seed, Stream.DRIFT, self.step)
        noise = unit(rng.standard_normal(self.interest.shape, dtype=np.float32))
        self.interest = unit(np.float32(rho) * self.interest + np.float32(np.sqrt(1 - rho * rho)) * noise)

    def _begin_trends(self, step: int, count: int, rng: np.random.Generator) -> None:
        item = rng.integers(0, self.items.count, count)
        peak: Float64Array = self.config.trend_peak * rng.standard_exponential(count)
        now_ms = self.now_ms if step >= 0 else self.config.start_ms
        self.items.begin_trends(item, peak, now_ms)

    def _refresh(self) -> None:
        """The appeal of the items is that of the minute's beginning, computed once."""
        self._appeal = self.items.appeal(self.now_ms)


def _due(a_day: int, step: int) -> int:
    """How many of `a_day` evenly spread arrivals fall into the minute that ends at `step`."""
    return a_day * step // 1440 - a_day * (step - 1) // 1440


def activity(hour: float) -> float:
    """Requests at an hour of the day relative to the day's mean: 0.3 at 5, 1.8 at 20, mean 1."""
    two_peaks = 0.65 * np.cos(2 * np.pi * (hour - 19.0) / 24.0) + 0.25 * np.cos(
        4 * np.pi * (hour - 21.0) / 24.0
    )
    return float(1.0 + two_peaks)
