"""A training step over written rows: negatives, histories and attributes come from the row, not from the
model's tables of now.
"""

from __future__ import annotations

import numpy as np

from models.arrays import Float32Array, Int32Array, Int64Array
from models.candidates import Candidates
from models.history import HistoryTable
from models.model_config import ModelConfig
from models.own_items import OwnItems
from models.pooling import history_bags
from models.prebatch import PrebatchedRows
from models.samples import Samples
from models.steps import ModelParts, Stepper, StepPlan


class PrebatchStepper(Stepper):
    """Steps over `rows` with the towers, losses and updates of every other step."""

    def __init__(self, parts: ModelParts, rows: PrebatchedRows) -> None:
        super().__init__(parts)
        self._rows = rows
        self._first, self._places = distinct_items(rows)

    def _drawn(
        self,
        batch: Samples,
        positions: Int64Array | slice,
        trues_BT: Int64Array,
        own: OwnItems | None,
        plan: StepPlan,
        number: int,
    ) -> Candidates:
        return written_candidates(self._parts.config, self._rows, self._first, self._places)

    def _read(self, history: HistoryTable, batch: Samples, length: int) -> tuple[Int32Array, Int32Array]:
        if self._rows.history.shape[1] != length:
            raise ValueError(
                f"prebatch: rows with histories of {self._rows.history.shape[1]} items, the model reads "
                f"{length}; produce the rows with this configuration"
            )
        return self._rows.history, self._rows.history_age_s

    def _bags(
        self, history: HistoryTable, batch: Samples, length: int
    ) -> tuple[Int64Array, Int64Array, Float32Array]:
        half_life = self._parts.config.history_half_life_days
        items, offsets, weights = history_bags(*self._read(history, batch, length), half_life)
        return self._parts.tables.ids["item"].rows(items), offsets, weights

    def _attributes(self, entries: Int64Array, plan: StepPlan) -> tuple[Int32Array, Float32Array]:
        categories, numbers = self._rows.item_categories, self._rows.item_numbers
        return (
            categories.reshape(-1, categories.shape[2])[self._first],
            self._parts.item_features.standardised(numbers.reshape(-1, numbers.shape[2])[self._first]),
        )


def distinct_items(rows: PrebatchedRows) -> tuple[Int64Array, Int64Array]:
    """The items of B rows, once each, so that a tower encodes what is drawn often once: (first int64[U] place
    of each in the flat items, places int64[B, 1 + n] of the rows' items among the U).

    An item whose attributes differ between two rows, as they may have changed, is there once for each.
    """
    items = rows.items
    attributes = [
        np.ascontiguousarray(held).view(np.int32).reshape(items.size, held.shape[2])
        for held in (rows.item_categories, rows.item_numbers)
    ]
    joined = np.concatenate([items.reshape(-1, 1).astype(np.int32), *attributes], axis=1)
    as_one = joined.view(np.dtype((np.void, joined.shape[1] * joined.itemsize))).ravel()
    _, first, places = np.unique(as_one, return_index=True, return_inverse=True)
    return first, places.reshape(items.shape)


def written_candidates(
    config: ModelConfig, rows: PrebatchedRows, first: Int64Array, places: Int64Array
) -> Candidates:
    """The candidates that written rows name; first, places: their distinct_items()."""
    items = rows.items
    b, n = items.shape
    correct = config.logq and config.loss in ("softmax", "nce")
    log_expected = rows.log_expected if correct else np.zeros((b, n), np.float32)
    return Candidates(
        entries=items.ravel()[first],
        positive=places[:, :1],
        known=np.ones((b, 1), np.bool_),
        shared=np.empty(0, np.int64),
        shared_hit=np.empty((b, 0), np.bool_),
        rows=places[:, 1:],
        rows_hit=items[:, 1:] == items[:, :1],
        log_expected_positive=log_expected[:, :1],
        log_expected_shared=np.empty(0, np.float32),
        log_expected_rows=log_expected[:, 1:],
        own=None,
        own_positive=np.full((b, 1), -1, np.int64),
        own_rows=np.full((b, n - 1), -1, np.int64),
    )
