"""(request_id, item_id) pairs as whole numbers, so that a join of columns is a lookup in an array.

Equal pairs have equal numbers: texts are compared, not hashes of them.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class Pairs:
    """Numbers the pairs of some tables, and finds them again in others; "" is no request."""

    def __init__(self, *tables: pa.Table) -> None:
        """Tables with the columns request_id and item_id, both without nulls."""
        keyed = [table.filter(pc.not_equal(table["request_id"], "")) for table in tables]
        self._requests = _distinct([table["request_id"] for table in keyed])
        self._items = _distinct([table["item_id"] for table in keyed])
        joined = [self._joined(table) for table in keyed]
        self._pairs = pc.unique(pa.array(np.concatenate([np.empty(0, np.int64), *joined])))

    def __len__(self) -> int:
        """Number of different pairs."""
        return len(self._pairs)

    def find(self, table: pa.Table) -> np.ndarray:
        """int64[N]: the number of each row's pair, -1 where it is none of them."""
        return _places(pa.array(self._joined(table)), self._pairs)

    def _joined(self, table: pa.Table) -> np.ndarray:
        joined = _places(table["request_id"], self._requests)
        found = joined >= 0  # few of what is held: only their items are looked up
        item = _places(table["item_id"].filter(pa.array(found)), self._items)
        joined[found] = np.where(item < 0, -1, joined[found] * max(1, len(self._items)) + item)
        return joined


def _distinct(columns: list[pa.ChunkedArray]) -> pa.Array:
    chunks = [chunk for one in columns for chunk in one.chunks]
    return pc.unique(pa.chunked_array(chunks, pa.string()))


def _places(values: pa.Array | pa.ChunkedArray, among: pa.Array) -> np.ndarray:
    places: np.ndarray = pc.index_in(values, value_set=among).fill_null(-1).to_numpy().astype(np.int64)
    return places
