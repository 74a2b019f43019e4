"""How the channels' rankings become one: configuration of fusion, channels, scenes and stages."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from serving.filters import AttributeRules

Method = Literal["blend", "snake", "quota", "rrf", "weighted"]


class FusionConfig(BaseModel):
    """How rankings are merged (serving/fusion.py)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method = Field(
        "blend",
        description="blend: the weights that the full retrain fitted, snake while a bundle has none; snake: "
        "the channels take turns; quota: the same, each up to its quota; rrf: reciprocal-rank fusion; "
        "weighted: sum of weight times score, calibrated to 0 .. 1 within its channel.",
    )
    rrf_constant: float = Field(60.0, ge=0, description="c of weight / (c + rank); rank counts from 1.")
    depth: int = Field(
        200,
        ge=1,
        le=10_000,
        description="Candidates a channel gives to blend, rrf and weighted (at least k).",
    )


class ChannelConfig(BaseModel):
    """What one channel contributes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    users: Literal["all", "cold", "nobody"] = Field(
        "all", description="Who gets it: all, cold (users without a history), nobody."
    )
    quota: int | None = Field(None, ge=0, description="Most places of an answer (method quota); none = k.")
    guaranteed: int = Field(
        0, ge=0, description="Least places of an answer, whatever the method gives; for fresh and editorial."
    )
    weight: float = Field(1.0, ge=0, description="Weight in rrf and weighted.")
    timeout_ms: float | None = Field(
        None, gt=0, description="An answer waits no longer for this channel; none = channel_timeout_ms."
    )


class SceneConfig(BaseModel):
    """What is different in one scene."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fusion: FusionConfig | None = Field(None, description="Instead of serving.fusion.")
    channels: dict[str, ChannelConfig] = Field(
        default_factory=dict, description="Instead of serving.channels, by name."
    )
    filters: AttributeRules = Field(
        AttributeRules(), description="What is left out here, beside what serving.filters leaves out."
    )
    caps: dict[str, NonNegativeInt] = Field(
        default_factory=dict, description="Instead of serving.caps, by attribute; 0 = no cap here."
    )


CANDIDATES = "candidates"
"""Model of the pre-rank stage that is the network fitted to all candidates (models/prerank.py)."""


class StageConfig(BaseModel):
    """One stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(
        "",
        description="Ranker of the bundle; for the pre-rank also candidates, the network "
        "that update.prerank fits; empty = the stage is off.",
    )
    candidates: int = Field(
        200, ge=1, le=10_000, description="How many it orders: of the fused list, or of the stage before."
    )
    timeout_ms: float = Field(
        100.0, gt=0, description="An answer waits no longer; it then keeps the order it had."
    )
