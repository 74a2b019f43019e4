"""A user's history as the store packed it (stream/profiles.py): its entries become objects when they are
asked for, and a model's input without that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import overload

import numpy as np
import pyarrow as pa

from models.arrays import Int32Array, Int64Array, UInt8Array
from models.key_bytes import keys_from_buffers
from models.packed_entries import ITEM, KIND, REQUEST, newest_entries, read_entries
from stream.profiles import PLACE_BYTES, HistoryEntry, history_entries

_LEAST_BYTES = PLACE_BYTES + len('["","",""]')


class PackedHistory(Sequence[HistoryEntry]):
    """Recent events, oldest first; read-only."""

    def __init__(self, packed: UInt8Array, spans: Int32Array, ts_ms: Int64Array) -> None:
        """As models.packed_entries reads them: packed uint8[…], spans int32[n, 6], ts_ms int64[n]."""
        self._packed, self._spans, self._ts_ms = packed, spans, ts_ms

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

    def newest(self, kinds: Sequence[str], length: int, ts_ms: int) -> tuple[pa.StringArray, Int64Array]:
        """As columns string[n] and int64[n], what serving/channels/moment.py reads of a list of entries."""
        data = np.empty(len(self._packed), np.uint8)
        most = min(len(self), length)
        offsets, times = np.empty(most + 1, np.int32), np.empty(most, np.int64)
        kept = newest_entries(
            self._packed, self._spans, self._ts_ms, *_joined(tuple(kinds)), ts_ms, most, data, offsets, times
        )
        return keys_from_buffers(data, offsets[: kept + 1]), times[:kept]


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
    PackedHistory(packed, spans[:size], ts_ms[:size]).newest((), 1, 0)
