"""Item-to-item channels in training: windows that move with the stream, neighbours made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.arrays import Int64Array, Tensors
from models.feature_config import HistoryConfig
from models.item_cf import item_cf
from models.neighbour_rows import NeighbourRows
from models.swing import swing
from models.user_windows import UserWindows

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
_CHUNK = 65_536
"""Triggers whose neighbours are made at once; bounds the memory."""
_ONLY = {
    "item_cf": ("half_life_days", "gap_half_life_h", "backward", "shrinkage"),
    "swing": ("alpha",),
}
"""Settings that one kind alone reads."""


class ItemToItemConfig(BaseModel):
    """One item-to-item channel: how similar items are found, how a history is answered with them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["item_cf", "swing"] = Field("item_cf", description="Which similarity (A6).")
    positives: tuple[str, ...] = Field(
        ("click",), min_length=1, description="Kinds of events that make up users' items and the history."
    )
    window: int = Field(
        100, ge=2, description="Newest distinct items per user that similarities are computed from."
    )
    users_per_item: int = Field(
        200,
        ge=0,
        description="Newest users of a trigger that are read, 0 = all; Swing's cost grows with its square.",
    )
    neighbours: int = Field(100, ge=1, description="Neighbours kept per trigger item.")
    half_life_days: float = Field(
        0.0, ge=0, description="Age at which a user's two events count half, 0 = never (item_cf)."
    )
    gap_half_life_h: float = Field(
        0.0, ge=0, description="Time between a user's two events that halves their weight, 0 = any (item_cf)."
    )
    backward: float = Field(
        0.7, ge=0, le=1, description="Weight of an item that came before the trigger, after it = 1 (item_cf)."
    )
    shrinkage: float = Field(
        50.0, ge=0, description="Added to the norm, so that rare pairs count less (item_cf)."
    )
    alpha: float = Field(1.0, ge=0, description="Smoothing of the size of two users' overlap (swing).")
    history_length: int = Field(50, ge=1, description="Newest history items that are triggers of an answer.")
    recency_half_life_h: float = Field(
        0.0, ge=0, description="Time before the newest trigger at which one counts half, 0 = all count alike."
    )
    expire_after_days: float = Field(
        400, gt=0, description="An event this old in event time is forgotten, and with it items and users."
    )

    @property
    def read_length(self) -> int:
        """Newest positive events of a user that an answer reads."""
        return self.history_length

    @property
    def histories(self) -> Mapping[str, HistoryConfig]:
        """None beside the positives."""
        return {}

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_kind(cls, given: object) -> object:
        """ItemCF is linear in the users of a trigger: it reads them all."""
        if isinstance(given, dict) and given.get("kind", "item_cf") == "item_cf":
            return {"users_per_item": 0, **given}
        return given

    @model_validator(mode="after")
    def _settings_belong_to_the_kind(self) -> ItemToItemConfig:
        for kind, names in _ONLY.items():
            for name in names:
                if kind != self.kind and getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name}: only a channel of kind {kind} reads it; remove it")
        if "impression" in self.positives:
            raise ValueError("positives: 'impression' is not an action; name kinds such as click or purchase")
        return self


class ItemToItem:
    """One channel in training. Its neighbours are a function of the users' windows."""

    def __init__(self, config: ItemToItemConfig) -> None:
        self.config = config
        self._windows = UserWindows(config.window)
        self._gone: pa.Array = pa.array([], pa.string())

    def observe(
        self, user_id: pa.Array | pa.ChunkedArray, item_id: pa.Array | pa.ChunkedArray, ts_ms: Int64Array
    ) -> None:
        """Take in positive events: key texts string[N] each, ts_ms int64[N], in canonical order."""
        self._windows.observe(user_id, item_id, ts_ms)

    def expire(self, before_ms: int) -> None:
        """Forget events before `before_ms`; items without others are triggers and neighbours no longer."""
        gone = self._windows.expire(before_ms)
        if len(gone):
            self._gone = pa.concat_arrays([self._gone, gone])

    def neighbours(self, top_n: int | None = None, of: pa.Array | None = None) -> NeighbourRows:
        """The best neighbours (`config.neighbours` unless told) of every item that has any; of: string[n],
        of these items only.
        """
        wanted = self._windows.items.live_entries()
        if of is not None:
            wanted = self._windows.items.lookup(of)
            wanted = wanted[wanted >= 0]
        return self._rows(wanted, top_n or self.config.neighbours, empty=False)

    def changed(self, top_n: int | None = None) -> NeighbourRows:
        """The same of the triggers that changed since settle(); those left without neighbours have empty
        rows.

        A trigger changed when a user who holds it did something, or an event of it was forgotten. The other
        ones' rows would differ by their neighbours' counts only; they follow with the next bundle.
        """
        rows = self._rows(self._windows.moved(), top_n or self.config.neighbours, empty=True)
        gone = self._gone.filter(pa.array(self._windows.items.lookup(self._gone) < 0))
        return rows.with_empty(gone)

    def settle(self) -> None:
        """What changed() says counts anew from here; call it after the rows are durable."""
        self._windows.settle()
        self._gone = self._gone[:0]

    def state(self) -> Tensors:
        """Everything from_state() needs; what changed() says is not part of it."""
        return self._windows.state()

    @classmethod
    def from_state(cls, config: ItemToItemConfig, state: Tensors) -> ItemToItem:
        """The channel that state() described, of either kind: `config` may differ from the one it had."""
        channel = cls(config)
        channel._windows = UserWindows.from_state(state, config.window)
        return channel

    def _rows(self, triggers: Int64Array, top_n: int, empty: bool) -> NeighbourRows:
        config, ids = self.config, self._windows.items
        held, counts = self._windows.counts(config.half_life_days * DAY_MS)
        holders, view = self._windows.holders(triggers, held), self._windows.windows()
        parts: list[tuple[Int64Array, np.ndarray, np.ndarray]] = []
        for begin in range(0, len(triggers), _CHUNK):
            chunk = triggers[begin : begin + _CHUNK]
            found = np.full((len(chunk), top_n), -1, np.int32)
            scores = np.zeros((len(chunk), top_n), np.float32)
            if config.kind == "item_cf":
                item_cf(
                    chunk, holders.offsets, holders.user, holders.ts,
                    view.start, view.length, view.items, view.times,
                    counts, self._windows.newest_ms, config.users_per_item,
                    config.half_life_days * DAY_MS, config.gap_half_life_h * HOUR_MS,
                    config.backward, config.shrinkage, found, scores,
                )  # fmt: skip
            else:
                swing(
                    chunk, holders.offsets, holders.user, holders.ts,
                    view.start, view.length, view.items, len(counts),
                    config.users_per_item, config.alpha, found, scores,
                )  # fmt: skip
            whole = found >= 0
            parts.append((whole.sum(axis=1), found[whole], scores[whole]))
        lengths = np.concatenate([part[0] for part in parts] or [np.empty(0, np.int64)])
        flat = np.concatenate([part[1] for part in parts] or [np.empty(0, np.int32)])
        values = np.concatenate([part[2] for part in parts] or [np.empty(0, np.float32)])
        if not empty:
            triggers, lengths = triggers[lengths > 0], lengths[lengths > 0]
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        entries, codes = np.unique(flat, return_inverse=True)
        return NeighbourRows(
            ids.keys_of(triggers), offsets, ids.keys_of(entries), codes.astype(np.int32), values
        )
