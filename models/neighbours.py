"""Item-to-item neighbours as they are published and served: an index keyed by trigger items.

A user is answered with the neighbours of their newest items: score(candidate) = sum over these triggers of
2^-(time before the newest trigger / half-life) * sim(trigger, candidate).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.arrays import BoolArray, Float32Array, Float64Array, Int32Array, Int64Array
from models.id_table import IdTable
from models.moments import Moments
from models.native import compiled
from models.neighbour_rows import NeighbourRows

_NO_KEYS = pa.array([], pa.string())


@compiled
def _search(
    trigger: Int64Array, weight: Float64Array, history_offsets: Int64Array, row_of: Int64Array,
    base_offsets: Int64Array, base_items: Int32Array, base_scores: Float32Array,
    late_offsets: Int64Array, late_items: Int32Array, late_scores: Float32Array,
    allowed: BoolArray, excluded: Int64Array, excluded_offsets: Int64Array,
    sums: Float64Array, touched: Int64Array, out_score: Float32Array, out_item: Int64Array,
) -> None:  # fmt: skip
    base_rows = len(base_offsets) - 1
    for n in range(len(out_item)):
        found = 0
        for at in range(history_offsets[n], history_offsets[n + 1]):
            row = row_of[trigger[at]] if trigger[at] >= 0 else -1
            if row < 0:
                continue
            if row < base_rows:
                begin, end, items, scores = base_offsets[row], base_offsets[row + 1], base_items, base_scores
            else:
                row -= base_rows
                begin, end, items, scores = late_offsets[row], late_offsets[row + 1], late_items, late_scores
            for place in range(begin, end):
                added = weight[at] * scores[place]
                if added > 0.0 and allowed[items[place]]:
                    if sums[items[place]] == 0.0:
                        touched[found] = items[place]
                        found += 1
                    sums[items[place]] += added
        for at in range(excluded_offsets[n], excluded_offsets[n + 1]):
            if excluded[at] >= 0:
                sums[excluded[at]] = 0.0
        candidates = np.sort(touched[:found])
        values = np.empty(found, np.float64)
        for place in range(found):
            values[place] = -sums[candidates[place]]
            sums[candidates[place]] = 0.0
        order = np.argsort(values, kind="mergesort")
        for place in range(min(found, out_item.shape[1])):
            if values[order[place]] < 0.0:
                out_score[n, place] = -values[order[place]]
                out_item[n, place] = candidates[order[place]]


@compiled
def _add_up(
    trigger: Int64Array, weight: Float64Array, history_offsets: Int64Array, row_of: Int64Array,
    base_offsets: Int64Array, base_items: Int32Array, base_scores: Float32Array,
    late_offsets: Int64Array, late_items: Int32Array, late_scores: Float32Array,
    sums: Float64Array,
) -> None:  # fmt: skip
    base_rows = len(base_offsets) - 1
    for n in range(len(sums)):
        for at in range(history_offsets[n], history_offsets[n + 1]):
            row = row_of[trigger[at]] if trigger[at] >= 0 else -1
            if row >= base_rows:
                row -= base_rows
                for place in range(late_offsets[row], late_offsets[row + 1]):
                    sums[n, late_items[place]] += weight[at] * late_scores[place]
            elif row >= 0:
                for place in range(base_offsets[row], base_offsets[row + 1]):
                    sums[n, base_items[place]] += weight[at] * base_scores[place]


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The index of one channel: the bundle's rows and, over them, those that came later. Nothing in here ever
    changes; with_rows() makes another one, which shares the bundle's rows.

    Positions of items are entries of one table of all triggers and neighbours. recency_half_life_ms: 0 = all
    triggers count alike.
    """

    recency_half_life_ms: float
    _ids: IdTable
    _row_of: Int64Array  # by entry: row in base, base rows + row in late, or -1
    _base: NeighbourRows  # neighbours here are entries, not positions in `items`
    _late: NeighbourRows
    _allowed: BoolArray | None = None  # by entry; None = all

    @classmethod
    def over(cls, rows: NeighbourRows, recency_half_life_ms: float) -> Neighbours:
        """An index of the rows of a bundle."""
        none = NeighbourRows.none()
        empty = cls(recency_half_life_ms, IdTable(), np.empty(0, np.int64), none, none)
        ids, row_of, rows = empty._entered(rows, 0)
        return replace(empty, _ids=ids, _row_of=row_of, _base=rows)

    def with_rows(self, rows: NeighbourRows) -> Neighbours:
        """The next index, in which the triggers of `rows` have these neighbours."""
        if not len(rows):
            return self
        replaced = pc.is_in(self._late.triggers, rows.triggers).to_numpy(zero_copy_only=False)
        kept = self._late.take(np.flatnonzero(~replaced))
        first = len(self._base) + len(kept)
        ids, row_of, added = self._entered(rows, first)
        row_of[ids.lookup(kept.triggers)] = len(self._base) + np.arange(len(kept))
        late = NeighbourRows(
            pa.concat_arrays([kept.triggers, added.triggers]),
            np.concatenate([kept.offsets, kept.offsets[-1] + added.offsets[1:]]),
            _NO_KEYS,
            np.concatenate([kept.neighbours, added.neighbours]),
            np.concatenate([kept.scores, added.scores]),
        )
        return replace(self, _ids=ids, _row_of=row_of, _late=late)

    def only(self, allowed: BoolArray) -> Neighbours:
        """The same index, that finds no item whose entry has `allowed` bool[entries of `ids`] False.

        It is for searching: rows are added to the one it came from.
        """
        return replace(self, _allowed=allowed)

    @property
    def ids(self) -> IdTable:
        """All items, triggers and neighbours; their positions are its entries. A view: do not write."""
        return self._ids

    def __len__(self) -> int:
        """Triggers that are known."""
        return int((self._row_of >= 0).sum())

    def lookup(self, keys: pa.Array) -> Int64Array:
        """Position of every item, int64[n]; -1 = neither trigger nor neighbour."""
        return self._ids.lookup(keys)

    def keys_of(self, positions: Int64Array) -> list[str]:
        """Keys of positions int64[n] (no -1 among them)."""
        keys: list[str] = self._ids.keys_of(positions).to_pylist()
        return keys

    def search(
        self, moments: Moments, k: int, excluded: Sequence[Int64Array] | None = None
    ) -> tuple[Float32Array, Int64Array]:
        """Best k items for the histories of N moments, each taken as given: (scores float32[N, k], positions
        int64[N, k]), best first; ties by position; -inf and -1 where there are no more.

        excluded: per moment the positions not to return (-1 among them is ignored).
        """
        n, entries = len(moments), self._ids.entry_capacity
        triggers = self._ids.lookup(moments.history_id)
        scores, positions = np.full((n, k), -np.inf, np.float32), np.full((n, k), -1, np.int64)
        left_out = [np.empty(0, np.int64)] * n if excluded is None else list(excluded)
        ends = np.zeros(n + 1, np.int64)
        np.cumsum([len(row) for row in left_out], out=ends[1:])
        _search(
            triggers, self._weights(moments), np.ascontiguousarray(moments.history_offsets, np.int64),
            self._row_of,
            self._base.offsets, self._base.neighbours, self._base.scores,
            self._late.offsets, self._late.neighbours, self._late.scores,
            np.ones(entries, bool) if self._allowed is None else self._allowed,
            np.concatenate([*left_out, np.empty(0, np.int64)]), ends,
            np.zeros(entries, np.float64), np.empty(entries, np.int64), scores, positions,
        )  # fmt: skip
        return scores, positions

    def dense_scores(self, moments: Moments, keys: pa.Array) -> Float32Array:
        """Scores of the items `keys` string[K] for N moments, float32[N, K]; 0 = no trigger leads to it."""
        triggers = self._ids.lookup(moments.history_id)
        scores = np.zeros((len(moments), self._ids.entry_capacity + 1), np.float64)
        _add_up(
            triggers, self._weights(moments), np.ascontiguousarray(moments.history_offsets, np.int64),
            self._row_of,
            self._base.offsets, self._base.neighbours, self._base.scores,
            self._late.offsets, self._late.neighbours, self._late.scores,
            scores,
        )  # fmt: skip
        chosen: Float32Array = scores[:, self._ids.lookup(keys)].astype(np.float32)  # -1: the last, always 0
        return chosen

    def similar(
        self, position: int, k: int, excluded: Int64Array | Sequence[int] = ()
    ) -> tuple[Float32Array, Int64Array]:
        """The first k neighbours of an item: scores float32[<= k] and positions int64[<= k]; excluded:
        positions not to return.
        """
        row = int(self._row_of[position])
        if row < 0:
            return np.empty(0, np.float32), np.empty(0, np.int64)
        rows, row = (self._base, row) if row < len(self._base) else (self._late, row - len(self._base))
        of = slice(int(rows.offsets[row]), int(rows.offsets[row + 1]))
        found = rows.neighbours[of].astype(np.int64)
        allowed = ~np.isin(found, np.asarray(excluded, np.int64))
        if self._allowed is not None:
            allowed &= self._allowed[found]
        places = np.flatnonzero(allowed)[:k]
        return rows.scores[of][places], found[places]

    def _weights(self, moments: Moments) -> Float64Array:
        """2^-(time before the moment's newest entry / half-life) of every history entry, float64[flat]."""
        ts, offsets = np.asarray(moments.history_ts_ms, np.int64), moments.history_offsets
        flat = int(offsets[-1])
        if self.recency_half_life_ms <= 0 or not flat:
            return np.ones(len(ts), np.float64)
        lengths = np.diff(offsets)
        newest = np.zeros(len(moments), np.int64)
        held = lengths > 0
        newest[held] = np.maximum.reduceat(ts[:flat], offsets[:-1][held])
        age = np.repeat(newest, lengths) - ts[:flat]
        weights: Float64Array = np.power(2.0, -age / self.recency_half_life_ms)
        return weights

    def _entered(self, rows: NeighbourRows, first: int) -> tuple[IdTable, Int64Array, NeighbourRows]:
        """A table that knows all items of `rows`, row numbers (theirs from `first` on), rows with entries."""
        ids = self._ids.copy()
        zeros = np.zeros(max(len(rows.triggers), len(rows.items)), np.int64)
        triggers = ids.observe(rows.triggers, zeros[: len(rows.triggers)])
        items = ids.observe(rows.items, zeros[: len(rows.items)])
        row_of = np.full(ids.entry_capacity, -1, np.int64)
        row_of[: len(self._row_of)] = self._row_of
        row_of[triggers] = first + np.arange(len(triggers))
        entries = items.astype(np.int32)[rows.neighbours] if len(items) else rows.neighbours
        own = replace(rows, items=_NO_KEYS, neighbours=entries)
        # Arrays of a file are read-only; compiled code takes both blocks of rows as one type.
        return ids, row_of, replace(own, offsets=np.array(rows.offsets), scores=np.array(rows.scores))
