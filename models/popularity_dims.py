"""The popularity counts of all items of one model: as targets and other events arrive, as of any moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from models.arrays import BoolArray, Float32Array, Int64Array, Tensors
from models.item_popularity import ItemPopularity
from models.popularity_config import PopularityConfig
from models.popularity_layout import PopularityLayout

Codes = Mapping[str, Int64Array]
"""`by` -> int64[N]: number of the row's value, -1 = none."""


class _Counter:
    """The counts that share kinds, `by`, values and floor, and differ in their half-lives only.

    places: which of the model's C counts they are. An item has one slot per value: item * values + code.
    """

    def __init__(self, counts: list[PopularityConfig], places: list[int]) -> None:
        self.first = counts[0]
        self.places = places
        self.values = self.first.width
        self.popularity = ItemPopularity([count.half_life_h for count in counts], self.first.floor)

    def slots(self, items: Int64Array, codes: Codes) -> Int64Array:
        """int64[N] slots of items with the rows' codes, -1 = not counted."""
        if not self.first.by:
            return items
        code = codes[self.first.by]
        counted = (items >= 0) & (code >= 0) & (code < self.values)
        return np.where(counted, items * self.values + code, -1)

    def all_slots(self, items: Int64Array) -> Int64Array:
        """int64[N, values] slots of items."""
        return items[:, None] * self.values + np.arange(self.values)


class PopularityDims:
    """C counts per item. positives: the kinds of counts that name none."""

    def __init__(self, counts: tuple[PopularityConfig, ...], positives: tuple[str, ...]) -> None:
        self.layout = PopularityLayout(counts)
        self.positives = positives
        groups: dict[tuple[object, ...], tuple[list[PopularityConfig], list[int]]] = {}
        for place, count in enumerate(counts):
            key = (count.kinds, count.by, count.values, count.floor)
            members, places = groups.setdefault(key, ([], []))
            members.append(count)
            places.append(place)
        self._counters = [_Counter(members, places) for members, places in groups.values()]
        self._changed: list[Int64Array] = []

    def __bool__(self) -> bool:
        return bool(self._counters)

    @property
    def kinds(self) -> frozenset[str]:
        """Kinds that are counted beside the positives."""
        return frozenset(kind for counter in self._counters for kind in counter.first.kinds)

    @property
    def by(self) -> frozenset[str]:
        """Features that counts are kept apart by."""
        return frozenset(counter.first.by for counter in self._counters if counter.first.by)

    @property
    def trimmed_ms(self) -> int:
        """Moments before this can no longer be asked for."""
        return max((counter.popularity.trimmed_ms for counter in self._counters), default=-(2**62))

    def observe(
        self,
        items: Int64Array,
        ts_ms: Int64Array,
        targets: BoolArray,
        of_kinds: Callable[[tuple[str, ...]], BoolArray],
        codes: Codes,
    ) -> None:
        """Count N events: item entries int64[N] at ts_ms int64[N]; targets: bool[N], the positives once per
        (request, item); of_kinds: which events are of given kinds.
        """
        for counter in self._counters:
            chosen = of_kinds(counter.first.kinds) if counter.first.kinds else targets
            at = np.flatnonzero(chosen)
            rows = {name: code[at] for name, code in codes.items()}
            self._changed.append(np.unique(items[at]))
            counter.popularity.observe(counter.slots(items[at], rows), ts_ms[at])

    def pairs(
        self, items: Int64Array, codes: Codes, as_of_ms: Int64Array, anchor_ms: Int64Array
    ) -> Float32Array:
        """Counts float32[N, C] of items int64[N], each with its row's codes, moment and frame."""
        found = np.empty((len(items), len(self.layout.counts)), np.float32)
        for counter in self._counters:
            slots = counter.slots(items, codes)
            found[:, counter.places] = counter.popularity.values_at(slots, as_of_ms, anchor_ms)
        return found

    def shared(
        self, items: Int64Array, codes: Codes, as_of_ms: Int64Array, anchor_ms: Int64Array
    ) -> Float32Array:
        """Counts float32[B, C, K] of items int64[K] that all B rows share; codes and moments int64[B].

        Rows of one moment and one value are looked up once.
        """
        b, k = len(as_of_ms), len(items)
        found = np.empty((b, len(self.layout.counts), k), np.float32)
        for counter in self._counters:
            code = codes[counter.first.by] if counter.first.by else np.zeros(b, np.int64)
            keys = np.stack([as_of_ms, code], axis=1)
            _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
            m = len(first)
            part = {counter.first.by: np.repeat(code[first], k)}
            slots = counter.slots(np.tile(items, m), part)
            values = counter.popularity.values_at(
                slots, np.repeat(as_of_ms[first], k), np.repeat(anchor_ms[first], k)
            )
            values_CMK = np.ascontiguousarray(values.reshape(m, k, -1).transpose(2, 0, 1))
            for place, values_MK in zip(counter.places, values_CMK, strict=True):
                found[:, place] = values_MK[inverse.reshape(-1)]
        return found

    def published(self, items: Int64Array, as_of_ms: int, anchor_ms: int) -> Float32Array:
        """The popularity part of item vectors float32[N, width]: every value's counts side by side."""
        found = np.empty((len(items), self.layout.width), np.float32)
        now, frame = np.array([as_of_ms], np.int64), np.array([anchor_ms], np.int64)
        for counter in self._counters:
            slots = counter.all_slots(items).ravel()
            shape = len(items), counter.values, len(counter.places)
            values = counter.popularity.values(slots, now, frame)[0].reshape(shape)
            for at, place in enumerate(counter.places):
                start = self.layout.starts[place]
                found[:, start : start + counter.values] = values[:, :, at]
        return found

    def take_changed(self) -> Int64Array:
        """int64[n] distinct items that were counted since the last call."""
        changed = np.unique(np.concatenate([np.empty(0, np.int64), *self._changed]))
        self._changed = []
        return changed[changed >= 0]

    def trim(self, as_of_ms: int) -> None:
        """Fold the events before as_of_ms; later moments read the same as before."""
        for counter in self._counters:
            counter.popularity.trim(as_of_ms)

    def drop_items(self, entries: Int64Array) -> None:
        """Forget removed items; their entries may be given to others."""
        for counter in self._counters:
            counter.popularity.drop_items(counter.all_slots(entries).ravel())

    def state(self) -> Tensors:
        """Everything restore() needs."""
        return {
            f"{place}.{name}": array
            for place, counter in enumerate(self._counters)
            for name, array in counter.popularity.state().items()
        }

    def restore(self, state: Tensors) -> None:
        """Take what state() described."""
        for place, counter in enumerate(self._counters):
            prefix = f"{place}."
            part = {name.removeprefix(prefix): a for name, a in state.items() if name.startswith(prefix)}
            counter.popularity = ItemPopularity.from_state(part)
