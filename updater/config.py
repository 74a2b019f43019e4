"""What the update scheme may be told: sections `[update]` and `[schedule]` of the configuration."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.half_rows import Precision


class UpdateConfig(BaseModel):
    """How the incremental updater and the full retrain run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    incremental: bool = Field(
        True, description="Publish hourly deltas. Off: the pointer moves at the daily publish only."
    )
    cumulative_every: int = Field(
        6, ge=1, description="Every n-th delta is also written whole, so that a late reader needs one file."
    )
    keep_bundles: int = Field(7, ge=2, description="Bundles kept in the registry; the served one always is.")
    blend_targets: int = Field(
        2000,
        ge=0,
        description="Targets of the new stretch that the parent's channels are asked for, to fit how serving "
        "blends them; 0 = no blend.",
    )
    blend_counts: bool | None = Field(
        None,
        description="Blend live counts of the items as well: how often each was taken and shown of late, as "
        "of the request, for which the store counts them; none = where no pre-rank network does (prerank): "
        "with one the answers are as good without.",
    )
    prerank: bool = Field(
        False,
        description="Fit a pre-rank network to the same targets: it orders what the blend puts first by live "
        "counts of the items and how near they are to the one who asks as well. Serve it with "
        'serving.prerank.model = "candidates".',
    )
    prerank_met: tuple[str, ...] = Field(
        (),
        description="Kinds of events by which a user meets an item, impressions first of all: the pre-rank "
        "network then reads as well whether the user met a candidate before, and how much it is met together "
        "with what the user met last. profiles.history_kinds needs them too.",
    )
    rows_precision: Precision = Field(
        "float32",
        description="Rows of users and items as servers hold them, those of deltas too, and vectors of items "
        "beside inverted lists (index.ivf_from). float16: full retrains write the rows once more, half as "
        "large, for servers; training goes on from its own.",
    )
    seed: int = Field(7, description="Seed of the daily shuffle; a model's own seed is in its section.")
    threads: int = Field(1, ge=1, description="Torch threads of the consumer's incremental steps.")
    # One: beside a busy neighbour two threads spin at their barriers and train several times slower.
    retrain_threads: int = Field(1, ge=1, description="Torch threads of the full retrain.")
    poll_s: float = Field(
        0.2, gt=0, description="Pause between two looks at the archive and the registry, s."
    )
    popularity_half_life_h: float = Field(
        12.0, gt=0, description="Half-life of the popularity channel's counts, hours of event time."
    )

    @property
    def blends_counts(self) -> bool:
        """Whether blends are fitted with live counts."""
        return self.blends_counts_with(self.prerank)

    def blends_counts_with(self, prerank: bool) -> bool:
        """The same where a network over the blend is there, or is not."""
        by_itself = bool(self.blend_targets) and not prerank
        return by_itself if self.blend_counts is None else self.blend_counts

    @property
    def counts_items(self) -> bool:
        """Whether the full retrain reads live counts, for the blend or the network over it."""
        return self.prerank or self.blends_counts

    @model_validator(mode="after")
    def _what_needs_a_blend_has_one(self) -> Self:
        if self.prerank and not self.blend_targets:
            raise ValueError("prerank: expected blend_targets above 0, for it is fitted to them, got 0")
        if self.prerank_met and not self.prerank:
            raise ValueError("prerank_met: expected prerank = true, whose network reads it, got false")
        if self.blend_counts and not self.blend_targets:
            raise ValueError(
                "blend_counts: expected blend_targets above 0, for a blend is fitted to them, got 0"
            )
        return self


class ScheduleConfig(BaseModel):
    """When the daily full retrain runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clock: Literal["wall", "event"] = Field(
        "wall",
        description="wall: cron below. event: as soon as the archive has sealed a whole local day (replay).",
    )
    daily_cron: str = Field(
        "20 0 * * *", description="Crontab of the daily retrain in day_timezone (clock = wall)."
    )
    day_timezone: str = Field("UTC", description="IANA time zone whose midnights bound a day of data.")
    poll_s: float = Field(0.5, gt=0, description="How often clock = event looks at the archive, s.")
    retry_s: float = Field(
        60.0,
        gt=0,
        description="Pause before a day that failed, or is not sealed yet, is tried again, s.",
    )
