"""Seen sets: what events add to them, and what is read of them. The store is stream/seen_store.py.

An exact set keeps the last time of every item. A Bloom filter is cut into generations, slices of the horizon
by event time: generation g lies in slot g mod `slots`, where a later one replaces it.

Neither needs the positions of the events: a maximum of times and a union of bits are the same however often
and in whatever order they are made, and so are the newest n times and the newest generation of a slot.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stream.bloom import held_by
from stream.seals import column
from stream.seen_config import SeenConfig

GENERATION_BYTES = 16
"""In front of a filter's bits in the store: which generation it is, in decimal digits."""


@dataclass(frozen=True)
class ExactSeen:
    """The items of one set with their last event times."""

    name: str
    config: SeenConfig
    last_ms: Mapping[str, int]

    def listed(self, ts_ms: int) -> set[str]:
        """Key texts of what is seen as of a moment."""
        if not self.config.horizon_ms:
            return set(self.last_ms)
        return {key for key, last_ms in self.last_ms.items() if last_ms >= ts_ms - self.config.horizon_ms}


@dataclass(frozen=True)
class BloomSeen:
    """The generations of one set: number -> bits."""

    name: str
    config: SeenConfig
    generations: Mapping[int, bytes]

    def holds(self, keys: Sequence[str], ts_ms: int) -> np.ndarray:
        """Whether items are seen as of a moment, bool[N]: all that are, and a few that are not."""
        oldest = (ts_ms - self.config.horizon_ms) // self.config.slice_ms
        filters = [bits for generation, bits in self.generations.items() if generation >= oldest]
        if not filters:
            return np.zeros(len(keys), bool)
        return held_by(filters, self.config.shape.places(pa.array(keys, pa.string())))


@dataclass(frozen=True)
class Added:
    """What a batch adds to one user's set. items, ts_ms: n of an exact set; bits: of the slot that holds
    one generation of a filter, as decimal texts.
    """

    user: str
    name: str
    items: Sequence[str] = ()
    ts_ms: Sequence[int] = ()
    generation: int = 0
    bits: Sequence[str] = ()


@dataclass(frozen=True)
class _Rows:
    """Events of one set: distinct users and items, and of each of n events its user, item (places among
    them, int64[n]) and time, int64[n] ms.
    """

    users: pa.Array
    items: pa.Array
    user: np.ndarray
    item: np.ndarray
    ts_ms: np.ndarray


def added(events: pa.RecordBatch | pa.Table, sets: Mapping[str, SeenConfig]) -> Iterator[Added]:
    """What events of EVENT_SCHEMA add to every set, by user."""
    events = events if isinstance(events, pa.Table) else pa.Table.from_batches([events])
    wanted = pa.array(sorted({kind for one in sets.values() for kind in one.kinds}), pa.string())
    events = events.select(["user_id", "item_id", "kind", "ts_ms"])
    events = events.filter(pc.and_(pc.is_in(events["kind"], wanted), pc.not_equal(events["item_id"], "")))
    if not events.num_rows:
        return
    users, items, kinds = (_encoded(events[name]) for name in ("user_id", "item_id", "kind"))
    ts_ms = column(events, "ts_ms")
    for name, config in sets.items():
        rows = np.flatnonzero(np.isin(kinds[1], np.flatnonzero(np.isin(kinds[0], config.kinds))))
        if len(rows):
            add = _exact if config.store == "exact" else _bloom
            of_set = _Rows(users[0], items[0], users[1][rows], items[1][rows], ts_ms[rows])
            yield from add(name, config, of_set)


def _encoded(values: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """Distinct values, and the place of every row's among them, int64[N]."""
    encoded = values.combine_chunks().dictionary_encode()
    return encoded.dictionary, encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _exact(name: str, config: SeenConfig, rows: _Rows) -> Iterator[Added]:
    user, item, ts_ms = rows.user, rows.item, rows.ts_ms
    order = np.lexsort([ts_ms, item, user])
    user, item, ts_ms = user[order], item[order], ts_ms[order]
    last = np.flatnonzero(np.append((np.diff(user) != 0) | (np.diff(item) != 0), True))
    user, item, ts_ms = user[last], item[last], ts_ms[last]
    keys, times = rows.items.take(pa.array(item)).to_pylist(), ts_ms.tolist()
    ends, names = _runs(user), rows.users.to_pylist()
    for begin, end in pairwise(ends):
        yield Added(names[user[begin]], name, keys[begin:end], times[begin:end])


def _bloom(name: str, config: SeenConfig, rows: _Rows) -> Iterator[Added]:
    user, item = rows.user, rows.item
    generation = rows.ts_ms // config.slice_ms
    order = np.lexsort([item, generation, user])
    user, generation, item = user[order], generation[order], item[order]
    first = np.append(True, (np.diff(user) != 0) | (np.diff(generation) != 0) | (np.diff(item) != 0))
    user, generation, item = user[first], generation[first], item[first]
    met, item = np.unique(item, return_inverse=True)
    places, hashes = config.shape.places(rows.items.take(pa.array(met))), config.shape.hashes
    texts = pa.array(places.ravel() + 8 * GENERATION_BYTES).cast(pa.string()).to_pylist()
    bits = np.array(texts, object).reshape(len(met), hashes)[item].ravel().tolist()
    ends, names = _runs(user, generation), rows.users.to_pylist()
    for begin, end in pairwise(ends):
        of = (names[user[begin]], name)
        yield Added(*of, generation=int(generation[begin]), bits=bits[begin * hashes : end * hashes])


def _runs(*columns: np.ndarray) -> list[int]:
    """Where runs of equal rows begin, and the end of the last."""
    differs = np.any([np.diff(values) != 0 for values in columns], axis=0)
    return [0, *(np.flatnonzero(differs) + 1).tolist(), len(columns[0])]


def seen_key(user_key: str, name: str, rule: str, slot: int | None = None) -> str:
    """Key of a user's set in the store, or of one slot of its filters. user_key: that of the profile; rule:
    of the set's configuration.
    """
    key = f"{user_key}:s:{name}:{rule}"
    return key if slot is None else f"{key}:{slot}"


def read_keys(user_key: str, sets: Sequence[tuple[str, SeenConfig]]) -> list[str]:
    """Every key of a user's sets, the exact ones of which come first."""
    keys: list[str] = []
    for name, config in sets:
        rule, slots = config.rule, (None,) if config.store == "exact" else range(config.slots)
        keys += [seen_key(user_key, name, rule, slot) for slot in slots]
    return keys


def read_sets(
    sets: Sequence[tuple[str, SeenConfig]],
    listed: Sequence[Sequence[str]],
    slots: bytes,
    lengths: Iterable[int],
) -> tuple[ExactSeen | BloomSeen, ...]:
    """What the store holds under read_keys(). listed: of every exact set item, time, ...; slots: those of all
    filters one after another, of so many bytes each, 0 = nothing.
    """
    seen: list[ExactSeen | BloomSeen] = []
    lists, ends = iter(listed), list(accumulate(lengths, initial=0))
    spans, cut = pairwise(ends), GENERATION_BYTES
    for name, config in sets:
        if config.store == "exact":
            own = next(lists)
            seen.append(ExactSeen(name, config, dict(zip(own[::2], map(int, own[1::2]), strict=True))))
        else:
            held = [slots[begin:end] for begin, end in islice(spans, config.slots) if end > begin]
            seen.append(BloomSeen(name, config, {int(one[:cut]): one[cut:] for one in held}))
    return tuple(seen)
