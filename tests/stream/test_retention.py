"""Old events go once everybody has read them; whoever asks for them afterwards is told, never given less."""

import contextlib
import os
import random
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.archive import Archive, ArchiveConfig, ArchiveReader, Seal
from stream.errors import CorruptLog, EventsRemoved
from stream.retention import DAY_MS, Retention, applied_through_ms
from stream.unapplied import unapplied
from tests.stream.samples import T0, batch, event

INTERVAL = 1_000
ALWAYS = 2**62


def fill(archive: Archive, rng: random.Random, portions: int = 12) -> None:
    """Events of two partitions, some late, sealed in portions of one to three intervals; some are empty."""
    offset, end = [0, 0], 0
    for n in range(portions):
        end += rng.randint(1, 3)
        for partition in range(2):
            count = rng.choice([0, 0, 2, 5])
            times = [T0 + rng.randint(max(0, end - 4) * INTERVAL, end * INTERVAL - 1) for _ in range(count)]
            events = [event(100 * n + 10 * partition + i, ts_ms=ts) for i, ts in enumerate(times)]
            archive.append(batch(events, range(offset[partition], offset[partition] + count), partition))
            offset[partition] += count
        archive.seal_through(T0 + end * INTERVAL)


def ids(table: pa.Table) -> list[str]:
    found: list[str] = table["event_id"].to_pylist()
    return found


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False))
def test_every_answer_is_whole_or_an_error(tmp_path_factory, rng):
    root = tmp_path_factory.mktemp("archive")
    with Archive(root, INTERVAL) as archive:
        fill(archive, rng)
        reader = ArchiveReader(root)
        all_events, seals = reader.read(None, ALWAYS), archive.seals()
        acts = archive._acts
        through_ms = T0 + rng.randint(0, 40) * INTERVAL
        removed_ms = max(
            (a.seals[-1].interval_end_ms for a in acts[:-1] if a.seals[-1].interval_end_ms <= through_ms),
            default=None,
        )
        archive.remove(through_ms)
        assert reader.removed_through_ms() == removed_ms
        assert archive.seals() == reader.seals() == seals
        columns = ("event_id", "interval_end_ms", "ts_ms", "partition", "offset")
        rows = list(zip(*(all_events[name].to_pylist() for name in columns), strict=True))
        assert ids(reader.read(None, ALWAYS)) == [r[0] for r in rows if r[1] > (removed_ms or 0)]
        for _ in range(20):
            low, high = sorted(T0 + rng.randint(0, 40) * INTERVAL for _ in range(2))
            wanted = [r for r in rows if low < r[1] <= high]
            asked(lambda low=low, high=high: reader.read(low, high), wanted, removed_ms)
            start, partition = rng.randint(0, 30), rng.randrange(2)
            wanted = sorted((r for r in rows if r[3] == partition and r[4] >= start), key=lambda r: r[4])
            asked(lambda p=partition, s=start: reader.read_positions(0, p, s), wanted, removed_ms)
            asked(
                lambda low=low, high=high: reader.read_times(low, high),
                sorted((r for r in rows if low <= r[2] < high), key=lambda r: (r[2], r[3], r[4])), removed_ms,
            )  # fmt: skip


def asked(read, wanted, removed_ms):
    """Everything wanted is given; an error only where some of it may be gone."""
    if any(row[1] <= (removed_ms or 0) for row in wanted):
        with pytest.raises(EventsRemoved, match=str(removed_ms)):
            read()
        return
    with contextlib.suppress(EventsRemoved):
        assert ids(read()) == [row[0] for row in wanted]


class Crash(BaseException):
    pass


@pytest.mark.parametrize("moment", ["before", "after"])
def test_crash_around_any_durable_step(tmp_path, monkeypatch, moment):
    """Every fsync, rename and unlink of a removal: what readers see is one of two states, and afterwards
    the same files are there as without a crash.
    """
    through_ms = T0 + 15 * INTERVAL

    def prepared(root):
        with Archive(root, INTERVAL) as archive:
            fill(archive, random.Random(4))
        return root

    def story(root):
        with Archive(root, INTERVAL) as archive:
            archive.remove(through_ms)

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

    calm = prepared(tmp_path / "calm")
    before = ids(ArchiveReader(calm).read(None, ALWAYS))
    roots = [prepared(tmp_path / f"{n}") for n in range(40)]
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", counted(os.fsync))
        for name in ("rename", "unlink"):
            patched.setattr(Path, name, counted(getattr(Path, name)))
        story(calm)
        steps, expected = count[0], tree(calm)
        after = ids(ArchiveReader(calm).read(None, ALWAYS))
        assert 8 < steps < len(roots)
        assert len(after) < len(before)
        for number in range(1, steps + 1):
            root = roots[number]
            count[:] = [0, number]
            with pytest.raises(Crash):
                story(root)
            count[1] = -1
            reader = ArchiveReader(root)
            decided = reader.removed_through_ms() is not None
            assert ids(reader.read(None, ALWAYS)) == (after if decided else before)
            with Archive(root, INTERVAL) as archive:  # what was decided is carried out, nothing else
                left = {path.name for path in (root / "sealed").iterdir()}
                assert (left == {Path(n).name for n in expected if n.startswith("sealed")}) == decided
                archive.remove(through_ms)
            assert tree(root) == expected, number


def test_steps_are_told_in_order_and_a_second_removal_costs_nothing(tmp_path):
    told = []
    with Archive(tmp_path, INTERVAL, step=told.append) as archive:
        fill(archive, random.Random(1))
        told.clear()
        files = archive.remove(T0 + 10 * INTERVAL)
        assert files > 2
        assert told == ["removal decided"] + ["file removed"] * files
        assert archive.remove(T0 + 10 * INTERVAL) == archive.remove(T0) == 0
        assert len(told) == files + 1
        archive.remove(ALWAYS)
        assert [path.name for path in (tmp_path / "sealed").iterdir()] == [archive._acts[-1].file]
        fill_more = event(9_999, ts_ms=T0 + 60 * INTERVAL)
        archive.append(batch([fill_more], offsets=[500]))
        assert archive.seal_through(T0 + 61 * INTERVAL)
    assert "e9999" in ids(ArchiveReader(tmp_path).read(None, ALWAYS))


def test_a_file_that_goes_while_it_is_asked_for_is_told(tmp_path, monkeypatch):
    with Archive(tmp_path, INTERVAL) as archive:
        fill(archive, random.Random(2))
        reader = ArchiveReader(tmp_path)
        kept = ArchiveReader._kept

        def slow(self, acts, *bounds):
            found = kept(self, acts, *bounds)
            archive.remove(ALWAYS)
            return found

        monkeypatch.setattr(ArchiveReader, "_kept", slow)
        with pytest.raises(EventsRemoved, match="keep_days"):
            reader.read(None, ALWAYS)


def test_removed_json_of_another_archive_is_refused(tmp_path):
    with Archive(tmp_path, INTERVAL) as archive:
        fill(archive, random.Random(3))
    for content, message in (
        (b'{"through_ms": %d}' % ALWAYS, "another archive"),
        (b'{"through', "something else"),
    ):
        (tmp_path / "removed.json").write_bytes(content)
        with pytest.raises(CorruptLog, match=message):
            Archive(tmp_path, INTERVAL)


def days(archive: Archive, number: int) -> None:
    """One event and one seal a day."""
    for n in range(number):
        archive.append(batch([event(n, ts_ms=T0 + n * DAY_MS)], offsets=[n]))
        archive.seal_through(T0 // DAY_MS * DAY_MS + (n + 1) * DAY_MS)


def test_the_slowest_reader_decides(tmp_path):
    with Archive(tmp_path, DAY_MS) as archive:
        days(archive, 12)
        ends = [seal.interval_end_ms for seal in archive.seals()]
        marks = {"training": None, "join": ends[8]}
        readers = {name: lambda name=name: marks[name] for name in marks}
        assert Retention(archive, ArchiveConfig(), readers).apply() == 0  # keep_days = 0: for ever
        retention = Retention(archive, ArchiveConfig(keep_days=4), readers)
        assert retention.apply() == 0
        assert retention.size.held_ms == {"training": 7 * DAY_MS + 1, "join": 0}
        marks["training"] = ends[2]
        assert retention.apply() == 3
        assert archive.remove(0) == 0
        assert ArchiveReader(tmp_path).removed_through_ms() == ends[2]
        marks["training"] = ends[11]
        assert retention.apply() == 5  # eight are older than four days
        assert retention.size.removed == 8
        assert retention.size.files == 4
        assert retention.size.file_bytes == sum(p.stat().st_size for p in (tmp_path / "sealed").iterdir())
        assert retention.size.held_ms == {"training": 0, "join": 0}

        def away():
            raise OSError("cannot be asked")

        with pytest.raises(OSError, match="cannot be asked"):
            Retention(archive, ArchiveConfig(keep_days=1), {"store": away}).apply()
        assert retention.apply() == 0


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=8),
    st.integers(0, 20),
    st.integers(0, 20),
)
def test_applied_through_is_the_last_seal_that_lies_before_the_positions(steps, first, second):
    seals, at = [], [0, 0]
    for n, (a, b) in enumerate(steps):
        at = [at[0] + a, at[1] + b]
        seals.append(Seal(n + 1, (n + 1) * INTERVAL, {"0:0": at[0], "0:1": at[1]}, a + b))
    done = {(0, 0): first, (0, 1): second, (1, 0): 3}
    expected = [
        s.interval_end_ms for s in seals if s.positions["0:0"] <= first and s.positions["0:1"] <= second
    ]
    assert applied_through_ms(seals, done) == (expected[-1] if expected else None)
    assert applied_through_ms(seals, {}) == max(
        (s.interval_end_ms for s in seals if not any(s.positions.values())), default=None
    )


def test_an_emptied_store_is_given_what_is_kept_and_that_is_said(tmp_path, caplog):
    with Archive(tmp_path, INTERVAL) as archive:
        fill(archive, random.Random(5))
        every = ids(ArchiveReader(tmp_path).read(None, ALWAYS))
        archive.remove(T0 + 10 * INTERVAL)
        kept = ids(ArchiveReader(tmp_path).read(None, ALWAYS)) + ids(archive.unsealed())
        assert 0 < len(kept) < len(every)
        given_back, marks = [], {}
        for events, following in unapplied(archive, {}):
            given_back += ids(events)
            marks |= following
        assert sorted(given_back) == sorted(kept)
        assert marks == archive.next_offsets()
        assert "no more than what is kept" in caplog.text
        caplog.clear()
        removed_ms = ArchiveReader(tmp_path).removed_through_ms()
        again = [e for events, _ in unapplied(archive, {}, removed_ms) for e in ids(events)]
        assert sorted(again) == sorted(kept)  # who forgets by then lacks nothing
        assert not caplog.text
