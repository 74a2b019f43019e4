"""What one interval changed, and the sum of what all intervals since a bundle changed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.delta import TableRows
from models.learner import TouchedRows
from models.table_names import ids_name

Changes = dict[str, dict[str, TableRows]]
"""model -> table -> changed rows."""


def table_changes(
    touched: Mapping[str, TouchedRows], removed: Mapping[str, pa.Array]
) -> dict[str, TableRows]:
    """Rows touched in an interval, less those that expired at its end, plus the tombstones.

    removed: keys by ID space ("user", "item"); two tables may share one.
    """
    changes = {}
    for table, rows in touched.items():
        gone = removed.get(ids_name(table), pa.array([], pa.string()))
        kept = _select(TableRows(rows.keys, rows.rows, rows.vectors), _absent(rows.keys, gone))
        changes[table] = TableRows(kept.keys, kept.rows, kept.vectors, gone)
    return changes


def merged(
    older: Mapping[str, Mapping[str, TableRows]], newer: Mapping[str, Mapping[str, TableRows]]
) -> Changes:
    """Changes that do in one step what `older` and then `newer` do."""
    result: Changes = {model: dict(tables) for model, tables in older.items()}
    for model, tables in newer.items():
        into = result.setdefault(model, {})
        for table, rows in tables.items():
            into[table] = _merged_table(into[table], rows) if table in into else rows
    return result


def _merged_table(older: TableRows, newer: TableRows) -> TableRows:
    overwritten = pa.concat_arrays([newer.keys, newer.tombstones])
    kept = _select(older, _absent(older.keys, overwritten))
    return TableRows(
        keys=pa.concat_arrays([kept.keys, newer.keys]),
        rows=np.concatenate([kept.rows, newer.rows]),
        vectors=None
        if kept.vectors is None or newer.vectors is None
        else np.concatenate([kept.vectors, newer.vectors]),
        tombstones=pa.concat_arrays(
            [older.tombstones.filter(_absent(older.tombstones, overwritten)), newer.tombstones]
        ),
    )


def _absent(keys: pa.Array, others: pa.Array) -> pa.Array:
    return pc.invert(pc.is_in(keys, others))


def _select(rows: TableRows, mask: pa.Array) -> TableRows:
    chosen = mask.to_numpy(zero_copy_only=False)
    return TableRows(
        rows.keys.filter(mask),
        rows.rows[chosen],
        None if rows.vectors is None else rows.vectors[chosen],
        rows.tombstones,
    )
