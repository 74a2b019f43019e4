"""Popularity dims of items: log of time-decayed counts as of any moment, in a frame many moments share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.arrays import BoolArray, Float32Array, Float64Array, Int64Array, Tensors
from models.entry_lists import EntryLists, end_before
from models.native import compiled

_NEVER_MS = -(2**62)
_HOUR_MS = 3_600_000.0


@compiled
def _observe(
    entry: Int64Array,
    ts: Int64Array,
    decay_per_ms: Float64Array,
    folded: BoolArray,
    starts: Int64Array,
    lengths: Int64Array,
    times: Int64Array,
    scores: Float64Array,
) -> None:
    """Merge events, sorted by (entry, ts), into their items' lists and bring the scores up to date."""
    begin = 0
    while begin < len(entry):
        item = entry[begin]
        end = begin
        while end < len(entry) and entry[end] == item:
            end += 1
        start = starts[item]
        raised = False
        if folded[item]:  # what is older than the folded score only raises it
            raised = ts[begin] <= times[start]
            while begin < end and ts[begin] <= times[start]:
                for p in range(len(decay_per_ms)):
                    scores[start, p] += np.exp(-decay_per_ms[p] * (times[start] - ts[begin]))
                begin += 1
        old, new = start + lengths[item] - 1, end - 1
        lengths[item] += end - begin
        place = start + lengths[item] - 1
        while new >= begin:  # merge from the back
            if old >= start and times[old] > ts[new]:
                times[place] = times[old]
                old -= 1
            else:
                times[place] = ts[new]
                new -= 1
            place -= 1
        for at in range(start + 1 if raised else place + 1, start + lengths[item]):
            for p in range(len(decay_per_ms)):
                scores[at, p] = 1.0
                if at > start:
                    scores[at, p] += scores[at - 1, p] * np.exp(
                        -decay_per_ms[p] * (times[at] - times[at - 1])
                    )
        begin = end


@compiled
def _values(
    item: Int64Array,
    as_of: Int64Array,
    anchor: Int64Array,
    decay_per_ms: Float64Array,
    log_floor: float,
    starts: Int64Array,
    lengths: Int64Array,
    times: Int64Array,
    scores: Float64Array,
    values: Float32Array,
) -> None:
    """values[i] = the dims of item i at its moment, left as they are where there is no event."""
    for i in range(len(item)):
        if item[i] < 0 or item[i] >= len(lengths):
            continue
        start = starts[item[i]]
        last = end_before(times, start, start + lengths[item[i]], as_of[i]) - 1
        if last < start:
            continue
        for p in range(len(decay_per_ms)):
            # log(1 + exp(x)) without overflow: an anchor may lie many half-lives from the event
            x = np.log(scores[last, p]) + decay_per_ms[p] * (times[last] - anchor[i]) - log_floor
            values[i, p] = max(x, 0.0) + np.log1p(np.exp(-abs(x)))


@compiled
def _fold(
    as_of: int,
    starts: Int64Array,
    lengths: Int64Array,
    times: Int64Array,
    folded: BoolArray,
    kept: Int64Array,
) -> None:
    """kept[i] = entries from the last one before as_of on; it stands for the ones before it."""
    for item in range(len(lengths)):
        end = starts[item] + lengths[item]
        last = end_before(times, starts[item], end, as_of) - 1
        if last >= starts[item]:
            folded[item] = True
            kept[item] = end - last
        else:
            kept[item] = lengths[item]


class ItemPopularity:
    """Sums over an item's events of 2^-(age / half-life), readable as of any moment since the last trim().

    half_lives_h: P half-lives in hours; floor: the decayed count at which an item begins to count as popular
    (1 + S / floor is what the log is taken of). ValueError unless all are above 0. Every event of an item
    keeps its time and the decayed count right after it, s_j = 1 + s_(j-1) 2^-(gap / half-life), so a moment
    costs one binary search.
    """

    def __init__(self, half_lives_h: Sequence[float], floor: float) -> None:
        if min((floor, *half_lives_h)) <= 0:
            raise ValueError(
                f"item popularity: half-lives and floor must be above 0, got {[*half_lives_h]} h and {floor}"
            )
        self.half_lives_h = tuple(float(hours) for hours in half_lives_h)
        self.floor = float(floor)
        self.trimmed_ms = _NEVER_MS
        self._decay_per_ms = np.log(2.0) / (np.array(self.half_lives_h, np.float64) * _HOUR_MS)
        # scores[j] = decayed counts right after event j, the item's earlier events included
        self._lists = EntryLists(
            ts_ms=np.empty(0, np.int64), scores=np.empty((0, len(self.half_lives_h)), np.float64)
        )
        # Whether the first place of a list stands for everything up to it.
        self._folded: BoolArray = np.zeros(0, np.bool_)

    def observe(self, items: Int64Array, ts_ms: Int64Array) -> None:
        """Count events: item entries int64[N] (-1 = ignored) at ts_ms int64[N], in any order, also late."""
        entry, ts_ms = np.ascontiguousarray(items, np.int64), np.ascontiguousarray(ts_ms, np.int64)
        if len(entry) and entry.min() < 0:
            known = entry >= 0
            entry, ts_ms = entry[known], ts_ms[known]
        order = np.lexsort((ts_ms, entry))
        self._lists.make_room(entry)
        self._add_folded()
        columns = self._lists.columns
        _observe(
            entry[order], ts_ms[order], self._decay_per_ms, self._folded,
            self._lists.starts, self._lists.lengths, columns["ts_ms"], columns["scores"],
        )  # fmt: skip

    def values(self, items: Int64Array, as_of_ms: Int64Array, anchor_ms: Int64Array) -> Float32Array:
        """Popularity dims of items int64[K] at moments as_of_ms int64[T], float32[T, K, P].

        log(1 + S(i, as_of) * 2^((as_of - anchor) / half_life) / floor), where S sums 2^-((as_of - ts) /
        half_life) over the item's events with ts < as_of; anchor_ms int64[T]. Between two anchors only items
        with new events change; for S >> floor another anchor shifts all of them alike, which no ranking
        notices. 0 for unknown items (also -1). Reads only. ValueError for a moment before the last trim().
        """
        self._refuse_folded(as_of_ms)
        t, k = len(as_of_ms), len(items)
        pairs = self.values_at(np.tile(items, t), np.repeat(as_of_ms, k), np.repeat(anchor_ms, k))
        return pairs.reshape(t, k, len(self.half_lives_h))

    def values_at(self, items: Int64Array, as_of_ms: Int64Array, anchor_ms: Int64Array) -> Float32Array:
        """values() of N pairs: items, as_of_ms, anchor_ms int64[N] -> float32[N, P]."""
        self._refuse_folded(as_of_ms)
        values = np.zeros((len(items), len(self.half_lives_h)), np.float32)
        columns = self._lists.columns
        _values(
            np.ascontiguousarray(items, np.int64), np.ascontiguousarray(as_of_ms, np.int64),
            np.ascontiguousarray(anchor_ms, np.int64), self._decay_per_ms, float(np.log(self.floor)),
            self._lists.starts, self._lists.lengths, columns["ts_ms"], columns["scores"], values,
        )  # fmt: skip
        return values

    def _refuse_folded(self, as_of_ms: Int64Array) -> None:
        if len(as_of_ms) and np.min(as_of_ms) < self.trimmed_ms:
            raise ValueError(
                f"item popularity: asked as of {np.min(as_of_ms)} ms, but events before {self.trimmed_ms} ms "
                "have been folded by trim(); read before trimming, or trim up to the oldest moment needed"
            )

    def trim(self, as_of_ms: int) -> None:
        """Fold every item's events before as_of_ms into one score; later moments read the same as before."""
        if as_of_ms <= self.trimmed_ms:
            return
        lists, times = self._lists, self._lists.columns["ts_ms"]
        kept = np.empty(lists.owners, np.int64)
        _fold(as_of_ms, lists.starts, lists.lengths, times, self._folded, kept)
        lists.keep_newest(kept)
        self.trimmed_ms = as_of_ms

    def drop_items(self, entries: Int64Array) -> None:
        """Forget the events of removed items; their entries may be given to others."""
        self._lists.clear(entries)
        self._folded[entries[entries < len(self._folded)]] = False

    def state(self) -> Tensors:
        """Everything from_state() needs: a function of the events and trims."""
        return {
            "half_lives_h": np.array(self.half_lives_h, np.float64),
            "floor": np.array([self.floor], np.float64),
            "trimmed_ms": np.array([self.trimmed_ms], np.int64),
            "folded": self._folded.copy(),
            "lengths": self._lists.lengths.copy(),
        } | self._lists.flat()

    @classmethod
    def from_state(cls, state: Tensors) -> ItemPopularity:
        """The counts that state() described."""
        popularity = cls(state["half_lives_h"].tolist(), float(state["floor"][0]))
        popularity.trimmed_ms = int(state["trimmed_ms"][0])
        popularity._folded = np.array(state["folded"], np.bool_)
        columns = {name: np.asarray(state[name]) for name in ("ts_ms", "scores")}
        popularity._lists = EntryLists.from_flat(state["lengths"], **columns)
        return popularity

    def _add_folded(self) -> None:
        more = self._lists.owners - len(self._folded)
        if more:
            self._folded = np.concatenate([self._folded, np.zeros(more, np.bool_)])
