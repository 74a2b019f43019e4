"""A user's history as the store packed it (stream/profiles.py): its entries become objects when they are
asked for, and a model's input without that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import overload

import numpy as np

from models.arrays import Int32Array, Int64Array, UInt8Array
from models.frozen_ids import read_only
from models.key_bytes import keys_from_buffers
from models.moments import HistoryLists
from models.packed_entries import ITEM, KIND, REQUEST, newest_entries, read_entries
from stream.profiles import PLACE_BYTES, HistoryEntry, history_entries

_LEAST_BYTES = PLACE_BYTES + len('["","",""]')


class PackedHistory(Sequence[HistoryEntry]):
    """Recent events, oldest first; read-only."""

    def __init__(self, packed: UInt8Array, spans: Int32Array, ts_ms: Int64Array) -> None:
        """As models.packed_entries reads them: packed uint8[…], spans int32[n, 6], ts_ms int64[n]."""
        self._packed, self._spans, self._ts_ms = packed, spans, ts_ms

    @property
    def columns(self) -> tuple[UInt8Array, Int32Array, Int64Array]:
        """What it was made of."""
        return self._packed, self._spans, self._ts_ms

    def __len__(self) -> int:
        return len(self._ts_ms)

    @overload
    def __getitem__(self, at: int) -> HistoryEntry: ...
    @overload
    def __getitem__(self, at: slice) -> list[HistoryEntry]: ...
    def __getitem__(self, at: int | slice) -> HistoryEntry | list[HistoryEntry]:
        if isinstance(at, slice):
            return self._entries[at]
        spans = self._spans[at].tolist()
        item, kind, request = (
            self._packed[spans[column] : spans[column + 1]].tobytes().decode()
            for column in (ITEM, KIND, REQUEST)
        )
        return HistoryEntry(item, kind, int(self._ts_ms[at]), request)

    def __iter__(self) -> Iterator[HistoryEntry]:
        return iter(self._entries)

    def __eq__(self, other: object) -> bool:
        """Equal to any sequence of the same entries."""
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    @cached_property
    def _entries(self) -> list[HistoryEntry]:
        return [self[at] for at in range(len(self))]


def newest_of_each(
    histories: Sequence[PackedHistory], kinds: Sequence[str], length: int, ts_ms: Sequence[int]
) -> HistoryLists:
    """What serving/channels/moment.py reads of lists of entries, as of a moment of each."""
    columns = [one.columns for one in histories]
    packed, spans, times = (
        np.concatenate(parts) if len(parts) > 1 else parts[0] for parts in zip(*columns, strict=True)
    )
    places = np.array([[len(one), len(of)] for one, _, of in columns], np.int64)
    most = np.minimum(places[:, 1], length)
    until = np.array(ts_ms, np.int64)
    data = np.empty(len(packed), np.uint8)
    offsets, kept = np.empty(most.sum() + 1, np.int32), np.empty(most.sum(), np.int64)
    ends = np.zeros(len(columns) + 1, np.int64)
    newest_entries(
        read_only(packed),
        spans,
        times,
        places,
        *_joined(tuple(kinds)),
        until,
        length,
        data,
        offsets,
        kept,
        ends,
    )
    count = int(ends[-1])
    return HistoryLists(keys_from_buffers(data, offsets[: count + 1]), ends, kept[:count])


@lru_cache(maxsize=256)
def _joined(kinds: tuple[str, ...]) -> tuple[UInt8Array, Int64Array]:
    texts = [kind.encode() for kind in kinds]
    return np.frombuffer(b"".join(texts), np.uint8), np.fromiter(accumulate(map(len, texts)), np.int64)


def packed_history(packed: bytes) -> Sequence[HistoryEntry]:
    """The history behind what the store packed."""
    data = np.frombuffer(packed, np.uint8)
    most = len(data) // _LEAST_BYTES
    spans, ts_ms = np.empty((most, 6), np.int32), np.empty(most, np.int64)
    size = read_entries(data, PLACE_BYTES, spans, ts_ms)
    return history_entries(packed) if size < 0 else PackedHistory(data, spans[:size], ts_ms[:size])


def warm() -> None:
    """Load the compiled code, for which no request has to wait."""
    spans, ts_ms = np.empty((1, 6), np.int32), np.zeros(1, np.int64)
    packed = np.frombuffer(b"\x90", np.uint8)
    size = read_entries(packed, PLACE_BYTES, spans, ts_ms)
    newest_of_each([PackedHistory(packed, spans[:size], ts_ms[:size])], (), 1, [0])
