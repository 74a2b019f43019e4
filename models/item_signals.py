"""What is known of an item at a moment, whoever asks: how often it was taken and shown of late, and its age.

Counts move on with every interval; values are as of any moment since the last trim. A pre-rank network reads
them beside what the channels say (models/prerank.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.arrays import Float32Array, Int64Array, Tensors
from models.artifact import pack_keys, unpack_keys
from models.id_table import IdTable
from models.item_popularity import ItemPopularity
from models.reject_events import REJECT

HALF_LIVES_H = (1.0, 6.0, 24.0, 168.0)
SIGNALS = 2 * len(HALF_LIVES_H) + 1
"""S: counts of positives, counts of all other events (exposures mostly), and the age."""
_PARTS = ("taken", "shown")
_HOUR_MS = 3_600_000


class ItemSignals:
    """Signals of all items that had an event. positives: the kinds that say an item was taken; every other
    kind but rejects says that it was shown.
    """

    def __init__(self, positives: tuple[str, ...]) -> None:
        self.positives = positives
        self._ids = IdTable()
        self._counts = {part: ItemPopularity(HALF_LIVES_H, floor=1.0) for part in _PARTS}
        self._first_ms = np.empty(0, np.int64)

    def observe(self, events: pa.Table) -> None:
        """Count events (columns item_id, kind, ts_ms of EVENT_SCHEMA); late ones count by their age."""
        kinds = events["kind"].combine_chunks()
        told = pc.and_(pc.not_equal(events["item_id"], ""), pc.not_equal(kinds, REJECT))
        events = events.filter(told)
        if not len(events):
            return
        ts_ms = np.array(events["ts_ms"], np.int64)
        entries = self._ids.observe(events["item_id"].combine_chunks(), ts_ms)
        taken = np.array(pc.is_in(events["kind"], pa.array(self.positives, pa.string())))
        for part, counted in zip(_PARTS, (taken, ~taken), strict=True):
            self._counts[part].observe(entries[counted], ts_ms[counted])
        grown = np.full(self._ids.entry_capacity, np.iinfo(np.int64).max)
        grown[: len(self._first_ms)] = self._first_ms
        np.minimum.at(grown, entries, ts_ms)
        self._first_ms = grown

    def values(self, keys: pa.Array, as_of_ms: Int64Array) -> Float32Array:
        """float32[N, S] of items string[N] at moments int64[N]: events before the moment only.

        log(1 + decayed count) by part and half-life, then log(1 + hours since the first event); all 0 for an
        item without one. ValueError for a moment before the last trim().
        """
        return self.values_of(self.entries(keys), as_of_ms)

    def entries(self, keys: pa.Array) -> Int64Array:
        """int64[N] of items string[N], -1 = no event yet; good until expire()."""
        return self._ids.lookup(keys)

    def values_of(self, entries: Int64Array, as_of_ms: Int64Array) -> Float32Array:
        """values() of entries int64[N]."""
        as_of_ms = np.ascontiguousarray(as_of_ms, np.int64)
        values = np.zeros((len(entries), SIGNALS), np.float32)
        width = len(HALF_LIVES_H)
        for at, part in enumerate(_PARTS):
            values[:, at * width : (at + 1) * width] = self._counts[part].values_at(
                entries, as_of_ms, as_of_ms
            )
        known = np.flatnonzero(entries >= 0)
        age_ms = as_of_ms[known] - self._first_ms[entries[known]]
        values[known, -1] = np.log1p(np.maximum(age_ms, 0) / _HOUR_MS)
        return values

    def trim(self, as_of_ms: int) -> None:
        """Fold what came before; moments from as_of_ms on read the same as before."""
        for counts in self._counts.values():
            counts.trim(as_of_ms)

    def expire(self, before_ms: int) -> None:
        """Forget items whose newest event is older; seen again they are new."""
        _, entries, _ = self._ids.expire(before_ms)
        for counts in self._counts.values():
            counts.drop_items(entries)
        self._first_ms[entries] = np.iinfo(np.int64).max

    def listed(self, as_of_ms: int, most: int) -> SignalList:
        """Signals as of now, of the `most` items with the newest events at least."""
        entries = self._ids.live_entries()
        if len(entries) > most:
            newest = np.argsort(-self._ids.last_seen_ms(entries), kind="stable")[:most]
            entries = np.sort(entries[newest])
        keys = self._ids.keys_of(entries)
        return SignalList(keys, self.values(keys, np.full(len(keys), as_of_ms)))

    def state(self) -> Tensors:
        """Everything from_state() needs."""
        kinds = np.frombuffer("\n".join(self.positives).encode(), np.uint8)
        parts = {f"{part}.{name}": t for part in _PARTS for name, t in self._counts[part].state().items()}
        ids = {f"ids.{name}": tensor for name, tensor in self._ids.state().items()}
        return {**parts, **ids, "first_ms": self._first_ms.copy(), "positives": kinds.copy()}

    @classmethod
    def from_state(cls, state: Tensors) -> ItemSignals:
        """The signals that state() described."""
        kinds = np.asarray(state["positives"], np.uint8).tobytes().decode()
        signals = cls(tuple(kinds.split("\n")) if kinds else ())
        signals._ids = IdTable.from_state(_part(state, "ids"))
        signals._counts = {part: ItemPopularity.from_state(_part(state, part)) for part in _PARTS}
        signals._first_ms = np.array(state["first_ms"], np.int64)
        return signals


@dataclass(frozen=True)
class SignalList:
    """Signals as published: keys string[n], values float32[n, S]."""

    keys: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    values: Float32Array = field(default_factory=lambda: np.empty((0, SIGNALS), np.float32))

    def tensors(self, prefix: str = "") -> Tensors:
        """As stored: `<prefix>keys.bytes`, `<prefix>keys.offsets`, `<prefix>values`."""
        keys = {f"{prefix}keys.{part}": array for part, array in pack_keys(self.keys).items()}
        return {**keys, f"{prefix}values": self.values}

    @classmethod
    def from_tensors(cls, tensors: Tensors, prefix: str = "") -> SignalList:
        """The inverse of tensors(). ValueError where the parts do not fit together."""
        keys, values = unpack_keys(tensors, f"{prefix}keys."), np.asarray(tensors[f"{prefix}values"])
        if values.shape != (len(keys), SIGNALS) or not np.isfinite(values).all():
            raise ValueError(
                f"signals: expected finite float32[{len(keys)}, {SIGNALS}], got {list(values.shape)}"
            )
        return cls(keys, values.astype(np.float32))


def _part(state: Tensors, part: str) -> Tensors:
    prefix = f"{part}."
    return {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
