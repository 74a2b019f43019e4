"""All rows of a ranker in one numbering: keys of every field, and bins of every number.

Every field has an ID table of its own with a cold row; all are equally wide, so they stand in one embedding
table, and a step is one lookup instead of one per field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from models.arrays import Float32Array, Int32Array, Int64Array, Tensors
from models.frozen_rows import FrozenRows
from models.id_table import IdTable
from models.ranking.first_order import FirstOrder
from models.ranking.rank_config import RankConfig
from models.samplers import uniform_by_key

if TYPE_CHECKING:  # serving has frozen rows and must not load the library that trains the others
    from models.embedding import EmbeddingTable

_DAY_MS = 86_400_000
_NEVER = 2**40
PAIRS = "user_scene"
"""Pairs of user and scene: counted, without rows."""


class RowSpace:
    """ids: field (and PAIRS) -> IdTable. Row r of a field's table is row place(field)[r] of the embedding
    table `rows` float32[n, D] (a ranker with rows) and of `first` float32[n, H] (one with first order terms).
    """

    def __init__(
        self,
        config: RankConfig,
        fields: Sequence[str],
        bin_rows: int,
        rows: EmbeddingTable | FrozenRows | None,
    ) -> None:
        """rows: where the rows are kept, as wide as config.dim; None for a ranker without."""
        self._config = config
        self.ids: dict[str, IdTable] = {PAIRS: IdTable(_NEVER)}
        self._places: dict[str, Int64Array] = {}
        window_ms = int(config.admit_window_days * _DAY_MS)
        for place, field in enumerate(fields):
            admit_after = config.admit_after if field in ("user", "item") else 1
            self.ids[field] = IdTable(admit_after, window_ms)
            self._places[field] = np.array([place], np.int64)
        self.first_bin = len(fields)
        self.size = self.first_bin + bin_rows
        self.rows = rows
        self.first = FirstOrder(config.heads, config.lr_linear) if config.has_first_order else None
        self._begin(np.arange(self.size), None)

    def observe(self, field: str, keys: pa.Array, ts_ms: Int64Array) -> Int64Array:
        """Entries int64[N] of keys at ts_ms int64[N], inserting; new rows begin near the field's cold row."""
        ids = self.ids[field]
        entries = ids.observe(keys, ts_ms)
        new = ids.take_new_rows()
        if len(new) and field in self._places:
            held = self._places[field]
            added = self.size + np.arange(ids.row_capacity - len(held))
            self._places[field] = held = np.concatenate([held, added])
            self.size += len(added)
            self._begin(held[new], held[0])
        return entries

    def lookup(self, field: str, keys: pa.Array, ts_ms: Int64Array) -> Int64Array:
        """Entries int64[N], -1 = unknown; never mutates."""
        return self.ids[field].lookup(keys)

    def expire(self, before_ms: int) -> dict[str, Int64Array]:
        """Remove keys last seen before `before_ms` from every table: field (and PAIRS) -> their entries
        int64[n], which will be given again, as their rows will, begun anew.
        """
        return {field: ids.expire(before_ms)[1] for field, ids in self.ids.items()}

    def _begin(self, rows: Int64Array, cold: int | None) -> None:
        """Rows int64[n] begin as `cold` (zero where None) and a little noise, each its own."""
        index = torch.from_numpy(rows)
        if self.rows is not None:
            width = self.rows.dim
            uniform = uniform_by_key(rows[:, None] * width + np.arange(width), self._config.seed)
            noise = torch.from_numpy((2 * uniform - 1).astype(np.float32) * np.float32(self._config.row_init))
            self.rows.reserve(self.size)
            self.rows.start(rows)
            self.rows.weights[index] = noise if cold is None else self.rows.weights[cold] + noise
        if self.first is not None:
            self.first.reserve(self.size)
            if cold is not None:
                self.first.start(index, torch.full_like(index, int(cold)))

    def rows_of(self, field: str, entries: Int32Array) -> tuple[Int64Array, Float32Array]:
        """Rows int64[N, L] and factors float32[N, L] of entries int32[N, L] (-1 = none): the mean of those
        there are, the cold row where there is none.
        """
        places = self._places[field]
        rows = places[self.ids[field].rows(entries)]
        if entries.shape[1] == 1:
            return rows, np.ones(entries.shape, np.float32)
        known = entries >= 0
        known[:, 0] |= ~known.any(axis=1)
        factors = known / known.sum(axis=1, keepdims=True)
        return rows, factors.astype(np.float32)

    def rows_state(self) -> torch.Tensor | None:
        """A copy of the rows float32[n, D], None without; for begin_again()."""
        return None if self.rows is None else self.rows.weights.clone()

    def begin_again(self, weights: torch.Tensor) -> None:
        """Rows as they were, without optimizer state: several passes for the dense layers without rows that
        overfit (Liu et al., MEDA, 2023).
        """
        if self.rows is not None and not isinstance(self.rows, FrozenRows):
            self.rows.weights[:] = weights
            self.rows.momentum[:] = 0.0

    def cold(self, field: str) -> int:
        """Row of a key of `field` that nothing is known of."""
        return int(self._places[field][0])

    def state(self) -> dict[str, Tensors]:
        """Parts "ids.<field>", "rows" and "first"."""
        parts = {
            f"ids.{field}": ids.state() | ({"places": self._places[field]} if field in self._places else {})
            for field, ids in self.ids.items()
        }
        if self.rows is not None and not isinstance(self.rows, FrozenRows):
            parts["rows"] = self.rows.state()
        if self.first is not None:
            parts["first"] = self.first.state()
        return parts

    def part_names(self) -> list[str]:
        """Names of the parts of state()."""
        dense = [("rows", self.rows), ("first", self.first)]
        return [f"ids.{field}" for field in self.ids] + [name for name, there in dense if there is not None]

    def restore(self, parts: Mapping[str, Tensors]) -> None:
        """Take what state() described."""
        for field in self.ids:
            part = dict(parts[f"ids.{field}"])
            if field in self._places:
                self._places[field] = np.array(part.pop("places"), np.int64)
            self.ids[field] = IdTable.from_state(part)
        if isinstance(self.rows, FrozenRows):
            self.rows = FrozenRows.from_state(parts["rows"])
        elif self.rows is not None:
            self.rows = self.rows.from_state(parts["rows"], self._config.lr_rows)
        if self.rows is not None:
            self.size = self.rows.rows
        if self.first is not None:
            self.first.restore(parts["first"])
            self.size = len(self.first.weights)
