"""The items of a user's own history as candidates: what they are, their features, drawing among them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from models.arrays import BoolArray, Float32Array, Index, Int32Array, Int64Array
from models.key_bytes import key_array
from models.moments import Moments
from models.native import compiled

OWN_FEATURES = 8
"""Width of own_features()."""
_MINUTE_H = 1.0 / 60.0
_WEEK = float(np.log1p(168.0))


@dataclass(frozen=True)
class OwnItems:
    """The distinct items of N histories as of their moments, lists back to back (CSR).

    offsets: int64[N+1]; item: int32[n] entries, within a row by their last time, newest first;
    count: float32[n] how often the item is in the history; last_age_s, first_age_s: float32[n] whole seconds
    from its newest and oldest entry to the moment.
    """

    offsets: Int64Array
    item: Int32Array
    count: Float32Array
    last_age_s: Float32Array
    first_age_s: Float32Array

    def __len__(self) -> int:
        return len(self.offsets) - 1


@compiled
def _slot(item: Index, mask: Index) -> Index:
    """Where the search for an item begins (Fibonacci hashing)."""
    return ((item * 2654435769) >> 15) & mask


@compiled
def _distinct(
    offsets: Int64Array,
    code: Int32Array,
    ts: Int64Array,
    moment: Int64Array,
    length: int,
    slots: Int64Array,
    own_offsets: Int64Array,
    item: Int32Array,
    count: Float32Array,
    last_age_s: Float32Array,
    first_age_s: Float32Array,
) -> None:
    mask = len(slots) - 1
    n = 0
    for row in range(len(offsets) - 1):
        begin = n
        for at in range(offsets[row + 1] - 1, max(offsets[row], offsets[row + 1] - length) - 1, -1):
            if code[at] < 0:
                continue
            slot = _slot(code[at], mask)
            # A slot holds a place in `item`; places of earlier rows count as empty, so nothing is cleared.
            while begin <= slots[slot] < n and item[slots[slot]] != code[at]:
                slot = (slot + 1) & mask
            place = slots[slot]
            age = max((moment[row] - ts[at]) // 1000, 0)
            if not begin <= place < n:
                place = slots[slot] = n
                item[n], count[n], last_age_s[n], first_age_s[n] = code[at], 0.0, age, age
                n += 1
            count[place] += 1.0
            last_age_s[place] = min(last_age_s[place], age)
            first_age_s[place] = max(first_age_s[place], age)
        own_offsets[row + 1] = n


def own_of_lists(
    offsets: Int64Array, code: Int32Array, ts_ms: Int64Array, moment_ms: Int64Array, length: int | None = None
) -> OwnItems:
    """The distinct items of N given histories.

    offsets: int64[N+1] into code int32[n] (item codes, -1 = skipped) and ts_ms int64[n], newest last;
    moment_ms: int64[N]. Every entry counts, whatever its time (ages below 0 are 0): what was before the
    moment is the caller's choice. length: only the newest so many entries of every list (None: all).
    """
    offsets = np.ascontiguousarray(offsets, np.int64)
    total = int(offsets[-1])
    longest = int(np.diff(offsets).max()) if len(offsets) > 1 else 0
    longest = longest if length is None else min(longest, length)
    own_offsets = np.zeros(len(offsets), np.int64)
    item, count = np.empty(total, np.int32), np.empty(total, np.float32)
    last_age_s, first_age_s = np.empty(total, np.float32), np.empty(total, np.float32)
    slots = np.full(_slots_for(longest), -1, np.int64)
    _distinct(
        offsets,
        np.ascontiguousarray(code, np.int32),
        np.ascontiguousarray(ts_ms, np.int64),
        np.ascontiguousarray(moment_ms, np.int64),
        longest, slots, own_offsets, item, count, last_age_s, first_age_s,
    )  # fmt: skip
    n = int(own_offsets[-1])
    return OwnItems(own_offsets, item[:n], count[:n], last_age_s[:n], first_age_s[:n])


def own_of_moments(moments: Moments, length: int) -> tuple[OwnItems, pa.StringArray]:
    """The own items of moments, by the newest `length` entries of their histories, and the key of each."""
    codes = key_array(moments.history_id).dictionary_encode()
    own = own_of_lists(
        moments.history_offsets,
        codes.indices.to_numpy(zero_copy_only=False).astype(np.int32),
        moments.history_ts_ms,
        moments.ts_ms,
        length,
    )
    return own, codes.dictionary.take(pa.array(own.item))


def _slots_for(entries: int) -> int:
    """Power of two with at least twice as many slots as entries."""
    return 1 << max(2 * entries - 1, 1).bit_length()


@compiled
def _features(
    places: Int64Array,
    offsets: Int64Array,
    count: Float32Array,
    last_age_s: Float32Array,
    first_age_s: Float32Array,
    minute_h: float,
    week: float,
    features: Float32Array,
) -> None:
    row, total = -1, 0.0
    for n in range(len(places)):
        at = places[n]
        if row < 0 or not offsets[row] <= at < offsets[row + 1]:
            row, total = np.searchsorted(offsets, at, side="right") - 1, 0.0
            for other in range(offsets[row], offsets[row + 1]):
                total += count[other]
        last_h, first_h = np.float64(last_age_s[at]) / 3600.0, np.float64(first_age_s[at]) / 3600.0
        features[n, 0] = np.log1p(np.float64(count[at])) / np.log(10.0)
        features[n, 1] = np.log1p(last_h) / week
        features[n, 2] = np.log1p(first_h) / week
        features[n, 3] = features[n, 4] = 0.0
        if count[at] > 1.0:
            gap_h = (first_h - last_h) / (count[at] - 1.0)
            features[n, 3] = np.log1p(gap_h) / week
            due = np.log((last_h + minute_h) / (gap_h + minute_h))
            features[n, 4] = min(max(due, -8.0), 8.0) / 4.0
        features[n, 5] = 1.0 if count[at] == 1.0 else 0.0
        features[n, 6] = count[at] / total
        features[n, 7] = 1.0 / np.sqrt(1.0 + at - offsets[row])


def own_features(own: OwnItems, places: Int64Array | None = None) -> Float32Array:
    """What makes an own item be chosen again: float32[n, OWN_FEATURES], finite, of the order of one.

    places: int64[n] into the lists of `own` (None: all of them, in order).
    0 log10(1 + count); 1, 2 log(1 + hours) since the last and the first time, a week = 1; 3 the same of the
    mean gap (0 for count 1); 4 log of time since the last one to mean gap, both at least a minute, divided by
    4 and within -2 .. 2 (0 for count 1; above 0 = overdue); 5 count == 1; 6 share of the history's entries;
    7 1 / sqrt(1 + distinct items since).
    """
    if places is None:
        places = np.arange(len(own.item))
    features = np.empty((len(places), OWN_FEATURES), np.float32)
    _features(
        np.ascontiguousarray(places, np.int64),
        own.offsets, own.count, own.last_age_s, own.first_age_s, _MINUTE_H, _WEEK, features,
    )  # fmt: skip
    return features


@compiled
def _uniform(key: Index, salt: int, place: Index) -> float:
    """[0, 1), a pure function of its arguments: splitmix64's finaliser over each in turn."""
    x = np.uint64(0)
    for part in (key, salt, place):
        x = (x ^ np.uint64(part)) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return np.float64(x >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@compiled
def _sampled(
    offsets: Int64Array,
    item: Int32Array,
    exclude: Int32Array,
    keys: Int64Array,
    salt: int,
    items: Int32Array,
    places: Int64Array,
    expected: Float32Array,
) -> None:
    n = items.shape[1]
    for row in range(len(offsets) - 1):
        left = 0
        for at in range(offsets[row], offsets[row + 1]):
            left += item[at] != exclude[row]
        expected[row] = min(1.0, n / left) if left > 0 else 1.0
        drawn = 0
        for at in range(offsets[row], offsets[row + 1]):
            if drawn == n:
                break
            if item[at] == exclude[row]:
                continue
            if _uniform(keys[row], salt, at - offsets[row]) * left < n - drawn:
                items[row, drawn], places[row, drawn] = item[at], at
                drawn += 1
            left -= 1


def sampled_own(
    own: OwnItems, exclude: Int32Array, n: int, keys: Int64Array, salt: int
) -> tuple[Int32Array, Int64Array, Float32Array]:
    """Up to n own items of every row, drawn without replacement, every subset equally likely.

    exclude: int32[N] the row's target, never drawn; keys: int64[N] and salt decide the draw.
    Returns items int32[N, n] (own order, -1 = none, at the end), their places int64[N, n] in own.item
    (-1 = none) and expected float32[N] = min(1, n / own items without the target), 1 where there are none.
    Selection sampling: Knuth, TAOCP vol. 2, 3.4.2, algorithm S.
    """
    items = np.full((len(own), n), -1, np.int32)
    places = np.full((len(own), n), -1, np.int64)
    expected = np.empty(len(own), np.float32)
    _sampled(
        own.offsets,
        own.item,
        np.ascontiguousarray(exclude, np.int32),
        np.ascontiguousarray(keys, np.int64),
        salt, items, places, expected,
    )  # fmt: skip
    return items, places, expected


@compiled
def _hits(
    offsets: Int64Array,
    item: Int32Array,
    candidates: Int64Array,
    slots: Int64Array,
    following: Int64Array,
    hits: BoolArray,
) -> None:
    mask = len(slots) - 1
    for k in range(len(candidates)):  # slots: the newest place of a candidate; following: its earlier ones
        slot = _slot(candidates[k], mask)
        while slots[slot] >= 0 and candidates[slots[slot]] != candidates[k]:
            slot = (slot + 1) & mask
        following[k] = slots[slot]
        slots[slot] = k
    for row in range(len(offsets) - 1):
        for at in range(offsets[row], offsets[row + 1]):
            slot = _slot(np.int64(item[at]), mask)
            while slots[slot] >= 0 and candidates[slots[slot]] != item[at]:
                slot = (slot + 1) & mask
            k = slots[slot]
            while k >= 0:
                hits[row, k] = True
                k = following[k]


def own_hits(own: OwnItems, items: Int64Array) -> BoolArray:
    """Whether shared candidate items[k] (int64[K], repeats allowed) is an own item of row n: bool[N, K]."""
    hits = np.zeros((len(own), len(items)), np.bool_)
    slots = np.full(_slots_for(len(items)), -1, np.int64)
    following = np.empty(len(items), np.int64)
    _hits(own.offsets, own.item, np.ascontiguousarray(items, np.int64), slots, following, hits)
    return hits


@compiled
def _place_of(offsets: Int64Array, item: Int32Array, wanted: Int32Array, places: Int64Array) -> None:
    for row in range(len(offsets) - 1):
        for at in range(offsets[row], offsets[row + 1]):
            if item[at] == wanted[row]:
                places[row] = at
                break


def place_of(own: OwnItems, item: Int32Array) -> Int64Array:
    """Place in own.item (so also in own_features) of item[n] among row n's own items, int64[N]; -1 = none."""
    places = np.full(len(own), -1, np.int64)
    _place_of(own.offsets, own.item, np.ascontiguousarray(item, np.int32), places)
    return places
