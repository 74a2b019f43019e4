"""Simulated events as columns: what a world answers, waits with, and hands out as a table of events."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.arrays import Float64Array, Int64Array

KINDS = ("impression", "click", "view", "long_view", "like", "purchase")
IMPRESSION, CLICK, VIEW, LONG_VIEW, LIKE, PURCHASE = range(len(KINDS))
SCENE = "feed"


@dataclass(frozen=True)
class Actions:
    """Columns [m]: moment, user and item numbers, place in KINDS, request (minute since 1970 UTC and row in
    it), place in the list, and value: watch time in ms of views, price of purchases, else NaN.
    """

    ts_ms: Int64Array
    user: Int64Array
    item: Int64Array
    kind: Int64Array
    minute: Int64Array
    row: Int64Array
    place: Int64Array
    value: Float64Array

    def __len__(self) -> int:
        return len(self.ts_ms)

    def where(self, chosen: np.ndarray) -> Actions:
        """The rows that a mask or an array of row numbers chooses."""
        return Actions(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def in_order(self) -> Actions:
        """By time; of one moment by request, place and kind, so that no order is left to chance."""
        return self.where(np.lexsort((self.kind, self.place, self.row, self.minute, self.ts_ms)))

    def table(self, seed: int) -> pa.Table:
        """The standard form (deploy/datasets.py) and event_id: seed, minute, row, place and kind, no draw."""
        requests = pc.binary_join_element_wise(f"s{seed}", _texts(self.minute), _texts(self.row), "-")
        kinds = pa.DictionaryArray.from_arrays(self.kind.astype(np.int8), list(KINDS)).cast(pa.string())
        return pa.table(
            {
                "ts_ms": self.ts_ms,
                "user_id": self.user + 1,
                "item_id": self.item + 1,
                "kind": kinds,
                "scene": pa.repeat(SCENE, len(self)),
                "request_id": requests,
                "value": pa.array(self.value, from_pandas=True),  # NaN is no value
                "event_id": pc.binary_join_element_wise(requests, _texts(self.place), kinds, "-"),
            }
        )


def joined(parts: list[Actions]) -> Actions:
    """All rows of some columns, one part after the other; no parts give no rows."""
    if not parts:
        empty = np.empty(0, np.int64)
        return Actions(empty, empty, empty, empty, empty, empty, empty, np.empty(0))
    names = [field.name for field in fields(Actions)]
    return Actions(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


class Pending:
    """Actions that are decided but have not happened yet, such as a purchase in two hours."""

    def __init__(self) -> None:
        self._waiting: list[Actions] = []

    def add(self, actions: Actions) -> None:
        """Keep until their time has come."""
        self._waiting.append(actions)

    def until(self, end_ms: int) -> Actions:
        """Take out, in order, what happens before `end_ms`."""
        everything = joined(self._waiting)
        due = everything.ts_ms < end_ms
        self._waiting = [everything.where(~due)]
        return everything.where(due).in_order()

    def __len__(self) -> int:
        return sum(map(len, self._waiting))


def _texts(numbers: Int64Array) -> pa.Array:
    return pa.array(numbers).cast(pa.string())
