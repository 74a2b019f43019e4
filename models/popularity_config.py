"""Which popularity counts an item's vector carries, and where they stand in it.

Every declared count is one number c of an item at a moment: log(1 + decayed count / floor). The user tower
weighs the C counts; in the published vectors a count that is kept apart by a feature takes one dim for each
value, and a user's vector has its weight at the dim of the user's own value.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class PopularityConfig(BaseModel):
    """One time-decayed count of an item's events."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    half_life_h: float = Field(gt=0, description="Event time after which an event counts half, hours.")
    kinds: tuple[str, ...] = Field(
        default=(), description="Kinds of events that are counted; empty = the model's positives."
    )
    by: str = Field(
        default="",
        description="A category of the request side (scene, a user attribute): counted apart for each of its "
        "values.",
    )
    values: int = Field(default=16, ge=1, description="Most values that are counted apart; later ones not.")
    floor: float = Field(default=0.3, gt=0, description="Decayed count that is taken for next to nothing.")

    @property
    def width(self) -> int:
        """Dims of the published item vector."""
        return self.values if self.by else 1
