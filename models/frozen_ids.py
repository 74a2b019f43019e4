"""An ID table that is only read: what serving needs of models/id_table.py, at a quarter of its memory.

An entry takes its key's bytes, 4 bytes for where they lie, 8 for its slots, and 4 for its row where it is not
the entry itself.
Layout and probing: models/frozen_ids_kernels.py.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from models import frozen_ids_kernels as kernels
from models.arrays import Float16Array, Float32Array, Int32Array, Int64Array, Tensors, UInt8Array
from models.key_bytes import key_buffers, keys_from_buffers
from models.pacing import rest
from models.pages import converted, zeros

_A = TypeVar("_A", bound=np.ndarray[Any, Any])
_FILLED_AT_ONCE = 1 << 11
_NO_ROWS: Int32Array = np.empty(0, np.int32)
STATE = ("key_bytes", "key_offsets", "row")
"""The arrays of IdTable.state() that from_state() reads."""


class FrozenIds:
    """Keys -> entries (dense from 0) and rows, as the IdTable it was made from gives them. Nothing in here
    ever changes; thread-safe. row_capacity: one more than the largest row.
    """

    def __init__(
        self, data: UInt8Array, offsets: Int32Array, rows: Int32Array = _NO_ROWS, gaps: bool = False
    ) -> None:
        """Over the keys' bytes uint8[...] and offsets int32[n+1], which are not copied. rows: int32[n], 0 =
        none; without them an entry is its own row. gaps: an empty key is an entry that nobody has.

        ValueError for a repeated key, or an empty one without gaps.
        """
        n = len(offsets) - 1
        self._arena, self._offsets, self._rows = read_only(data), read_only(offsets), read_only(rows)
        self._bits = np.uint64(n.bit_length())
        self.row_capacity = int(rows.max(initial=0)) + 1 if len(rows) else n
        slots = zeros(2 * n + 2, np.uint32)
        for begin in range(0, n, _FILLED_AT_ONCE):
            end = begin + _FILLED_AT_ONCE
            wrong = kernels.fill(slots, self._bits, self._arena, self._offsets, gaps, begin, end)
            if wrong >= 0:
                key = self.keys_of(np.array([wrong]))[0].as_py()
                raise ValueError(f"keys: row {wrong} ({key!r}) is empty or a repetition")
            rest()
        self._slots = read_only(slots)

    @classmethod
    def of_unique(cls, keys: pa.Array | pa.ChunkedArray) -> FrozenIds:
        """A table whose entry and row of every key is its position. ValueError for an empty or repeated
        key.
        """
        return cls(*key_buffers(keys))

    @classmethod
    def from_state(cls, state: Tensors) -> FrozenIds:
        """The table that IdTable.state() described; of its arrays those of STATE. KeyError for a missing
        one.
        """
        rows = converted(state["row"], np.int32)
        return cls(state["key_bytes"], state["key_offsets"], rows, gaps=True)

    @property
    def entry_capacity(self) -> int:
        """One more than the largest entry: the length of arrays indexed by entry."""
        return len(self._offsets) - 1

    @property
    def nbytes(self) -> int:
        """Bytes of all it holds."""
        used = int(self._offsets[-1]) - int(self._offsets[0])
        return used + self._offsets.nbytes + self._rows.nbytes + self._slots.nbytes

    def lookup(self, keys: pa.Array | pa.ChunkedArray) -> Int64Array:
        """Entry of every key, int64[N]; -1 = unknown or empty."""
        data, offsets = _asked(keys)
        entries = np.empty(len(offsets) - 1, np.int64)
        kernels.lookup(data, offsets, self._bits, self._slots, self._arena, self._offsets, entries)
        return entries

    def read_rows(self, keys: pa.Array, weights: Float32Array | Float16Array, values: Float32Array) -> None:
        """values[i] = weights[row of key i], float32[N, E] and float32 or float16[rows, E]; a key without a
        row leaves its own as it is. Weights cannot be written to (read_only()).
        """
        data, offsets = _asked(keys)
        ids = self._bits, self._slots, self._arena, self._offsets, self._rows
        if weights.dtype == np.float16:
            kernels.read_half_rows(data, offsets, *ids, weights.view(np.uint16), values)
        else:
            kernels.read_rows(data, offsets, *ids, np.asarray(weights, np.float32), values)

    def keys(self) -> pa.StringArray:
        """Keys by entry, "" for gaps; no copy."""
        return keys_from_buffers(self._arena, self._offsets)

    def keys_of(self, entries: Int32Array | Int64Array) -> pa.StringArray:
        """Key of every entry; "" for -1 and gaps."""
        return self.keys().take(pa.array(entries, mask=entries < 0)).fill_null("")


def read_only(array: _A) -> _A:
    """A view that cannot be written to: what lies in a file and what was made here are one type to compiled
    code.
    """
    array = array.view()
    array.flags.writeable = False
    return array


def _asked(keys: pa.Array | pa.ChunkedArray) -> tuple[UInt8Array, Int32Array]:
    data, offsets = key_buffers(keys)  # new views: their flags are nobody else's
    data.flags.writeable = offsets.flags.writeable = False
    return data, offsets
