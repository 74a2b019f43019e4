"""Neighbours of some trigger items, as tensors of a bundle or of a delta."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.arrays import Float32Array, Int32Array, Int64Array, Tensors
from models.artifact import pack_keys, unpack_keys

_NO_KEYS = pa.array([], pa.string())


@dataclass(frozen=True)
class NeighbourRows:
    """Neighbours of some triggers, best first.

    triggers: string[n], distinct; offsets: int64[n+1]; items: string[m], distinct; neighbours: int32[flat]
    positions in items; scores: float32[flat]. A trigger with an empty row has no neighbours any more.
    """

    triggers: pa.Array
    offsets: Int64Array
    items: pa.Array
    neighbours: Int32Array
    scores: Float32Array

    def __len__(self) -> int:
        """Triggers."""
        return len(self.triggers)

    @classmethod
    def none(cls) -> NeighbourRows:
        """No trigger at all."""
        nothing = np.empty(0, np.int32)
        return cls(_NO_KEYS, np.zeros(1, np.int64), _NO_KEYS, nothing, np.empty(0, np.float32))

    def with_empty(self, triggers: pa.Array) -> NeighbourRows:
        """The same rows and an empty one of each of `triggers` string[k]."""
        offsets = np.concatenate([self.offsets, np.repeat(self.offsets[-1:], len(triggers))])
        return replace(self, triggers=pa.concat_arrays([self.triggers, triggers]), offsets=offsets)

    def take(self, rows: Int64Array) -> NeighbourRows:
        """Some of the rows, by position int64[k]."""
        offsets, flat = _gathered(self.offsets, rows)
        return replace(
            self,
            triggers=self.triggers.take(pa.array(rows)),
            offsets=offsets,
            neighbours=self.neighbours[flat],
            scores=self.scores[flat],
        )

    def followed_by(self, newer: NeighbourRows) -> NeighbourRows:
        """Rows that do in one step what these and then `newer` do."""
        replaced = pc.is_in(self.triggers, newer.triggers).to_numpy(zero_copy_only=False)
        kept = self.take(np.flatnonzero(~replaced))
        at = pc.fill_null(pc.index_in(newer.items, kept.items), -1).to_numpy()
        unknown = at < 0
        codes = np.where(unknown, len(kept.items) + np.cumsum(unknown) - 1, at)
        return NeighbourRows(
            pa.concat_arrays([kept.triggers, newer.triggers]),
            np.concatenate([kept.offsets, kept.offsets[-1] + newer.offsets[1:]]),
            pa.concat_arrays([kept.items, newer.items.filter(pa.array(unknown))]),
            np.concatenate([kept.neighbours, codes.astype(np.int32)[newer.neighbours]]),
            np.concatenate([kept.scores, newer.scores]),
        )

    def tensors(self, prefix: str = "") -> Tensors:
        """As stored: `<prefix>triggers.bytes|offsets`, `<prefix>items.bytes|offsets`, `<prefix>offsets`,
        `<prefix>neighbours`, `<prefix>scores`.
        """
        return {
            **pack_keys(self.triggers, f"{prefix}triggers."),
            **pack_keys(self.items, f"{prefix}items."),
            f"{prefix}offsets": self.offsets,
            f"{prefix}neighbours": self.neighbours,
            f"{prefix}scores": self.scores,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray[Any, Any]], prefix: str = "") -> NeighbourRows:
        """The inverse of `tensors`. KeyError for a missing tensor, ValueError where they do not fit."""
        triggers, items = (
            unpack_keys(tensors, f"{prefix}triggers."),
            unpack_keys(tensors, f"{prefix}items."),
        )
        offsets, neighbours, scores = (tensors[prefix + name] for name in ("offsets", "neighbours", "scores"))
        if len(offsets) != len(triggers) + 1 or offsets[0] != 0 or (np.diff(offsets) < 0).any():
            raise ValueError(f"{prefix}offsets: expected {len(triggers) + 1} rising offsets from 0")
        if not len(neighbours) == len(scores) == offsets[-1]:
            raise ValueError(
                f"{prefix}neighbours: expected {offsets[-1]} of them and of scores, "
                f"got {len(neighbours)} and {len(scores)}"
            )
        if len(neighbours) and not 0 <= neighbours.min() <= neighbours.max() < len(items):
            raise ValueError(f"{prefix}neighbours: expected positions among {len(items)} items")
        if not np.isfinite(scores).all():
            raise ValueError(f"{prefix}scores: expected finite numbers, got NaN or infinity")
        return cls(triggers, offsets, items, neighbours, scores)


def _gathered(offsets: Int64Array, rows: Int64Array) -> tuple[Int64Array, Int64Array]:
    """(offsets int64[k+1] of the chosen rows laid back to back, places int64[flat] they come from)."""
    lengths = np.diff(offsets)[rows]
    new = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(lengths, out=new[1:])
    return new, np.repeat(offsets[:-1][rows] - new[:-1], lengths) + np.arange(new[-1])
