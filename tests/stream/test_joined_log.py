"""Joined rows on disk: the same files however often the writer dies, and what readers make of them."""

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import stream.joined_log
from stream.archive import Archive, ArchiveReader
from stream.errors import CorruptLog, EventsRemoved
from stream.join import JOINED_SCHEMA
from stream.joined_log import JoinedLog, JoinedLogConfig, JoinedReader
from stream.joined_reader import _superseded
from stream.segment import write_log
from tests.stream.join_streams import CONFIG, HORIZON, WAIT, PlainJoin, random_stream, rows_of
from tests.stream.samples import T0, batch

INTERVAL = 1_000
DAY_MS = 86_400_000
SETTINGS = JoinedLogConfig(**CONFIG.model_dump(), checkpoint_every=3, keep_days=30)


def fill(root: Path, seed: int, portions: int = 4, keep_last: int = 0) -> ArchiveReader:
    """An archive of a random stream with late events, sealed in some portions."""
    rng = random.Random(seed)
    events = random_stream(rng, 40, 2 * HORIZON, WAIT, doubles=True)
    cuts = [*sorted(rng.sample(range(1, len(events)), portions - 1)), len(events)]
    with Archive(root, INTERVAL) as archive:
        begin = 0
        for cut in cuts:
            archive.append(batch(events[begin:cut], range(begin, cut)))
            archive.seal_through(max(e.ts_ms for e in events[:cut]))
            begin = cut
        archive.seal_through(T0 + 8 * HORIZON)
    return ArchiveReader(root)


class SealBySeal(ArchiveReader):
    """The same archive as it looked to a reader that kept up: only the first `visible` seals."""

    visible = 0

    def seals(self):
        return super().seals()[: self.visible]


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def in_steps(root: Path, archive: SealBySeal, config: JoinedLogConfig, until: int) -> None:
    """One process' life: seals become visible in portions of five."""
    joined = JoinedLog(root, archive, config)
    while archive.visible < until:
        joined.advance()
        archive.visible = min(until, archive.visible + 5)
    joined.advance()


def test_rows_are_those_of_the_plain_loop(tmp_path):
    archive = fill(tmp_path / "archive", 1)
    JoinedLog(tmp_path / "joined", archive, SETTINGS).advance()
    plain, expected, after = PlainJoin(), [], None
    by_id = {e.event_id: e for e in random_stream(random.Random(1), 40, 2 * HORIZON, WAIT, doubles=True)}
    for seal in archive.seals():
        events = archive.read(after, seal.interval_end_ms)["event_id"].to_pylist()
        expected += plain.take([by_id[e] for e in events], seal.interval_end_ms)
        after = seal.interval_end_ms
    reader = JoinedReader(tmp_path / "joined")
    assert rows_of(reader.read(None)) == expected
    assert any(row[8] for row in expected)
    assert reader.through_ms() == archive.sealed_through_ms()
    assert len(files(tmp_path / "joined")) > 10


class Crash(BaseException):
    pass


@pytest.mark.parametrize("moment", ["before", "after"])
def test_crash_around_any_durable_step(tmp_path, monkeypatch, moment):
    """Every fsync, rename and removal that the log makes, also those in other files' functions."""
    config = SETTINGS.model_copy(update={"keep_days": 2 * HORIZON / DAY_MS})
    archive = fill(tmp_path / "archive", 2)
    reader, total = SealBySeal(archive.root), 24
    count = [0, -1]

    def counted(real):
        def call(*args, **kwargs):
            count[0] += 1
            if count[0] == count[1] and moment == "before":
                raise Crash
            result = real(*args, **kwargs)
            if count[0] == count[1]:
                raise Crash
            return result

        return call

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", counted(os.fsync))
        for name in ("rename", "unlink"):
            patched.setattr(Path, name, counted(getattr(Path, name)))
        in_steps(tmp_path / "calm", reader, config, total)
        steps, expected = count[0], files(tmp_path / "calm")
        assert steps > 80
        for number in random.Random(3).sample(range(1, steps + 1), 25):
            root, reader.visible = tmp_path / f"{number}", 0
            count[:] = [0, number]
            with pytest.raises(Crash):
                in_steps(root, reader, config, total)
            count[1] = -1
            seen = JoinedReader(root)
            done = seen.through_ms()
            shown = seen.read(None)["emitted_ms"].to_pylist()
            assert max(shown, default=0) <= (done or 0)
            in_steps(root, reader, config, total)
            assert files(root) == expected, number


WRITER = """
import sys
from pathlib import Path
from stream.joined_log import JoinedLog
from tests.stream.test_joined_log import SETTINGS, SealBySeal
archive = SealBySeal(Path(sys.argv[1]))
archive.visible = int(sys.argv[3])
joined = JoinedLog(Path(sys.argv[2]), archive, SETTINGS)
for n in range(1000):
    joined.advance()
    archive.visible += 1
    print(archive.visible, flush=True)
"""


def test_kill_9_of_the_writer(tmp_path):
    archive = fill(tmp_path / "archive", 4)
    JoinedLog(tmp_path / "calm", archive, SETTINGS).advance()
    rng, reached, total = random.Random(5), 1, len(archive.seals())
    while reached < total:
        command = [sys.executable, "-c", WRITER, str(archive.root), str(tmp_path / "killed"), str(reached)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            stop = reached + rng.randint(5, 25)
            for line in process.stdout:  # to the end: it may have gone on before it was killed
                reached = int(line)
                if reached >= min(stop, total + 1):
                    process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
    JoinedLog(tmp_path / "killed", archive, SETTINGS).advance()
    assert files(tmp_path / "killed") == files(tmp_path / "calm")


def test_one_row_of_each_impression_for_a_stretch(tmp_path):
    archive = fill(tmp_path / "archive", 6)
    JoinedLog(tmp_path / "joined", archive, SETTINGS).advance()
    reader = JoinedReader(tmp_path / "joined")
    everything = rows_of(reader.read(None))
    late = {(row[0], row[1]) for row in everything if row[8]}
    start, stop = T0 + HORIZON, T0 + 3 * HORIZON
    expected = [
        row for row in everything
        if start <= row[1] < stop and (row[8] or (row[0], row[1]) not in late)
    ]  # fmt: skip
    found = reader.rows(start, stop)
    assert sorted(map(repr, rows_of(found))) == sorted(map(repr, expected))
    assert found["ts_ms"].to_pylist() == sorted(found["ts_ms"].to_pylist())
    assert sum(found["late"].to_pylist()) > 2
    assert reader.rows(start, stop, ["actions", "late"]).equals(found.select(["actions", "late"]))
    assert reader.rows(stop, start).num_rows == 0
    assert reader.rows(start, stop).schema.equals(JOINED_SCHEMA)


def test_impressions_without_request_are_never_replaced():
    what = [("", 5, False), ("", 5, False), ("r", 5, False), ("r", 6, True), ("r", 6, False), ("q", 6, False)]
    rows = [
        {"event_id": f"{n}", "ts_ms": ts, "user_id": "u", "item_id": "i", "scene": "", "request_id": request,
         "context": {}, "actions": {}, "late": late, "emitted_ms": 0}
        for n, (request, ts, late) in enumerate(what)
    ]  # fmt: skip
    assert _superseded(pa.Table.from_pylist(rows, JOINED_SCHEMA)).tolist() == [False] * 4 + [True, False]


def test_figures_by_interval_and_scene(tmp_path):
    archive = fill(tmp_path / "archive", 7)
    joined = JoinedLog(tmp_path / "joined", archive, SETTINGS)
    joined.advance()
    reader = JoinedReader(tmp_path / "joined")
    rows = rows_of(reader.read(None))
    expected = {}
    for row in rows:
        one = expected.setdefault((row[9], row[4]), {"impressions": 0, "late": 0, "actions": {}})
        one["late" if row[8] else "impressions"] += 1
        for kind in () if row[8] else row[7]:
            one["actions"][kind] = one["actions"].get(kind, 0) + 1
    found = reader.figures(None).to_pylist()
    for one in found:
        want = expected.pop((one["interval_end_ms"], one["scene"]))
        clicks = want["actions"].get("click", 0)
        assert one["ctr"] == (clicks / want["impressions"] if want["impressions"] else None)
        assert (one["impressions"], one["late"], dict(one["actions"])) == (
            *list(want.values())[:2],
            want["actions"],
        )
    assert not expected
    counts = joined.counts
    assert sum(counts.impressions.values()) == counts.join.emitted == sum(not row[8] for row in rows)
    assert counts.join.late == sum(row[8] for row in rows)
    assert counts.actions["home", "click"] == sum(
        "click" in row[7] for row in rows if row[4] == "home" and not row[8]
    )


def test_scenes_beyond_the_limit_are_counted_together(tmp_path, monkeypatch):
    monkeypatch.setattr(stream.joined_log, "SCENES_COUNTED", 1)
    joined = JoinedLog(tmp_path / "joined", fill(tmp_path / "archive", 7), SETTINGS)
    joined.advance()
    assert sum(joined.counts.impressions.values()) == joined.counts.join.emitted
    assert len(joined.counts.impressions) == 2


def test_old_files_are_removed_and_an_old_archive_is_not_joined_from_its_beginning(tmp_path):
    archive = fill(tmp_path / "archive", 8)
    config = SETTINGS.model_copy(update={"keep_days": HORIZON / DAY_MS})
    reader = SealBySeal(archive.root)
    in_steps(tmp_path / "joined", reader, config, 25)
    ends = [int(p.stem) for p in (tmp_path / "joined" / "rows").iterdir()]
    through = JoinedReader(tmp_path / "joined").through_ms()
    assert ends
    assert min(ends) > through - HORIZON
    joined = JoinedLog(tmp_path / "later", archive, config)
    joined.advance()
    assert joined.counts.join.impressions < 30


def test_read_without_the_project(tmp_path):
    JoinedLog(tmp_path / "joined", fill(tmp_path / "archive", 9), SETTINGS).advance()
    reader = JoinedReader(tmp_path / "joined")
    rows, pattern = reader.read(None), str(tmp_path / "joined" / "rows" / "*.parquet")
    assert polars.read_parquet(pattern)["event_id"].to_list() == rows["event_id"].to_pylist()
    clicked = (
        "select count(*), sum(cast(late as int)) from '{}' where list_contains(map_keys(actions), 'click')"
    )
    kept = [row for row in rows_of(rows) if "click" in row[7]]
    assert duckdb.sql(clicked.format(pattern)).fetchall() == [(len(kept), sum(row[8] for row in kept))]
    one = next((tmp_path / "joined" / "rows").iterdir())
    assert pq.read_schema(one).remove_metadata().equals(JOINED_SCHEMA)


def test_a_damaged_checkpoint_or_one_of_another_archive_is_told(tmp_path):
    archive = fill(tmp_path / "archive", 10)
    JoinedLog(tmp_path / "joined", archive, SETTINGS).advance()
    path = tmp_path / "joined" / "state.log"
    whole = path.read_bytes()
    for place in random.Random(1).sample(range(len(whole)), 40):
        path.write_bytes(whole[:place])
        with pytest.raises(CorruptLog, match="delete"):
            JoinedLog(tmp_path / "joined", archive, SETTINGS).advance()
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CorruptLog, match="delete"):
            JoinedLog(tmp_path / "joined", archive, SETTINGS).advance()
    path.write_bytes(whole)
    with Archive(tmp_path / "other", INTERVAL) as other:
        other.append(batch([]))
    with pytest.raises(CorruptLog, match="expected an interval of"):
        JoinedLog(tmp_path / "joined", ArchiveReader(tmp_path / "other"), SETTINGS).advance()


def test_an_error_is_tried_again_and_counted_once(tmp_path, monkeypatch):
    archive = fill(tmp_path / "archive", 11)
    monkeypatch.setattr(stream.joined_log, "RETRY_S", 0.0)
    failures, stop = [4, 3, 2, 1], threading.Event()

    def fragile(path, frames):
        if failures:
            failures.pop()
            raise OSError("disk full")
        write_log(path, frames)
        if ArchiveReader(archive.root).sealed_through_ms() == JoinedReader(path.parent).through_ms():
            stop.set()

    monkeypatch.setattr(stream.joined_log, "write_log", fragile)
    joined = JoinedLog(tmp_path / "joined", archive, SETTINGS)
    joined.run(stop)
    monkeypatch.undo()
    calm = JoinedLog(tmp_path / "calm", archive, SETTINGS)
    calm.advance()
    assert joined.counts == calm.counts
    assert files(tmp_path / "joined") == files(tmp_path / "calm")


def test_nothing_sealed_yet(tmp_path):
    joined = JoinedLog(tmp_path / "joined", ArchiveReader(tmp_path / "none"), SETTINGS)
    assert not joined.advance()
    reader = JoinedReader(tmp_path / "joined")
    assert reader.through_ms() is None
    assert reader.read(None).num_rows == reader.rows(0, 2**62).num_rows == reader.figures(None).num_rows == 0


def test_removed_rows_are_told_and_kept_ones_given_whole(tmp_path):
    archive = fill(tmp_path / "archive", 12)
    JoinedLog(tmp_path / "all", archive, SETTINGS).advance()
    everything = rows_of(JoinedReader(tmp_path / "all").read(None))
    assert JoinedReader(tmp_path / "all").removed_through_ms() is None  # no row is old enough
    config = SETTINGS.model_copy(update={"keep_days": HORIZON / DAY_MS})
    visible = SealBySeal(archive.root)
    in_steps(tmp_path / "joined", visible, config, len(archive.seals()))
    reader = JoinedReader(tmp_path / "joined")
    removed_ms = reader.removed_through_ms()
    assert removed_ms == reader.through_ms() - HORIZON
    kept = [row for row in everything if row[9] > removed_ms]
    assert rows_of(reader.read(None)) == rows_of(reader.read(removed_ms)) == kept
    for ask in (reader.read, reader.figures, lambda at: reader.rows(at, 2**62)):
        with pytest.raises(EventsRemoved, match="keep_days"):
            ask(removed_ms - 1)


def test_rows_wait_for_who_reads_them(tmp_path, caplog):
    archive = fill(tmp_path / "archive", 12)
    config = SETTINGS.model_copy(update={"keep_days": HORIZON / DAY_MS})
    first_ms = archive.seals()[0].interval_end_ms
    read_ms = [first_ms + 2 * INTERVAL]
    JoinedLog(tmp_path / "begun", SealBySeal(archive.root), config)
    visible = SealBySeal(archive.root)
    visible.visible = 3
    joined = JoinedLog(tmp_path / "joined", visible, config, lambda: read_ms[0])
    joined.advance()
    visible.visible = len(archive.seals()) - 1
    joined.advance()
    reader = JoinedReader(tmp_path / "joined")
    assert reader.removed_through_ms() == read_ms[0]
    assert "rankers did not read them yet" in caplog.text
    assert min(reader.read(read_ms[0])["emitted_ms"].to_pylist()) < reader.through_ms() - HORIZON
    read_ms[0] = None
    visible.visible += 1
    joined.advance()
    assert reader.removed_through_ms() == reader.through_ms() - HORIZON


def test_an_archive_that_no_longer_goes_back_so_far(tmp_path):
    archive = fill(tmp_path / "archive", 13, portions=8)
    visible = SealBySeal(archive.root)
    visible.visible = 1
    JoinedLog(tmp_path / "behind", visible, SETTINGS).advance()  # then the join was switched off
    with Archive(archive.root, INTERVAL) as held:
        assert held.remove(T0 + 4 * HORIZON) > 2
    removed_ms = archive.removed_through_ms()
    with pytest.raises(EventsRemoved, match="behind"):
        JoinedLog(tmp_path / "behind", archive, SETTINGS).advance()
    JoinedLog(tmp_path / "new", archive, SETTINGS).advance()
    reader = JoinedReader(tmp_path / "new")
    assert reader.removed_through_ms() == removed_ms
    assert reader.read(None).num_rows
    with pytest.raises(EventsRemoved):
        reader.read(removed_ms - 1)
