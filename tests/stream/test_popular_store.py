"""What is popular now, against a plain sum over all events; exactly once, whatever is applied again."""

import random

import numpy as np
import pyarrow as pa
import pytest

from deploy.embedded import EmbeddedStore
from stream.archive import Archive
from stream.errors import StoreForgot, Unreachable
from stream.popular_counts import LANDMARK_HALF_LIVES, PopularNowConfig, segment_of
from stream.popular_store import PopularCounts, PopularReader
from stream.unapplied import whole_messages
from tests.stream.samples import T0, batch, event

HOUR = 3_600_000
SCENES = (("scene",), ("geo", "scene"))


@pytest.fixture
def config():
    return PopularNowConfig(kinds=("click", "purchase"), half_lives_h=(1, 24), by=SCENES[::-1])


@pytest.fixture
def prefix(topics):
    return topics("popular")


@pytest.fixture
def counts(store, config, prefix):
    writer = PopularCounts(store, config, prefix)
    yield writer
    writer.close()


def stream(n, seed=0, span_ms=200 * HOUR, items=30, first_ms=T0):
    """Events out of order: some hours or days late."""
    rng = np.random.default_rng(seed)
    made = []
    for at in range(n):
        late_ms = int(rng.choice([0, 0, 0, HOUR, 30 * HOUR]))
        context = {"geo": str(rng.choice(["US", "DE"]))} if rng.random() < 0.7 else {}
        made.append(
            event(
                at,
                ts_ms=first_ms + at * span_ms // n - late_ms,
                item_id=f"i{int(rng.zipf(1.5)) % items}",
                kind=str(rng.choice(["click", "click", "purchase", "view"])),
                scene=str(rng.choice(["home", "cart", ""])),
                context=context,
            )
        )
    return made


def brute(events, config, as_of_ms):
    """segment -> one {item: decayed count} per half-life, by the definition."""
    found = {}
    for one in events:
        if one.kind not in config.kinds or one.item_id is None:
            continue
        segments = [""]
        for fields in config.by:
            values = tuple(one.scene if name == "scene" else one.context.get(name, "") for name in fields)
            if all(values):
                segments.append(segment_of(fields, values))
        for segment in segments:
            lists = found.setdefault(segment, [{} for _ in config.half_lives_h])
            for counts, hours in zip(lists, config.half_lives_h, strict=True):
                key = one.item_id if isinstance(one.item_id, str) else f"#{one.item_id}"
                counts[key] = counts.get(key, 0.0) + 2.0 ** ((one.ts_ms - as_of_ms) / (hours * HOUR))
    return found


def decayed(reading, config):
    """What a reading says, as of its newest event."""
    return {
        segment: [
            {
                item: total * 2.0 ** ((one.landmark_ms - reading.newest_ms) / (hours * HOUR))
                for item, total in zip(one.items, one.sums, strict=True)
            }
            for one, hours in zip(lists, config.half_lives_h, strict=True)
        ]
        for segment, lists in reading.changed.items()
    }


def read(store, config, prefix, *after):
    reader = PopularReader(store, config, prefix)
    try:
        return reader.read(*after)
    finally:
        reader.close()


def assert_counts(store, config, prefix, events):
    counted = [one for one in events if one.kind in config.kinds]
    reading = read(store, config, prefix)
    assert reading.newest_ms == max(one.ts_ms for one in counted)
    expected, got = brute(events, config, reading.newest_ms), decayed(reading, config)
    assert sorted(reading.segments) == sorted(expected) == sorted(got)
    for segment, lists in expected.items():
        for wanted, held in zip(lists, got[segment], strict=True):
            assert held.keys() == wanted.keys()
            for item, count in wanted.items():
                assert held[item] == pytest.approx(count, rel=1e-9, abs=1e-100)
            assert list(held.values()) == sorted(held.values(), reverse=True)


def test_counts_are_those_of_the_definition(store, config, prefix, counts):
    events = stream(3_000)
    for first in range(0, 3_000, 700):
        counts.apply(batch(events[first : first + 700], range(first, min(first + 700, 3_000))))
    assert_counts(store, config, prefix, events)


def test_landmarks_move_and_nothing_overflows(store, prefix):
    """Half-lives of 4 and 15 s: a day is thousands of them, and landmarks are passed many times."""
    config = PopularNowConfig(kinds=("click", "purchase"), half_lives_h=(0.001, 0.004), by=(("scene",),))
    counts = PopularCounts(store, config, prefix)
    step = LANDMARK_HALF_LIVES * 3_600
    events = stream(400, span_ms=20 * step)
    events += stream(50, seed=1, first_ms=T0 + 60 * step, span_ms=1_000)  # long silence, then much at once
    events += stream(20, seed=2, first_ms=T0 + 19 * step, span_ms=1_000)  # a whole backlog, long gone
    events += stream(20, seed=3, first_ms=1 + 31 * HOUR, span_ms=1)  # the beginning of time
    for at, one in enumerate(events):
        counts.apply(batch([one], [at]))
    counts.close()
    reading = read(store, config, prefix)
    expected, got = brute(events, config, reading.newest_ms), decayed(reading, config)
    for segment, lists in expected.items():
        for wanted, held in zip(lists, got[segment], strict=True):
            for item, count in wanted.items():
                assert held.get(item, 0.0) == pytest.approx(count, rel=1e-9, abs=1e-100)
    assert all(np.isfinite(one.sums).all() for lists in reading.changed.values() for one in lists)


@pytest.mark.parametrize("seed", range(5))
def test_batches_in_any_pieces_and_again_count_once(store, config, prefix, counts, seed):
    rng = random.Random(seed)
    events = stream(600, seed)
    offsets, ordinals = [n // 4 for n in range(600)], [n % 4 for n in range(600)]
    cut = 0
    while cut < 150:
        again = rng.randint(0, cut)
        cut = min(150, cut + rng.randint(1, 40))
        rows = slice(4 * again, 4 * cut)
        counts.apply(batch(events[rows], offsets[rows], ordinals=ordinals[rows]))
        if rng.random() < 0.3:  # a process that was killed: another one begins with what the store says
            counts._held = None
    assert_counts(store, config, prefix, events)


def test_a_call_whose_answer_was_lost_is_not_counted_again(store, config, prefix, counts):
    events = stream(100)
    other = PopularCounts(store, config, prefix)
    other.apply(batch(events[:10], range(10)))
    counts.apply(batch(events[:10], range(10)))
    other.apply(batch(events[:60], range(60)))  # carried out, and `counts` does not know
    counts.apply(batch(events[10:], range(10, 100)))
    other.close()
    assert_counts(store, config, prefix, events)


def test_killed_between_archive_and_store(store, config, prefix, counts, tmp_path):
    events = stream(900)
    with Archive(tmp_path, interval_ms=HOUR) as archive:
        for partition in range(3):
            mine = batch(events[partition::3], partition=partition)
            archive.append(mine.slice(0, 200))
            counts.apply(mine.slice(0, 200))
            archive.append(mine.slice(200), {(0, partition): 400})
            if partition == 1:
                counts.apply(mine.slice(200, 50))
        archive.seal_through(T0 + 150 * HOUR)
        again = PopularCounts(store, config, prefix)
        assert again.repair(archive) == 100 + 50 + 100
        assert again.positions() == archive.next_offsets()
        assert again.repair(archive) == 0
        again.close()
    assert_counts(store, config, prefix, events)


def test_an_emptied_store_is_noticed_and_counted_anew(store, config, prefix, counts, tmp_path):
    events = stream(300)
    with Archive(tmp_path, interval_ms=HOUR) as archive:
        for first in (0, 100, 200):
            part = batch(events[first : first + 100], range(first, first + 100))
            archive.append(part)
            if first == 200:
                epoch = read(store, config, prefix).epoch
                counts._store.delete(*counts._store.scan_iter(f"{prefix}:*"))
                with pytest.raises(StoreForgot):
                    counts.apply(part)
                assert read(store, config, prefix).epoch == ""
            else:
                counts.apply(part)
        assert counts.repair(archive) == 300
    assert_counts(store, config, prefix, events)
    assert read(store, config, prefix).epoch not in ("", epoch)


def test_another_rule_counts_anew(store, config, prefix, counts, tmp_path):
    events = stream(300)
    changed = config.model_copy(update={"half_lives_h": (2.0,), "by": (("geo",),)})
    other = PopularCounts(store, changed, prefix)
    with Archive(tmp_path, interval_ms=HOUR) as archive:
        archive.append(batch(events))
        counts.repair(archive)
        assert read(store, changed, prefix).epoch == ""
        with pytest.raises(StoreForgot):
            other.apply(batch(events))
        other.repair(archive)
    other.close()
    assert_counts(store, changed, prefix, events)
    assert read(store, config, prefix).epoch == ""
    assert len(list(counts._store.scan_iter(f"{prefix}:*list:*"))) == 3  # all, US, DE


def test_sizes_are_bounded(store, prefix):
    config = PopularNowConfig(
        half_lives_h=(1, 5), by=(("device",),), keep=5, top=3, segments=2, kinds=("click",)
    )
    counts = PopularCounts(store, config, prefix)
    for n in range(40):
        counts.apply(batch([event(n, item_id=f"i{n}", context={"device": f"d{n % 4}"})], [n]))
    reading = read(store, config, prefix)
    first, second = (segment_of(("device",), (name,)) for name in ("d0", "d1"))
    assert sorted(reading.segments) == ["", first, second]
    assert reading.refused == 20
    assert reading.changed[""][0].items == ["i39", "i38", "i37"]
    for key in counts._store.scan_iter(f"{prefix}:*list:*"):
        assert counts._store.zcard(key) <= 5
    # After 20 half-lives without an event a segment makes room.
    counts.apply(batch([event(40, ts_ms=T0 + 101 * HOUR, context={"device": "d2"})], [40]))
    third = segment_of(("device",), ("d2",))
    reading = read(store, config, prefix)
    assert third in reading.segments
    assert len(reading.segments) == 3
    assert len(list(counts._store.scan_iter(f"{prefix}:*list:*"))) == 6
    counts.close()


def test_only_what_changed_is_read_again(store, config, prefix, counts):
    counts.apply(batch([event(0, scene="home"), event(1, scene="cart")]))
    first = read(store, config, prefix)
    assert len(first.changed) == 3
    same = read(store, config, prefix, first.epoch, first.sequence)
    assert (same.sequence, same.changed, len(same.segments)) == (first.sequence, {}, 3)
    counts.apply(batch([event(2, kind="view")], [2]))  # is not counted: nothing changed
    assert read(store, config, prefix, first.epoch, first.sequence).sequence == first.sequence
    counts.apply(batch([event(3, scene="cart")], [3]))
    then = read(store, config, prefix, first.epoch, first.sequence)
    assert set(then.changed) == {"", '{"scene":"cart"}'}
    assert set(read(store, config, prefix, "another epoch", first.sequence).changed) == set(first.segments)
    assert then.age_s < 60


def test_many_segments_are_read_in_parts(store, prefix):
    config = PopularNowConfig(by=(("device",),), segments=100)
    counts = PopularCounts(store, config, prefix)
    counts.apply(batch([event(n, context={"device": f"d{n}"}) for n in range(90)]))
    reading = read(store, config, prefix)
    assert len(reading.changed) == len(reading.segments) == 91
    assert reading.changed[segment_of(("device",), ("d7",))][0].items == ["#7"]
    assert read(store, config, prefix, reading.epoch, reading.sequence - 40).changed.keys() < set(
        reading.segments
    )
    assert read(store, config, prefix, reading.epoch, reading.sequence).changed == {}
    counts.close()


def test_messages_without_events_move_the_position(store, config, prefix, counts):
    counts.apply(batch([]), {(0, 3): 7})
    counts.apply(batch([event(0)]), {(0, 0): 9})
    assert counts.positions() == {(0, 3): 7, (0, 0): 9}


def test_reading_changes_nothing_and_an_absent_store_is_one_clear_error(store, config, prefix, counts):
    assert read(store, config, prefix).segments == []
    assert list(counts._store.scan_iter(f"{prefix}:*")) == []
    with pytest.raises(Unreachable, match=r"redis\.url.*127\.0\.0\.1:1"):
        PopularCounts("redis://127.0.0.1:1", config)
    with pytest.raises(Unreachable, match=r"redis\.url"):
        read("redis://127.0.0.1:1", config, prefix)


def test_a_store_that_refuses_commands_counts_as_absent(config, tmp_path):
    with EmbeddedStore(tmp_path) as service:
        writer = PopularCounts(service.url, config)
        writer._store.config_set("maxmemory", "1")
        with pytest.raises(Unreachable, match="OutOfMemory"):
            writer.apply(batch([event(0)]))
        writer.close()


def test_parts_hold_whole_messages():
    sizes = [3, 1, 5, 2, 2, 9, 1]
    offsets = [at for at, size in enumerate(sizes) for _ in range(size)]
    events = pa.Table.from_batches([batch(stream(len(offsets)), offsets)])
    parts = [part["offset"].to_pylist() for part in whole_messages(events, 4)]
    assert [sorted(set(part)) for part in parts] == [[0, 1], [2], [3, 4], [5], [6]]
    assert [offset for part in parts for offset in part] == offsets
    assert list(whole_messages(events.slice(0, 0), 4)) == []


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"half_lives_h": (1, 1)}, "different"),
        ({"half_lives_h": (0,)}, "above 0"),
        ({"weights": (1,)}, "each of 2"),
        ({"weights": (0, 0)}, "above 0, got none"),
        ({"by": ((),)}, "one field or more"),
        ({"top": 2_000}, "at most keep"),
    ],
)
def test_settings_that_do_not_fit_are_refused(given, wrong):
    with pytest.raises(ValueError, match=wrong):
        PopularNowConfig(**given)
