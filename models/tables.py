"""All ID tables and embedding tables of one model in training, by name (models/table_names.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyarrow as pa
import torch

from models.arrays import Int64Array, Tensors
from models.embedding import EmbeddingTable
from models.id_table import IdTable
from models.model_config import DAY_MS, FeatureConfig, ModelConfig
from models.row_noise import row_noise, spread_untrained
from models.table_names import ids_name, ids_state, row_widths


class Tables:
    """ids: name -> IdTable; rows: name -> EmbeddingTable, kept as large as the IDs need."""

    def __init__(self, config: ModelConfig, features: tuple[FeatureConfig, ...]) -> None:
        self._config = config
        self.ids: dict[str, IdTable] = {}
        self.rows: dict[str, EmbeddingTable] = {}
        window_ms = int(config.admit_window_days * DAY_MS)
        self._places = {name: place for place, name in enumerate(sorted(row_widths(config, features)))}
        for name, width in row_widths(config, features).items():
            self.rows[name] = EmbeddingTable(width, config.lr_rows)
            cold = row_noise(0, width, 1000 * config.seed + self._place(name), config.row_init)
            self.rows[name].weights[0] = torch.from_numpy(cold)
            if ids_name(name) == name:
                self.ids[name] = IdTable(config.admit_after if name in ("user", "item") else 1, window_ms)

    def observe(self, name: str, keys: pa.Array | pa.ChunkedArray, ts_ms: Int64Array) -> Int64Array:
        """Entries int64[N] of keys in ID table `name`, inserting; new rows begin as the cold row."""
        ids = self.ids[name]
        entries = ids.observe(keys, ts_ms)
        new_rows = ids.take_new_rows()
        if len(new_rows):
            for table, rows in self.rows.items():
                if ids_name(table) == name:
                    rows.reserve(ids.row_capacity)
                    rows.start(new_rows)
        return entries

    def spread(self, names: set[str]) -> None:
        """Move rows that were never trained a little away from the cold row, each its own way.

        Rows that start equal and meet equal gradients would stay equal; only the rows of users may (their
        histories differ).
        """
        for name, rows in self.rows.items():
            if name not in names:
                continue
            salt = 1000 * self._config.seed + self._place(name)
            spread_untrained(rows.weights.numpy(), rows.momentum.numpy(), salt, self._config.row_init)

    def _place(self, name: str) -> int:
        return self._places[ids_name(name)]  # "history_item" starts equal to "item": similar to itself

    def cold_rows(self, names: frozenset[str]) -> Callable[[], None]:
        """Calling the answer makes row 0 of `names` what it is now, to the bit; until a table grows."""
        cold = [
            table[:1].numpy()
            for name in names
            for table in (self.rows[name].weights, self.rows[name].momentum)
        ]
        kept = [row.copy() for row in cold]

        def put_back() -> None:
            for row, was in zip(cold, kept, strict=True):
                row[:] = was

        return put_back

    def expire(self, name: str, before_ms: int) -> tuple[pa.StringArray, Int64Array, Int64Array]:
        """Remove keys last seen before `before_ms` from "user" or "item": (keys, entries, rows); their rows
        are reset.
        """
        keys, entries, rows = self.ids[name].expire(before_ms)
        rows = rows[rows > 0]
        if len(rows):
            for table, embedding in self.rows.items():
                if ids_name(table) == name:
                    embedding.start(rows)
        return keys, entries, rows

    def state(self) -> dict[str, Tensors]:
        """Part "table.<name>" -> tensors "ids.*", "weights", "momentum"."""
        parts: dict[str, Tensors] = {}
        for name, rows in self.rows.items():
            parts[f"table.{name}"] = rows.state()
            if name in self.ids:
                parts[f"table.{name}"] |= {
                    f"ids.{key}": array for key, array in self.ids[name].state().items()
                }
        return parts

    def restore(self, parts: Mapping[str, Tensors]) -> None:
        """Take what state() described."""
        for name in self.rows:
            part = parts[f"table.{name}"]
            self.rows[name] = EmbeddingTable.from_state(part, self._config.lr_rows)
            if name in self.ids:
                self.ids[name] = IdTable.from_state(ids_state(part))
