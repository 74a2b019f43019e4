import contextlib
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deploy.catalogue_import import KNOWN_SINCE_MS, changes_of, import_catalogue
from deploy.config import Config
from deploy.config_load import load
from deploy.datasets import DatasetError
from deploy.embedded import EmbeddedBroker
from deploy.wiring import catalogue_writer, dead_letters
from deploy.wiring_training import catalogue_at
from stream.catalogue_intake import CatalogueIntake
from stream.change import Change
from tests.deploy.waiting import eventually


def test_rows_become_upserts_and_numbers_stay_numbers(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    columns = {"item_id": [7, 8], "brand": ["a", None], "price": [1.5, float("nan")], "sold": [3, None]}
    pq.write_table(pa.table(columns), path)
    changes = [change for some in changes_of(path, "item_id") for change in some]
    assert changes == [
        Change(id=7, ts_ms=KNOWN_SINCE_MS, attributes={"brand": "a", "price": 1.5, "sold": 3}),
        Change(id=8, ts_ms=KNOWN_SINCE_MS, attributes={}),
    ]


def test_a_table_without_its_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    pq.write_table(pa.table({"id": [1]}), path)
    with pytest.raises(DatasetError, match="missing column item_id; found id"):
        next(changes_of(path, "item_id"))


def test_the_last_import_counts_and_training_sees_it_at_any_time(tmp_path: Path) -> None:
    items, users = tmp_path / "items.parquet", tmp_path / "users.parquet"
    pq.write_table(pa.table({"user_id": ["u"], "age": ["35-44"]}), users)
    with EmbeddedBroker(tmp_path) as broker:
        config = load(Config, None, {"kafka.bootstrap": broker.address, "data_dir": tmp_path}, {})
        for brand in ("old", "new"):
            pq.write_table(pa.table({"item_id": list(range(1000)), "brand": [brand] * 1000}), items)
            assert import_catalogue(config.kafka, items, users) == 1001
        stop = threading.Event()
        at = catalogue_at(config)
        with contextlib.closing(catalogue_writer(config)) as writer, dead_letters(config) as letters:
            intake = CatalogueIntake(config.kafka, writer, None, letters)
            loop = threading.Thread(target=intake.run, args=(stop,))
            loop.start()
            try:
                assert eventually(lambda: intake.changes == 2002)
            finally:
                stop.set()
                loop.join()
        columns = at(1_500_000_000_000)
        assert columns.items.num_rows == 1000
        assert columns.items["brand"].unique().to_pylist() == ["new"]
        assert columns.users.to_pylist() == [{"user_id": "u", "age": "35-44"}]
        assert at(1_500_000_000_000) is columns
