"""What a simulated world is made of, and how long and how often it is asked."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000


class WorldConfig(BaseModel):
    """Users, items, drift and behaviour. Formulas: docs/simulate.md."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(7, ge=0, description="All random numbers are functions of it and of the minute.")
    start_ms: int = Field(1_767_571_200_000, ge=1, description="Event time of the first minute (2026-01-05).")
    users: int = Field(10_000, ge=1, description="Users; their number is constant.")
    items: int = Field(20_000, ge=1, description="Items that are there at the start.")
    new_items_a_day: int = Field(1_000, ge=0, description="Items that arrive evenly over every day.")
    dims: int = Field(16, ge=2, le=1024, description="Length of interest and item vectors.")
    categories: int = Field(20, ge=1, description="Directions around which authors and users gather.")
    authors: int = Field(1_000, ge=1, description="Each has one category and a direction within it.")
    interest_half_life_d: float = Field(
        7.0, gt=0, description="Expected cosine between an interest and its past halves in so many days."
    )
    day_night: float = Field(0.5, ge=0, description="How far time of day moves an interest of length 1.")
    affinity: float = Field(4.0, ge=0, description="Weight of cosine(interest, item) in the click logit.")
    bias: float = Field(-4.2, description="Click logit of an item that a user is indifferent to.")
    quality: float = Field(1.0, ge=0, description="Standard deviation of an item's own click logit.")
    trends_a_day: int = Field(400, ge=0, description="Items that become a trend, evenly over every day.")
    trend_peak: float = Field(1.5, ge=0, description="Mean of a trend's highest addition to the logit.")
    trend_rise_h: float = Field(6.0, gt=0, description="Hours from a trend's start to its peak.")
    newness_peak: float = Field(1.0, ge=0, description="The same mean for the trend each item is born with.")
    again: float = Field(-1.0, description="Mean over users of what a lately clicked item's logit gains.")
    again_spread: float = Field(1.5, ge=0, description="Standard deviation of it: some take things again.")
    position_bias: float = Field(0.5, ge=0, description="P(seen at place j) = (1 + j) ** -position_bias.")
    long_view_ms: int = Field(18_000, gt=0, description="Watched so long, or to the end: a long view.")
    like_logit: float = Field(-3.0, description="Added to the click logit to get that of a like.")
    purchase_share: float = Field(
        0.05, ge=0, le=1, description="P(purchase) after a click and a complete view."
    )
    purchase_delay_h: float = Field(2.0, gt=0, description="Mean hours from click to purchase.")
    horizon_h: float = Field(24.0, gt=0, description="No action later than so long after its request.")


class RunConfig(BaseModel):
    """How a world is asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    days: float = Field(3.0, gt=0, description="Event time to simulate, days.")
    requests_per_day: int = Field(20_000, ge=1, description="Mean; more in the evening than at night.")
    warm_days: float = Field(0.0, ge=0, description="Days that `popular` answers first, to learn from.")
    k: int = Field(10, ge=1, le=1000, description="Items of a served list.")
    explore: float = Field(0.2, ge=0, le=1, description="Share of random items in the lists of `popular`.")
    popular_half_life_h: float = Field(12.0, gt=0, description="Half-life of the counts of `popular`.")
    new_item_h: float = Field(24.0, gt=0, description="Items no older count as new in the figures.")
    oracle_requests: int = Field(4, ge=0, description="Requests of a minute whose regret is computed.")

    @property
    def minutes(self) -> int:
        """Length of the run in steps of the world."""
        return max(1, round(self.days * 1440))
