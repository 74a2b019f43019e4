import json
import os
import random
import signal
import subprocess
import sys

import duckdb
import polars
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.archive import Archive, ArchiveReader
from stream.errors import ArchiveLocked, CorruptLog
from stream.event import CANONICAL_ORDER, SEALED_SCHEMA
from tests.stream.samples import T0, batch, event

HOUR = 3_600_000


def everything(archive):
    """event ids of sealed and unsealed events, sorted."""
    sealed = ArchiveReader(archive.root).read(None, 2**62)["event_id"].to_pylist()
    return sorted(sealed + archive.unsealed()["event_id"].to_pylist())


def hours(*numbers):
    return [event(n, ts_ms=T0 + int(h * HOUR)) for n, h in enumerate(numbers)]


def test_append_then_reopen(tmp_path):
    with Archive(tmp_path) as archive:
        assert archive.append(batch([event(0), event(1)])) == 2
        assert archive.append(batch([event(2)], offsets=[9], partition=3)) == 1
        assert archive.next_offsets() == {(0, 0): 2, (0, 3): 10}
    with Archive(tmp_path) as archive:
        assert archive.next_offsets() == {(0, 0): 2, (0, 3): 10}
        assert everything(archive) == ["e0", "e1", "e2"]
        assert archive.newest_ms() == {(0, 0): T0 + 1000, (0, 3): T0 + 2000}


def test_positions_already_held_are_dropped(tmp_path):
    with Archive(tmp_path) as archive:
        archive.append(batch([event(0), event(1)]))
        assert archive.append(batch([event(1), event(2)], offsets=[1, 2])) == 1
        assert archive.append(batch([event(0)], incarnation=1)) == 1  # another topic: no duplicate
        assert everything(archive) == ["e0", "e0", "e1", "e2"]


def test_messages_without_events_move_the_position(tmp_path):
    with Archive(tmp_path) as archive:
        archive.append(batch([]), {(0, 0): 7})
        archive.append(batch([]), {(0, 0): 5})
    with Archive(tmp_path) as archive:
        assert archive.next_offsets() == {(0, 0): 7}


def test_incarnations_are_numbered_by_first_sight(tmp_path):
    with Archive(tmp_path) as archive:
        assert [archive.incarnation(t) for t in ("a", "b", "a")] == [0, 1, 0]
    with Archive(tmp_path) as archive:
        assert [archive.incarnation(t) for t in ("c", "b")] == [2, 1]
    assert ArchiveReader(tmp_path).incarnations() == ["a", "b", "c"]


def test_seals_are_consecutive_and_late_events_fall_into_the_next(tmp_path):
    with Archive(tmp_path) as archive:
        archive.append(batch(hours(0.5, 0.2, 3.1)))
        assert archive.seal_through(T0 + HOUR - 1) == []
        seals = archive.seal_through(T0 + 3 * HOUR)
        assert [(s.sequence, s.interval_end_ms - T0, s.events) for s in seals] == [
            (1, HOUR, 2), (2, 2 * HOUR, 0), (3, 3 * HOUR, 0),
        ]  # fmt: skip
        late = event(3, ts_ms=T0 + HOUR // 10)
        archive.append(batch([late], offsets=[3]))
        assert archive.seal_through(T0 + 3 * HOUR + HOUR // 2) == []
        assert [s.events for s in archive.seal_through(T0 + 4 * HOUR)] == [2]
        assert archive.unsealed().num_rows == 0
        assert archive.seals()[-1].positions == {"0:0": 4}
    reader = ArchiveReader(tmp_path)
    table = reader.read(T0 + 3 * HOUR, T0 + 4 * HOUR)
    assert table["event_id"].to_pylist() == ["e3", "e2"]
    assert table.schema.equals(SEALED_SCHEMA)
    assert reader.read(None, T0 + HOUR)["event_id"].to_pylist() == ["e1", "e0"]
    assert reader.read(T0 + HOUR, T0 + 2 * HOUR, ["event_id"]).num_rows == 0
    assert reader.sealed_through_ms() == T0 + 4 * HOUR


def test_a_year_of_empty_intervals_costs_one_act(tmp_path):
    with Archive(tmp_path) as archive:
        archive.append(batch(hours(0.5, 24 * 365 + 0.5)))
        assert len(archive.seal_through(T0 + 365 * 24 * HOUR)) == 365 * 24
        assert len(os.listdir(tmp_path / "sealed")) == 1


def test_replay_by_position_and_by_event_time(tmp_path):
    with Archive(tmp_path) as archive:
        archive.append(batch(hours(0.5, 0.2, 3.1), offsets=[4, 4, 8], ordinals=[0, 1, 0]))
        archive.append(batch(hours(0.6), partition=1))
        archive.seal_through(T0 + HOUR)
        archive.append(batch([event(9, ts_ms=T0 + 1)], offsets=[9]))
        archive.seal_through(T0 + 5 * HOUR)
    reader = ArchiveReader(tmp_path)
    assert reader.read_positions(0, 0)["offset"].to_pylist() == [4, 4, 8, 9]
    assert reader.read_positions(0, 0, 5, 9)["offset"].to_pylist() == [8]
    assert reader.read_positions(0, 1, columns=["ordinal"]).to_pydict() == {"ordinal": [0]}
    assert reader.read_times(T0, T0 + HOUR)["event_id"].to_pylist() == ["e9", "e1", "e0", "e0"]
    assert reader.read_times(T0 + 3 * HOUR, T0 + 4 * HOUR)["offset"].to_pylist() == [8]


@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=False))
def test_polls_may_return_in_any_way_the_seals_decide(tmp_path_factory, rng):
    """Arbitrary batches and seals: every event exactly once, canonical order, membership by the rule."""
    root = tmp_path_factory.mktemp("archive")
    taken, offset = [], [0, 0]
    with Archive(root, interval_ms=1000) as archive:
        for n in range(rng.randint(1, 12)):
            part, size = rng.randrange(2), rng.randint(0, 5)
            events = [event(n * 10 + i, ts_ms=T0 + rng.randint(0, 9000)) for i in range(size)]
            archive.append(batch(events, range(offset[part], offset[part] + size), part))
            taken += [(e.event_id, e.ts_ms, part, offset[part] + i) for i, e in enumerate(events)]
            offset[part] += size
            if rng.random() < 0.5:
                archive.seal_through(T0 + rng.randint(0, 9000))
        assert everything(archive) == sorted(t[0] for t in taken)
        seals = archive.seals()
    table = ArchiveReader(root).read(None, 2**62)
    rows = list(zip(*(table[c].to_pylist() for c in CANONICAL_ORDER), strict=True))
    assert rows == sorted(rows)
    expected = {}
    for event_id, ts_ms, part, place in taken:
        for seal in seals:
            if ts_ms < seal.interval_end_ms and place < seal.positions.get(f"0:{part}", 0):
                expected[event_id] = seal.interval_end_ms
                break
    assert (
        dict(zip(table["event_id"].to_pylist(), table["interval_end_ms"].to_pylist(), strict=True))
        == expected
    )
    for seal in seals:
        assert seal.events == sum(end == seal.interval_end_ms for end in expected.values())


class Crash(BaseException):
    pass


def run(root, step=lambda name: None):
    """The same story each time; positions already held are dropped, so it can be told again after a crash."""
    archive = Archive(root, step=step)
    try:
        archive.append(batch(hours(0.1, 0.2, 1.5)))
        archive.append(batch(hours(0.3, 2.5), partition=1))
        archive.seal_through(T0 + HOUR)
        archive.append(batch(hours(0.4, 1.4), offsets=[3, 4]))
        archive.seal_through(T0 + 2 * HOUR)
        return everything(archive), [(s.sequence, s.interval_end_ms, s.events) for s in archive.seals()]
    finally:
        archive.close()


def steps_of_a_run(tmp_path):
    seen = []
    result = run(tmp_path / "calm", seen.append)
    return seen, result


def test_crash_between_any_two_steps(tmp_path):
    steps, expected = steps_of_a_run(tmp_path)
    assert {
        "active head written",
        "seals synced",
        "parquet written",
        "parquet renamed",
        "active rewritten",
    } <= {*steps}
    for number in range(len(steps)):
        root = tmp_path / str(number)
        count = [0]

        def step(name, count=count, number=number):
            count[0] += 1
            if count[0] > number:
                raise Crash(name)

        with pytest.raises(Crash):
            run(root, step)
        with Archive(root) as archive:  # what was held is there once
            held = everything(archive)
            assert len(held) == sum(s.events for s in archive.seals()) + archive.unsealed().num_rows
        assert run(root)[0] == expected[0], steps[number]
        table = ArchiveReader(root).read(None, 2**62)
        assert (
            table.group_by(["partition", "offset"]).aggregate([([], "count_all")])["count_all"].to_pylist()
            == [1] * table.num_rows
        )


def test_torn_active_log_at_every_byte(tmp_path):
    with Archive(tmp_path / "a") as archive:
        archive.append(batch([event(0)]))
        first = archive._active.size
        archive.append(batch([event(1)], offsets=[1]))
    whole = (tmp_path / "a" / "active.log").read_bytes()
    for cut in random.Random(1).sample(range(len(whole)), 60):
        (tmp_path / "a" / "active.log").write_bytes(whole[:cut])
        with Archive(tmp_path / "a") as archive:
            kept = [] if cut < first else ["e0"]
            assert everything(archive) == kept
            assert archive.next_offsets() == ({(0, 0): 1} if kept else {})
            archive.append(batch([event(0), event(1)]))
            assert everything(archive) == ["e0", "e1"]


def test_torn_seal_log_at_every_byte(tmp_path):
    """A seal that is not whole was not decided: the events are still in the active log at that moment."""

    def stop(name):
        if name == "seals synced":
            raise Crash(name)

    archive = Archive(tmp_path, step=stop)
    archive.append(batch(hours(0.1, 1.2)))
    with pytest.raises(Crash):
        archive.seal_through(T0 + HOUR)
    archive.close()
    whole, active = (tmp_path / "seals.log").read_bytes(), (tmp_path / "active.log").read_bytes()
    for cut in range(0, len(whole) + 1, 3):
        (tmp_path / "seals.log").write_bytes(whole[:cut])
        (tmp_path / "active.log").write_bytes(active)
        for file in (tmp_path / "sealed").iterdir():
            file.unlink()
        with Archive(tmp_path) as archive:
            assert everything(archive) == ["e0", "e1"]
            assert len(archive.seals()) == (1 if cut == len(whole) else 0)


def test_reader_does_not_see_a_seal_before_its_file(tmp_path):
    def stop(name):
        if name == "parquet written":
            raise Crash(name)

    archive = Archive(tmp_path, step=stop)
    archive.append(batch(hours(0.1, 1.2)))
    with pytest.raises(Crash):
        archive.seal_through(T0 + HOUR)
    archive.close()
    assert ArchiveReader(tmp_path).seals() == []
    reader = ArchiveReader(tmp_path)
    with Archive(tmp_path):
        assert len(reader.seals()) == 1


def test_one_writer_at_a_time(tmp_path):
    with Archive(tmp_path), pytest.raises(ArchiveLocked, match=str(tmp_path)):
        Archive(tmp_path)
    Archive(tmp_path).close()


def test_a_lost_sealed_file_is_reported(tmp_path):
    with Archive(tmp_path) as archive:
        archive.append(batch(hours(0.1, 1.2)))
        archive.seal_through(T0 + HOUR)
    next((tmp_path / "sealed").iterdir()).unlink()
    with pytest.raises(CorruptLog, match="missing"):
        Archive(tmp_path)


def test_read_without_the_project(tmp_path):
    events = [event(n, value=n / 2, context={"geo": "de"} if n % 2 else {}) for n in range(20)]
    with Archive(tmp_path) as archive:
        archive.append(batch(events))
        archive.seal_through(T0 + HOUR)
    path = str(next((tmp_path / "sealed").iterdir()))
    script = (
        "import sys, json, pyarrow.parquet as pq\n"
        f"t = pq.read_table({path!r})\n"
        "assert not any(m.split('.')[0] == 'stream' for m in sys.modules)\n"
        "print(json.dumps([t.num_rows, t['event_id'].to_pylist(), dict(t['context'][1].as_py())]))"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path
    ).stdout
    assert json.loads(out) == [20, [e.event_id for e in events], {"geo": "de"}]
    assert polars.read_parquet(path)["event_id"].to_list() == [e.event_id for e in events]
    assert duckdb.sql(f"select count(*), sum(value), min(item_id) from '{path}'").fetchall() == [
        (20, 95.0, "#0")
    ]


WRITER = """
import sys
from stream.archive import Archive
from tests.stream.samples import T0, batch, event
with Archive(sys.argv[1], interval_ms=60_000) as archive:
    for n in range(archive.next_offsets().get((0, 0), 0), 100_000):
        archive.append(batch([event(n)], offsets=[n]))
        archive.seal_through(T0 + n * 1000)
        print(n, flush=True)
"""


def test_kill_9_of_the_writer(tmp_path):
    rng, acknowledged = random.Random(3), -1
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE
        ) as process:
            stop = acknowledged + rng.randint(60, 200)
            for line in process.stdout:
                acknowledged = int(line)
                if acknowledged >= stop:
                    process.send_signal(signal.SIGKILL)
                    break
    with Archive(tmp_path, interval_ms=60_000) as archive:
        offsets = ArchiveReader(tmp_path).read(None, 2**62)["offset"].to_pylist()
        offsets += archive.unsealed()["offset"].to_pylist()
        assert sorted(offsets) == list(range(len(offsets)))
        assert len(offsets) > acknowledged


def test_wrong_schema_is_refused(tmp_path):
    with Archive(tmp_path) as archive, pytest.raises(ValueError, match="EVENT_SCHEMA"):
        archive.append(pa.record_batch({"a": [1]}))
