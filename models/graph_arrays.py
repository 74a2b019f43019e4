"""The graph in an index of faiss (IndexHNSWFlat, inner product) as arrays: lent by an index that was built,
or where they lie in what faiss wrote of it.

Reading it back, faiss copies a part of them: of a million items that takes the processor 15 ms at a stretch,
while requests wait for it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import faiss as _faiss
import numpy as np

from models.arrays import Float32Array, Int32Array, Int64Array, UInt8Array, UInt64Array
from models.frozen_ids import read_only

faiss: Any = _faiss  # its type stubs do not describe the Python layer
_HEADER = struct.Struct("<4s i q 16x ? i")  # what it is, D, N, whether it is trained, the metric
_GRAPH, _VECTORS, _INNER_PRODUCT = b"IHNf", b"IxFI", 0
_SIZE = struct.Struct("<Q")
_WALK = struct.Struct("<i i 12x")  # entry, top; what building goes by


@dataclass(frozen=True)
class Graph:
    """Vectors float32[N, D] and who is linked with whom, all read-only.

    The links of item i on level l are neighbours[offsets[i] + ends[l] : offsets[i] + ends[l + 1]], -1 after
    the last; offsets: uint64[N + 1], ends: int64[levels + 1]. A walk begins at item `entry` on level `top`.
    """

    vectors: Float32Array
    neighbours: Int32Array
    offsets: UInt64Array
    ends: Int64Array
    entry: int
    top: int
    owner: Any
    """In whose memory they lie."""

    @classmethod
    def of(cls, index: Any, vectors: Float32Array) -> Graph:
        """Of an index, which is only read from then on; vectors: those in it."""
        graph = index.hnsw
        return cls(
            read_only(vectors),
            _lent(graph.neighbors),
            _lent(graph.offsets).view(np.uint64),
            faiss.vector_to_array(graph.cum_nneighbor_per_level).astype(np.int64),
            int(graph.entry_point),
            int(graph.max_level),
            index,
        )

    @classmethod
    def written(cls, data: UInt8Array) -> Graph:
        """Where it lies in what faiss wrote, uint8[...] from its first letter on. ValueError where that is
        something else.
        """
        content = _Content(data)
        items, width = content.header(_GRAPH)
        content.numbers(np.float64)  # how many levels an item gets
        ends = content.numbers(np.int32).astype(np.int64)
        levels = content.numbers(np.int32)
        offsets, neighbours = content.numbers(np.uint64), content.numbers(np.int32)
        entry, top = content.next(_WALK)
        shape = content.header(_VECTORS)
        vectors = content.numbers(np.float32)
        got = {"vectors": shape, "numbers": len(vectors), "levels": len(levels), "offsets": len(offsets) - 1}
        wanted = {"vectors": (items, width), "numbers": items * width, "levels": items, "offsets": items}
        begins = 0 <= entry < items and 0 <= top < len(ends) - 1
        if got != wanted or offsets[-1] != len(neighbours) or not begins:
            raise ValueError(f"a graph: expected {wanted}, got {got}, entry {entry} on level {top}")
        return cls(vectors.reshape(items, width), neighbours, offsets, ends, entry, top, data)


class _Content:
    """Goes through what faiss wrote."""

    def __init__(self, data: UInt8Array) -> None:
        self._data, self._at = read_only(data), 0

    def next(self, fields: struct.Struct) -> tuple[Any, ...]:
        return fields.unpack(self._bytes(fields.size).data)

    def header(self, kind: bytes) -> tuple[int, int]:
        """(N, D) of what has to come now."""
        found, width, items, _, metric = self.next(_HEADER)
        if (found, metric) != (kind, _INNER_PRODUCT):
            raise ValueError(f"a graph: expected {kind!r} by inner product, got {found!r} by metric {metric}")
        return items, width

    def numbers(self, dtype: type[np.generic]) -> Any:
        """A vector: its size, then so many of them."""
        (size,) = self.next(_SIZE)
        return self._bytes(size * np.dtype(dtype).itemsize).view(dtype)

    def _bytes(self, size: int) -> UInt8Array:
        part = self._data[self._at : self._at + size]
        if len(part) != size:
            raise ValueError(f"a graph: expected {size} bytes at {self._at}, got {len(part)}")
        self._at += size
        return part


def _lent(vector: Any) -> Any:
    """The numbers of one of faiss's vectors, read-only and not copied."""
    return read_only(faiss.rev_swig_ptr(vector.data(), vector.size()))
