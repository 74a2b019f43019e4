"""Items of the same author or category as the newest of the user's history, the newest value first."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from models.arrays import BoolArray, Float32Array, Int64Array
from serving.attributes import Column, ItemAttributes
from serving.channels.contract import Ask, Ranking
from stream.event import Kind


class SameConfig(BaseModel):
    """One channel same_ATTRIBUTE."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kinds: tuple[Kind, ...] = Field(
        (), description="Kinds of events that count; empty = all that the profile's history holds."
    )
    values: int = Field(5, ge=1, description="How many values: those of the newest items, each once.")
    order: Literal["popularity", "recency"] = Field(
        "popularity", description="What comes first within a value; of equally popular items the newer."
    )


@dataclass(frozen=True, eq=False)
class ByValue:
    """Entries of the attributes by the code of their value in one column, best first within it.

    popular: the list that the order was made with; worth: float32[entries] in [0, 1), what it goes by.
    """

    column: Column
    popular: Sequence[str]
    worth: Float32Array
    order: Int64Array
    offsets: Int64Array

    @classmethod
    def over(
        cls, attributes: ItemAttributes, name: str, keys: Sequence[str], scores: Sequence[float], by: str
    ) -> ByValue:
        """keys, scores: what is popular, best first; by: "popularity" or "recency"."""
        column, n = attributes.columns[name], len(attributes)
        rank = np.arange(n - 1, -1, -1) + len(keys)  # a later entry is a newer item
        worth: Float32Array = (np.arange(1, n + 1) / (n + 1)).astype(np.float32)
        if by == "popularity":
            worth = np.zeros(n, np.float32)
            entries, counts = attributes.entries(keys), np.asarray(scores, np.float64)
            known = entries >= 0
            worth[entries[known]] = (counts / (1.0 + counts))[known]
            rank[entries[known]] = np.flatnonzero(known)
        codes = column.codes.astype(np.int64)
        order = np.argsort(codes * (n + len(keys) + 1) + rank)
        offsets = np.searchsorted(codes[order], np.arange(column.values.entry_capacity + 1))
        return cls(column, keys, worth, order, offsets)

    def entries(self, code: int) -> Int64Array:
        """Entries with a value, best first."""
        return self.order[self.offsets[code] : self.offsets[code + 1]]


def by_value(
    held: MutableMapping[str, ByValue],
    attributes: ItemAttributes,
    name: str,
    keys: Sequence[str],
    scores: Sequence[float],
    by: str,
) -> ByValue:
    """The one that is held, or another where the column or what is popular changed."""
    found = held.get(name)
    if found is None or found.column is not attributes.columns[name] or found.popular is not keys:
        found = held[name] = ByValue.over(attributes, name, keys, scores, by)
    return found


@dataclass(frozen=True, eq=False)
class SameSource:
    """score(item) = 2^-turn * (1 + worth) / 2, turn = place of its value among the user's newest, from 0.

    out: bool[entries], items that nobody gets.
    """

    config: SameConfig
    attributes: ItemAttributes
    name: str
    index: ByValue
    out: BoolArray

    def candidates(self, ask: Ask, k: int) -> Ranking:
        """The k items of the newest values, best first within each."""
        found: Ranking = []
        for turn, code in enumerate(self._values(ask)):
            entries = self.index.entries(code)
            if len(self.out):
                entries = entries[~self.out[entries]]
            for begin in range(0, len(entries), k):
                part = entries[begin : begin + k]
                keys = self.attributes.ids.keys_of(part).to_pylist()
                scores, allowed = _score(turn, self.index.worth[part]).tolist(), ask.allowed(keys)
                found += [pair for pair in zip(keys, scores, strict=True) if pair[0] in allowed]
                if len(found) >= k:
                    return found[:k]
        return found

    def scores(self, ask: Ask, keys: Sequence[str]) -> Float32Array:
        """The same scores; 0 for items of other values."""
        turns: Mapping[int, int] = {code: turn for turn, code in enumerate(self._values(ask))}
        entries = self.attributes.entries(keys)
        turn = np.array([turns.get(code, -1) for code in self.attributes.codes(self.name, entries).tolist()])
        scores = np.zeros(len(keys), np.float32)
        shared = np.flatnonzero(turn >= 0)
        scores[shared] = _score(turn[shared], self.index.worth[entries[shared]])
        return scores

    def _values(self, ask: Ask) -> list[int]:
        """Codes of the user's newest values, newest first."""
        kinds = self.config.kinds
        items = [
            entry.item_id
            for entry in reversed(ask.profile.history)
            if entry.item_id and entry.ts_ms <= ask.ts_ms and (not kinds or entry.kind in kinds)
        ]
        codes = self.attributes.codes(self.name, self.attributes.entries(items)).tolist()
        return [code for code in dict.fromkeys(codes) if code >= 0][: self.config.values]


def _score(turn: int | Int64Array, worth: Float32Array) -> Float32Array:
    scores: Float32Array = (0.5 ** np.asarray(turn, np.float32) * (1 + worth) / 2).astype(np.float32)
    return scores
