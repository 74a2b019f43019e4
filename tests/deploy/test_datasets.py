from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deploy.datasets import DatasetError, completejourney, read_events


def table(**changes: pa.Array) -> pa.Table:
    columns = {
        "ts_ms": pa.array([30, 10, 20, 10]),
        "user_id": pa.array([1, 2, 3, 4]),
        "item_id": pa.array(["a", "b", "c", "d"]),
        "kind": pa.array(["click"] * 4),
        "scene": pa.array(["x", None, "y", "z"]),
        "value": pa.array([1, None, 2, 3]),
    } | changes
    return pa.table({name: column for name, column in columns.items() if column is not None})


def stored(tmp_path: Path, content: pa.Table) -> Path:
    path = tmp_path / "events.parquet"
    pq.write_table(content, path)
    return path


def test_rows_come_by_time_with_rows_of_one_moment_in_file_order(tmp_path: Path) -> None:
    result = read_events(stored(tmp_path, table()))
    assert result["user_id"].to_pylist() == [2, 4, 3, 1]
    assert result["scene"].to_pylist() == ["", "z", "y", "x"]
    assert result["request_id"].to_pylist() == [""] * 4
    assert result["value"].to_pylist() == [None, 3.0, 2.0, 1.0]
    assert result["user_id"].type == pa.int64()
    assert result["item_id"].type == pa.string()


def test_a_span_of_time_is_half_open(tmp_path: Path) -> None:
    assert read_events(stored(tmp_path, table()), 10, 30)["ts_ms"].to_pylist() == [10, 10, 20]


def test_dictionary_columns_are_plain_strings(tmp_path: Path) -> None:
    path = stored(tmp_path, table(kind=pa.array(["click"] * 4).dictionary_encode()))
    assert read_events(path)["kind"].type == pa.string()


def test_what_is_wrong_with_a_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"events\.parquet: missing columns user_id; found ts_ms"):
        read_events(stored(tmp_path, table(user_id=None)))
    with pytest.raises(DatasetError, match="column user_id must be int64 or string, got double"):
        read_events(stored(tmp_path, table(user_id=pa.array([1.0, 2.0, 3.0, 4.0]))))
    with pytest.raises(DatasetError, match="no such file"):
        read_events(tmp_path / "absent.parquet")
    (tmp_path / "text.parquet").write_text("no")
    with pytest.raises(DatasetError, match="not a parquet file"):
        read_events(tmp_path / "text.parquet")


def test_the_demo_data_set(tmp_path: Path) -> None:
    dataset = completejourney(tmp_path)
    events = read_events(dataset.events)
    assert len(events) == 1_469_307
    assert events.slice(0, 1).to_pylist() == [
        {
            "ts_ms": 1_483_271_606_000,  # 2017-01-01 11:53:26 taken as UTC
            "user_id": 900,
            "item_id": 1_095_275,
            "kind": "purchase",
            "scene": "330",
            "request_id": "31198570044",
            "value": 0.5,
        }
    ]
    moments = events.group_by("request_id").aggregate([("ts_ms", "count_distinct")])
    assert moments["ts_ms_count_distinct"].unique().to_pylist() == [1]  # a basket is one moment
    items, users = pq.read_table(dataset.items), pq.read_table(dataset.users)
    assert {"item_id", "department", "brand", "product_category", "manufacturer_id"} <= set(
        items.column_names
    )
    assert users.num_rows == 801
    written = dataset.events.stat().st_mtime_ns
    assert completejourney(tmp_path).events.stat().st_mtime_ns == written  # converted once
