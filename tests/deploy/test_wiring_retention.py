"""Which readers retention asks, wired as in the consumer, over a real store."""

import contextlib
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from deploy.archive_metrics import ArchiveCollector
from deploy.config import Config
from deploy.wiring import profiles, ranked_through_ms
from deploy.wiring_counts import item_counts
from deploy.wiring_retention import retention, trained_through_ms
from models.registry import Registry
from stream.archive import Archive, ArchiveReader
from stream.joined_log import JoinedLog
from tests.stream.samples import T0, batch, event
from updater.request_signals import HORIZON_MS

HOUR = 3_600_000


@pytest.fixture
def config(tmp_path: Path, store: str) -> Config:
    return Config.model_validate(
        {
            "data_dir": tmp_path,
            "redis": {"url": store},
            "profiles": {"prefix": tmp_path.name},
            "archive": {"keep_days": 2 / 24},
            "rankers": {"logistic": {"kind": "logistic"}},
            "update": {"blend_counts": False},
        }
    )


def test_a_file_goes_when_the_last_of_them_has_read_it(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifests: list[dict] = []
    monkeypatch.setattr(Registry, "manifests", lambda self: manifests)
    with (
        Archive(config.archive_dir, HOUR) as archive,
        contextlib.closing(profiles(config)) as online,
        item_counts(config) as counts,
        retention(config, archive) as keeping,
    ):
        parts = [batch([event(n, ts_ms=T0 + n * HOUR)], offsets=[n]) for n in range(8)]
        for n, part in enumerate(parts):
            archive.append(part)
            archive.seal_through(T0 + (n + 1) * HOUR)
        reader = ArchiveReader(config.archive_dir)
        assert keeping.apply() == 0
        assert set(keeping.size.held_ms) == {"profiles", "counts 0", "training", "join"}
        assert min(keeping.size.held_ms.values()) > 0
        JoinedLog(config.joined_dir, reader, config.join).advance()
        for part, n in zip(parts[:5], range(5), strict=True):
            online.apply(part, {(0, 0): n + 1})
            counts[0].apply(part, {(0, 0): n + 1})
        assert keeping.apply() == 0
        assert keeping.size.held_ms["training"] > keeping.size.held_ms["join"] == 0
        manifests += [{"watermark_ms": T0 + 4 * HOUR}, {"watermark_ms": T0 + 7 * HOUR}]
        assert trained_through_ms(config) == T0 + 4 * HOUR  # the newer one may turn out damaged
        assert keeping.apply() == 4
        del manifests[0]
        assert keeping.apply() == 1  # the store has five
        page = CollectorRegistry()
        page.register(ArchiveCollector(keeping.size))
        lines = generate_latest(page).decode().splitlines()
        assert "freshrecall_archive_removed_files_total 5.0" in lines
        assert "freshrecall_archive_files 3.0" in lines
        assert 'freshrecall_archive_held_ms{reader="profiles"} 3.6e+06' in lines
        online.repair(archive)
        counts[0].repair(archive)
        assert keeping.apply() == 1  # the other two are younger than two hours
        for key in online._store.scan_iter(f"{config.profiles.prefix}:*"):
            online._store.delete(key)
        archive.append(batch([event(9, ts_ms=T0 + 20 * HOUR)], offsets=[9]))
        archive.seal_through(T0 + 21 * HOUR)
        manifests[0] = {"watermark_ms": T0 + 21 * HOUR}
        JoinedLog(config.joined_dir, reader, config.join).advance()
        assert keeping.apply() == 0  # the emptied store needs all there is


def test_joined_rows_are_held_by_the_oldest_bundle_with_such_a_ranker(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifests: list[dict] = []
    monkeypatch.setattr(Registry, "manifests", lambda self: manifests)
    assert trained_through_ms(config) is ranked_through_ms(config) is None
    manifests += [
        {"watermark_ms": 10, "rankers": {"another": {"joined_through_ms": 1}}},
        {"watermark_ms": 20, "rankers": {"logistic": {"joined_through_ms": 15}}},
        {"watermark_ms": 30, "rankers": {"logistic": {"joined_through_ms": 25}}},
    ]
    assert ranked_through_ms(config) == 15
    assert trained_through_ms(config) == 10
    for reader in ("prerank", "blend_counts"):
        update = config.update.model_copy(update={reader: True})
        assert trained_through_ms(config.model_copy(update={"update": update})) == 10 - HORIZON_MS
    assert ranked_through_ms(config.model_copy(update={"rankers": {}})) is None
