"""kill -9 of the consumer mid-stream: nothing lost, nothing twice, the same rows to the byte."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import redis
import torch

from deploy.config import Config
from deploy.config_load import load
from deploy.wiring import open_producer
from deploy.wiring_counts import popular_reader
from deploy.wiring_training import catalogue_at, full_retrain
from models.pointer import PointerStore
from models.registry import Registry
from stream.archive import Archive, ArchiveReader
from stream.seals import Seal
from tests.deploy.consumer_child import digests
from updater.incremental import IncrementalUpdater

HOUR = 3_600_000
START = 1_700_000_000_000 // HOUR * HOUR
HISTORY_H, LIVE_H, PER_HOUR, USERS = 4, 30, 60, 80

SETTINGS = """
data_dir = "{data_dir}"
[kafka]
bootstrap = "{broker}"
events = "{topic}"
pack = 5
[redis]
url = "{store}"
[profiles]
prefix = "{topic}"
[intake]
idle_s = 3600
[models.two_tower]
dim = 16
id_dim = 16
hidden = [32]
history_length = 10
batch_size_incremental = 16
negatives = 16
positives = ["purchase"]
"""


def purchases(first_hour: int, last_hour: int) -> pa.Table:
    """A standard event table; every user, hence every partition, is seen in every hour."""
    rng = np.random.default_rng(first_hour)
    count = (last_hour - first_hour) * PER_HOUR
    ts = np.sort(rng.integers(START + first_hour * HOUR, START + last_hour * HOUR, count))
    user = rng.integers(0, USERS, count)
    return pa.table(
        {
            "event_id": [f"{first_hour}-{n}" for n in range(count)],
            "ts_ms": ts,
            "user_id": user,
            "item_id": [f"i{n}" for n in rng.integers(0, 15, count) * 4 + user % 4],
            "kind": ["purchase"] * count,
            "request_id": [f"r{first_hour}-{n}" for n in range(count)],
        }
    )


class SealBySeal(ArchiveReader):
    """The same archive as it looked to a reader that kept up: only the first `visible` seals."""

    visible = 0

    def seals(self) -> list[Seal]:
        return super().seals()[: self.visible]


@pytest.fixture
def config_file(tmp_path: Path, broker: str, store: str, topics: Callable[[str], str]) -> Path:
    file = tmp_path / "freshrecall.toml"
    file.write_text(SETTINGS.format(data_dir=tmp_path, broker=broker, store=store, topic=topics("crash")))
    return file


def start(file: Path, until_ms: int, output: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.deploy.consumer_child", str(file), str(until_ms), str(output)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2], env=os.environ | {"PYTHONPATH": "."})


def test_killed_consumer_loses_nothing_and_learns_the_same(
    config_file: Path, tmp_path: Path, store: str, eventually: Callable[..., None]
) -> None:
    config = load(Config, config_file)
    history, live = purchases(0, HISTORY_H), purchases(HISTORY_H, HISTORY_H + LIVE_H)
    last_ms = START + (HISTORY_H + LIVE_H - 1) * HOUR
    output = tmp_path / "state.txt"
    reader = ArchiveReader(config.archive_dir)
    with open_producer(config) as producer:
        producer.send_table(history)
        producer.flush()
        consumer = start(config_file, last_ms, output)
        try:
            eventually(lambda: (reader.sealed_through_ms() or 0) >= START + (HISTORY_H - 1) * HOUR, 60.0)
            bundle = full_retrain(config).run()
            for hour in range(LIVE_H):
                producer.send_table(live.slice(hour * PER_HOUR, PER_HOUR))
                producer.flush()
                if hour in (9, 19):  # in the middle of taking in, sealing or training: wherever it is now
                    sealed_ms = START + (HISTORY_H + hour - 3) * HOUR
                    eventually(lambda at=sealed_ms: (reader.sealed_through_ms() or 0) >= at, 60.0)
                    consumer.kill()
                    consumer.wait()
                    consumer = start(config_file, last_ms, output)
            assert consumer.wait(timeout=90) == 0
        finally:
            consumer.kill()
            consumer.wait()

    with Archive(config.archive_dir) as archive:
        unsealed = archive.unsealed()
    sealed = reader.read(None, reader.sealed_through_ms() or 0)
    held = pa.concat_tables([sealed.select(unsealed.column_names).cast(unsealed.schema), unsealed])
    sent = [*history["event_id"].to_pylist(), *live["event_id"].to_pylist()]
    assert sorted(held["event_id"].to_pylist()) == sorted(sent)

    # Profiles: each purchase was counted once, whatever was applied again after the kills.
    online = redis.Redis.from_url(store, decode_responses=True)
    prefix = config.profiles.prefix
    counted = sum(int(online.hget(key, "n:purchase") or 0) for key in online.scan_iter(f"{prefix}:{{u:*}}"))
    assert counted == len(sent)

    # What is popular now: every decayed count is that of the definition.
    with contextlib.closing(popular_reader(config)) as reader:
        reading = reader.read()
    assert reading.newest_ms == max(max(history["ts_ms"].to_pylist()), max(live["ts_ms"].to_pylist()))
    purchased = pa.concat_tables([history, live])
    for hours, held_list in zip(config.popular_now.half_lives_h, reading.changed[""], strict=True):
        expected = defaultdict(float)
        for item, ts in zip(purchased["item_id"].to_pylist(), purchased["ts_ms"].to_pylist(), strict=True):
            expected[item] += 2.0 ** ((ts - held_list.landmark_ms) / (hours * HOUR))
        assert dict(zip(held_list.items, held_list.sums, strict=True)) == pytest.approx(expected, rel=1e-9)

    # The uninterrupted run: the same logs and seals, one after the other, from the same bundle, and the same
    # number of threads, whose order decides how sums are rounded.
    torch.set_num_threads(config.update.threads)
    registry = Registry(tmp_path / "uninterrupted")
    shutil.copytree(config.registry_dir / "bundles", registry.root / "bundles")
    growing = SealBySeal(config.archive_dir)
    updater = IncrementalUpdater(
        growing, registry, PointerStore(registry.root), catalogue_at(config), config.update
    )
    seals = ArchiveReader(config.archive_dir).seals()
    for growing.visible in range(1, len(seals) + 1):
        if seals[growing.visible - 1].interval_end_ms > last_ms:
            break
        updater.advance()
        updater.advance()
    assert updater.state is not None
    assert registry.latest_bundle() == bundle
    expected = digests(updater.state)
    got = dict(line.split(" ") for line in output.read_text().splitlines())
    assert len(expected) > 20
    assert got == expected
