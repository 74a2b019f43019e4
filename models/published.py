"""The serving side of one model: immutable, from the files of a bundle plus the rows of deltas."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from models.architecture import (
    ModelFiles,
    RecallModel,
    build_model,
    described,
    feature_sides,
    restore_weights,
)
from models.arrays import Float32Array, Int64Array, Tensors
from models.encoding import encode_items, encode_queries, popularity_codes
from models.features import FeatureColumns
from models.few_users import FewUsers
from models.frozen_ids import STATE, FrozenIds, read_only
from models.half_rows import Rows, halved, rows_part
from models.key_bytes import key_array
from models.model_config import FeatureConfig, ModelConfig
from models.moments import Moments
from models.pacing import BLOCK_BYTES, rest
from models.popularity_layout import PopularityLayout
from models.query import Queries
from models.table_names import ids_name, ids_state, row_widths

_FEW = 16
"""Moments that compiled code encodes sooner than torch does."""
_STATE = tuple(f"ids.{name}" for name in STATE)


class PublishedFiles(ModelFiles, Protocol):
    """What load() reads: an opened artifact."""

    def tensors(self, name: str, only: Container[str] | None = None) -> Tensors:
        """Arrays of a file, or those named in `only`; they cannot be written to."""
        ...

    def mapped(self, name: str, tensor: str) -> npt.NDArray[Any]:
        """One array of a file, in memory only where it was read; it cannot be written to."""
        ...


@dataclass(frozen=True)
class _Overlay:
    """Rows of deltas over one table: ids gives every key its row of rows [n, E], precise as the table is."""

    ids: FrozenIds
    rows: Rows


@dataclass(frozen=True)
class PublishedModel:
    """Encodes users and items from frozen rows. Nothing in here ever changes; with_rows() makes another
    one.
    """

    config: ModelConfig
    features: tuple[FeatureConfig, ...]
    _model: RecallModel
    _request_features: FeatureColumns
    _item_features: FeatureColumns
    _ids: Mapping[str, FrozenIds]
    _rows: Mapping[str, Rows]
    _overlays: Mapping[str, _Overlay]
    _few_users: FewUsers | None

    @classmethod
    def load(cls, files: PublishedFiles, name: str) -> PublishedModel:
        """The model `name` of a bundle."""
        config, features = described(files.manifest, name)
        request, item = feature_sides(config, features)
        request.restore(files.tensors(f"models/{name}/request_numbers.safetensors"))
        item.restore(files.tensors(f"models/{name}/item_numbers.safetensors"))
        model = build_model(config, request, item)
        restore_weights(model, files.tensors(f"models/{name}/dense.safetensors"))
        model.requires_grad_(False)
        model.eval()
        ids: dict[str, FrozenIds] = {}
        rows: dict[str, Rows] = {}
        for table in row_widths(config, features):
            part = rows_part(table, files.manifest["models"][name])
            file = f"models/{name}/{part}.safetensors"
            if ids_name(table) == table:
                ids[table] = FrozenIds.from_state(ids_state(files.tensors(file, _STATE)))
            if table == "item" and not config.shared_items:  # read for new items only, by no request
                rows[table] = files.mapped(file, "weights")
            else:
                rows[table] = files.tensors(file, ("weights",))["weights"]
        for table, weights in rows.items():
            if len(weights) < ids[ids_name(table)].row_capacity:
                raise ValueError(
                    f"table {table}: expected at least {ids[ids_name(table)].row_capacity} rows, "
                    f"got {len(weights)}"
                )
        return cls(config, features, model, request, item, ids, rows, {}, FewUsers.of(config, model))

    @property
    def together(self) -> int:
        """How many moments queries() may be asked for at once so that what it gives for each is, to the bit,
        what it gives for it alone.
        """
        return 1 if self._few_users is None else _FEW

    def queries(self, moments: Moments) -> Queries:
        """Equal to Learner.queries of the same state. Never mutates; thread-safe."""
        if self._few_users is not None and len(moments) <= _FEW:
            return self._few_users.queries(self._request_features, moments, self._values_of, self._codes_of)
        with torch.inference_mode():  # of this thread
            return encode_queries(
                self.config, self._request_features, self._model, moments, self._rows_of, self._entries_of
            )

    def item_vectors(self, keys: pa.Array, attributes: Mapping[str, pa.Array]) -> Float32Array:
        """float32[N, W] of any items, unknown ones too, from their keys and attribute columns; of nobody's
        interest yet (popularity 0).
        """
        vectors = encode_items(self._item_features, self._model, keys, attributes, self._rows_of)
        return np.pad(vectors, ((0, 0), (0, PopularityLayout(self.config.popularity).width)))

    def with_rows(
        self,
        rows: Mapping[str, tuple[pa.Array, Float32Array]],
        tombstones: Mapping[str, pa.Array] | None = None,
    ) -> PublishedModel:
        """A new model with a delta laid over: table -> (keys, rows float32[n, E]), which may stay in use as
        they are; tombstones fall back to the cold row.

        A tombstone of a key comes before its row, should a delta hold both. Raises ValueError for another
        width and KeyError for a table the model does not have.
        """
        tombstones = tombstones or {}
        overlays = dict(self._overlays)
        for table in sorted({*rows, *tombstones}):
            if table not in self._rows:
                raise KeyError(f"delta: no table {table!r}; the model has {', '.join(self._rows)}")
            cold = self._rows[table][:1]
            removed = tombstones.get(table, pa.array([], pa.string()))
            keys, changed = rows.get(
                table, (pa.array([], pa.string()), np.empty((0, cold.shape[1]), np.float32))
            )
            if changed.shape != (len(keys), cold.shape[1]):
                raise ValueError(
                    f"delta: table {table}: expected rows {(len(keys), cold.shape[1])}, got {changed.shape}"
                )
            whole = cold.dtype == np.float32
            values: Rows = np.asarray(changed, np.float32) if whole else halved(changed, f"table {table}")
            nobodys: Rows = cold[np.zeros(len(removed), np.int64)]
            for laid, of_them in ((removed, nobodys), (keys, values)):
                if len(laid):
                    overlays[table] = _laid_over(overlays.get(table), laid, of_them)
        return replace(self, _overlays=overlays)

    def _entries_of(self, table: str, keys: pa.StringArray) -> Int64Array:
        return self._ids[table].lookup(keys)

    def _codes_of(self, moments: Moments) -> dict[str, Int64Array]:
        return popularity_codes(self.config, self._request_features, moments, self._entries_of)

    def _rows_of(self, table: str, keys: pa.StringArray) -> torch.Tensor:
        return torch.from_numpy(self._values_of(table, keys))

    def _values_of(self, table: str, keys: pa.StringArray) -> Float32Array:
        weights = self._rows[table]
        values = np.empty((len(keys), weights.shape[1]), np.float32)
        values[:] = weights[0]
        self._ids[ids_name(table)].read_rows(keys, weights, values)
        overlay = self._overlays.get(table)
        if overlay is not None:
            overlay.ids.read_rows(keys, overlay.rows, values)
        return values


def _laid_over(overlay: _Overlay | None, keys: pa.Array, values: Rows) -> _Overlay:
    """A copy of `overlay` in which `keys` have `values`. ValueError for a repeated or an empty key."""
    if overlay is None:
        return _Overlay(FrozenIds.of_unique(keys), read_only(values))
    at = overlay.ids.lookup(keys)
    new = at < 0
    held = overlay.ids.entry_capacity
    at[new] = np.arange(held, held + int(new.sum()))
    rows = np.empty((held + int(new.sum()), values.shape[1]), values.dtype)
    block = max(1, BLOCK_BYTES // values[:1].nbytes)
    for begin in range(0, held, block):
        rows[begin : min(begin + block, held)] = overlay.rows[begin : begin + block]
        rest()
    for begin in range(0, len(values), block):
        rows[at[begin : begin + block]] = values[begin : begin + block]
        rest()
    ids = overlay.ids
    if new.any():
        ids = FrozenIds.of_unique(pa.concat_arrays([ids.keys(), key_array(keys).filter(pa.array(new))]))
    return _Overlay(ids, read_only(rows))
