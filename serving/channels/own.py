"""The user's own items, to repeat or to go on with: what was had often and lately."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from models.arrays import Float32Array
from serving.channels.contract import Ask, Ranking
from stream.event import Kind


class OwnItemsConfig(BaseModel):
    """The channel `own_items`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kinds: tuple[Kind, ...] = Field(
        ("purchase", "play", "collect"), min_length=1, description="Kinds of events that make an item own."
    )
    ended_by: tuple[Kind, ...] = Field(
        ("finish", "hate"), description="Kinds of events after which an item is none until it is had again."
    )
    half_life_h: float = Field(720.0, gt=0, description="Age after which an event counts half.")


@dataclass(frozen=True)
class OwnItemsSource:
    """score(item) = sum over its events of 2^-(age / half-life)."""

    config: OwnItemsConfig

    def candidates(self, ask: Ask, k: int) -> Ranking:
        """The k own items of the highest scores; of equal ones the later had first."""
        sums = self._sums(ask)
        allowed = ask.allowed(sums)
        latest_first = [entry for entry in reversed(sums.items()) if entry[0] in allowed]
        return sorted(latest_first, key=lambda entry: -entry[1])[:k]

    def scores(self, ask: Ask, keys: Sequence[str]) -> Float32Array:
        """The same scores; 0 for what is not the user's own."""
        sums = self._sums(ask)
        return np.array([sums.get(key, 0.0) for key in keys], np.float32)

    def _sums(self, ask: Ask) -> dict[str, float]:
        """Item key -> score, in the order of the last event that counted."""
        sums: dict[str, float] = {}
        half_life_ms = self.config.half_life_h * 3_600_000
        for entry in ask.profile.history:  # oldest first
            if not entry.item_id or entry.ts_ms > ask.ts_ms:
                continue
            if entry.kind in self.config.ended_by:
                sums.pop(entry.item_id, None)
            elif entry.kind in self.config.kinds:
                before = sums.pop(entry.item_id, 0.0)
                sums[entry.item_id] = before + 2.0 ** ((entry.ts_ms - ask.ts_ms) / half_life_ms)
        return sums
