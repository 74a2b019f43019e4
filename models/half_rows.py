"""Rows of users and items in half precision, for serving: files of their own, half as large, beside those
that training goes on from. So training loses nothing, and servers need not even read its files.

A value moves by 1/2048 of itself at most, below 6e-5 by 3e-8 (IEEE 754 binary16, to the nearest).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from models.arrays import Float16Array, Float32Array, Tensors
from models.bundle import model_file
from models.frozen_ids import STATE
from models.pacing import rest
from models.table_names import ids_name

Precision = Literal["float32", "float16"]
Rows = Float32Array | Float16Array
TABLES = ("user", "item", "history_item")
"""Tables that grow with users and items; those of features stay as they are."""
_ROWS_AT_ONCE = 1 << 14


def rows_part(table: str, entry: Mapping[str, Any]) -> str:
    """The part of a bundle that servers read a table from; entry: of the model in the manifest."""
    return f"served.{table}" if entry.get("rows") == "float16" and table in TABLES else f"table.{table}"


def half_rows(model: str, files: Mapping[str, Tensors]) -> dict[str, Tensors]:
    """Files of a model's state -> further ones, for serving: "weights" float16[rows, E], and "ids.*" of
    tables with IDs of their own as models/frozen_ids.py reads them. ValueError where a row does not fit in.
    """
    halves = {}
    for table in TABLES:
        held = files.get(model_file(model, f"table.{table}"))
        if held is None:
            continue
        part: Tensors = {"weights": halved(held["weights"], f"model {model}: table {table}")}
        if ids_name(table) == table:
            part |= {f"ids.{name}": held[f"ids.{name}"] for name in STATE}
            part["ids.row"] = part["ids.row"].astype(np.int32)
        halves[model_file(model, f"served.{table}")] = part
    return halves


def halved(rows: Float32Array, where: str) -> Float16Array:
    """float16[n, E] of rows float32[n, E], at the thread's pace. Raises ValueError where one does not fit
    in.
    """
    halves = np.empty(rows.shape, np.float16)
    for begin in range(0, len(rows), _ROWS_AT_ONCE):
        part = slice(begin, begin + _ROWS_AT_ONCE)
        with np.errstate(over="ignore"):  # told below
            halves[part] = rows[part]
        fitting = np.isfinite(halves[part]).all(1)
        if not fitting.all():
            row = begin + int(np.argmin(fitting))
            raise ValueError(
                f"{where}: row {row}: expected numbers within 65,504, as float16 holds them, got "
                f"{np.abs(rows[row]).max():g}; lower lr_rows, or set update.rows_precision to float32"
            )
        rest()
    return halves
