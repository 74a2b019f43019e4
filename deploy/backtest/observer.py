"""The moments of targets: one reader of all events, whose histories every strategy is asked with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deploy.backtest.targets import Targets
from models.arrays import Int64Array
from models.catalogue_columns import CatalogueColumns
from models.learner import Learner, Moments, Samples
from updater.state import Recipe

BLOCK, SMALL_BLOCK = 64, 8
"""Targets asked at once; the small one where an interval is at most _SHORT_MS and has few. All blocks
of a run have as many rows, the last one repeated: the last bit of a matrix product depends on its shape, and
an answer may not depend on how many targets follow."""
_SHORT_MS = 600_000


@dataclass(frozen=True)
class Block:
    """The targets of one interval, some at a time.

    rows: int64[n] target numbers; moments: by model, as many in every block, the first n are those of rows.
    """

    rows: Int64Array
    moments: dict[str, Moments]


class Observer:
    """Learners that only ever observe: they know what everybody did before each moment, and train nothing."""

    def __init__(self, recipe: Recipe, targets: Targets, interval_ms: int) -> None:
        self._targets = targets
        self._block = SMALL_BLOCK if interval_ms <= _SHORT_MS else BLOCK
        self._learners = {
            name: Learner.fresh(config, recipe.features) for name, config in recipe.models.items()
        }
        self._samples: dict[str, Samples] = {}
        self._places: dict[str, Int64Array] = {}
        self._rows = np.empty(0, np.int64)

    def observe(self, events: pa.Table, catalogue: CatalogueColumns) -> None:
        """Take in events without targets that will be asked."""
        for learner in self._learners.values():
            learner.observe(events, catalogue)

    def take(self, events: pa.Table, catalogue: CatalogueColumns, rows: Int64Array) -> None:
        """Take in events and find the samples of the targets `rows` (int64, ascending) among them."""
        self._rows = rows
        for name, learner in self._learners.items():
            samples = learner.prepare(events, catalogue)
            self._samples[name] = samples
            self._places[name] = self._found(name, learner, samples, rows)

    def blocks(self, rows: Int64Array) -> list[Block]:
        """Some of the rows given to take(), in blocks."""
        first = np.searchsorted(self._rows, rows)
        parts = [slice(at, at + self._block) for at in range(0, len(rows), self._block)]
        return [Block(rows[part], self._moments(first[part])) for part in parts]

    def _moments(self, at: Int64Array) -> dict[str, Moments]:
        full = np.concatenate([at, np.repeat(at[-1:], self._block - len(at))])
        return {
            name: learner.moments(self._samples[name], self._places[name][full])
            for name, learner in self._learners.items()
        }

    def _found(self, name: str, learner: Learner, samples: Samples, rows: Int64Array) -> Int64Array:
        """Place of each target among the samples, int64[n]."""
        targets = self._targets
        near = np.flatnonzero(np.isin(samples.ts_ms, targets.ts_ms[rows]))
        few = samples.take(near)
        users = pc.index_in(learner.moments(few).user_id, targets.user_keys).to_numpy(zero_copy_only=False)
        items = pc.index_in(learner.target_keys(few), targets.item_keys).to_numpy(zero_copy_only=False)
        sampled = _numbered(few.ts_ms, users, items).append_column("place", pa.array(near))
        # All targets of those instants, so that equal ones pair off in order.
        span = np.unique(targets.ts_ms[rows])
        same = np.flatnonzero(np.isin(targets.ts_ms, span))
        asked = _numbered(targets.ts_ms[same], targets.user[same], targets.item[same])
        asked = asked.append_column("row", pa.array(same))
        joined = asked.join(sampled, ["ts_ms", "user", "item", "occurrence"], join_type="inner")
        row, place = np.array(joined["row"], np.int64), np.array(joined["place"], np.int64)
        order = np.argsort(row)
        at = np.searchsorted(row[order], rows)
        lost = np.isin(rows, row, invert=True)
        if lost.any():
            raise RuntimeError(
                f"model {name}: expected a sample for target {rows[lost][0]}, got none; its positives "
                f"{learner.config.positives} must be the kinds that are targets"
            )
        return place[order][at]


def _numbered(ts_ms: Int64Array, user: np.ndarray, item: np.ndarray) -> pa.Table:
    """Rows with the number of equal ones before each."""
    columns = [np.asarray(ts_ms, np.int64), np.asarray(user, np.int64), np.asarray(item, np.int64)]
    order = np.lexsort(columns[::-1])
    begins = np.ones(len(order), bool)
    for column in columns:
        begins[1:] &= column[order][1:] == column[order][:-1]
    begins[1:] = ~begins[1:]
    places = np.arange(len(order))
    occurrence = np.empty(len(order), np.int64)
    occurrence[order] = places - np.maximum.accumulate(np.where(begins, places, 0))
    return pa.table({"ts_ms": columns[0], "user": columns[1], "item": columns[2], "occurrence": occurrence})
