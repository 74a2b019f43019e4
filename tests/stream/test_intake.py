"""The intake over a real broker: every event once, bad ones in the dead letters, whatever is killed."""

import asyncio
import base64
import math
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import msgpack
import pyarrow as pa
import pytest

from deploy.embedded import EmbeddedBroker, EmbeddedStore
from stream.archive import Archive, ArchiveReader
from stream.codec import encode
from stream.dead_letters import DeadLetters
from stream.errors import StreamError, Unreachable
from stream.intake import Intake, IntakeConfig
from stream.popular_counts import PopularNowConfig
from stream.popular_store import PopularCounts, PopularReader
from stream.producer import DeliveryFailed, EventProducer
from stream.profiles import AsyncProfiles, ProfileConfig, Profiles
from stream.reader import Reader
from stream.seen_config import SeenConfig
from stream.seen_store import SeenSets
from stream.topics import KafkaConfig, Topics
from tests.stream.samples import T0, event

DAY = 86_400_000


@pytest.fixture
def kafka(broker, topics):
    return KafkaConfig(bootstrap=broker, events=topics("events"), group_id=topics("group"))


@contextmanager
def running(
    kafka,
    root,
    profiles=None,
    idle_s=0.3,
    publish=None,
    on_seal=lambda seals: None,
    archive=None,
    item_counts=(),
    seen=None,
):
    archive = archive or Archive(root / "archive")
    letters = DeadLetters(root / "dead.jsonl", publish)
    config = IntakeConfig(idle_s=idle_s)
    beside = {"config": config, "item_counts": item_counts, "seen": seen}
    intake = Intake(kafka, archive, profiles, letters, on_seal, **beside)
    stop = threading.Event()
    failures = []

    def run():
        try:
            intake.run(stop)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield intake
    finally:
        stop.set()
        thread.join()
        archive.close()
        if failures:
            raise failures[0]


def held(root):
    """Every archived event as (event id, incarnation), sealed or not."""
    table = ArchiveReader(root / "archive").read(None, 2**62, ["event_id", "incarnation"])
    rows = list(zip(table["event_id"].to_pylist(), table["incarnation"].to_pylist(), strict=True))
    with Archive(root / "archive") as archive:
        table = archive.unsealed()
    return sorted(
        rows + list(zip(table["event_id"].to_pylist(), table["incarnation"].to_pylist(), strict=True))
    )


def test_events_in_events_archived(kafka, tmp_path, eventually):
    seals = []
    with EventProducer(kafka) as producer, running(kafka, tmp_path, on_seal=seals.extend) as intake:
        producer.send(event(n) for n in range(40))
        producer.send_packed([event(n, user_id=n % 9) for n in range(40, 400)])
        producer.flush()
        eventually(lambda: intake.counts.events == 400)
        producer.send(
            [event(400, ts_ms=T0 + 3_600_000)]
        )  # the next hour: seals the first once others are idle
        producer.flush()
        eventually(lambda: seals)
    assert (seals[0].interval_end_ms, seals[0].events) == (T0 + 3_600_000, 400)
    assert held(tmp_path) == sorted((f"e{n}", 0) for n in range(401))
    assert intake.counts.duplicates == 0


def test_a_table_goes_through_send_table(kafka, tmp_path, eventually):
    table = pa.table(
        {
            "event_id": ["a", "b"], "ts_ms": [T0, T0 + 1], "user_id": [1, 2], "item_id": ["x", ""],
            "kind": ["click", "search"], "value": [math.nan, 2.0],
        }
    )  # fmt: skip
    with EventProducer(kafka) as producer, running(kafka, tmp_path) as intake:
        producer.send_table(table)
        producer.flush()
        eventually(lambda: intake.counts.events == 2)
        rows = intake.archive.unsealed().to_pylist()
    assert [(r["user_id"], r["item_id"], r["value"]) for r in rows] == [("#1", "x", None), ("#2", "", 2.0)]


GOOD = {"event_id": "g", "ts_ms": T0, "user_id": "u", "item_id": "i", "kind": "click"}
BAD = [
    (b"\xc1 not msgpack", "malformed"),
    (b"", "malformed"),
    (msgpack.packb({**GOOD, "v": 9}), "schema_version"),
    (msgpack.packb({"v": 1, "event_id": "x", "ts_ms": T0, "kind": "click"}), "missing_field"),
    (msgpack.packb({**GOOD, "v": 1, "item_id": None}), "missing_field"),
    (msgpack.packb({**GOOD, "v": 1, "user_id": "x" * 257}), "invalid_id"),
    (msgpack.packb({**GOOD, "v": 1, "item_id": "ü" * 200}), "invalid_id"),
    (msgpack.packb({**GOOD, "v": 1, "value": math.nan}), "invalid_value"),
    (msgpack.packb({**GOOD, "v": 1, "kind": "teleport"}), "unknown_kind"),
    (msgpack.packb({**GOOD, "v": 1, "ts_ms": T0 + 365 * DAY}), "time_future"),
    (msgpack.packb({**GOOD, "v": 1, "ts_ms": T0 + 365_000 * DAY}), "time_future"),
    (msgpack.packb({**GOOD, "v": 1, "ts_ms": T0 - 800 * DAY}), "time_past"),
    (msgpack.packb({**GOOD, "v": 1, "ts_ms": -5}), "invalid_value"),
]


def test_bad_input_is_dead_lettered_and_the_loop_unharmed(kafka, tmp_path, eventually):
    with EventProducer(kafka) as producer:
        good = [event(n, user_id="u") for n in range(len(BAD) + 1)]

        def publish(line):
            producer.send_raw(kafka.dead, line)

        with Topics(kafka) as topics:
            topics.ensure([kafka.dead])
        with running(kafka, tmp_path, publish=publish) as intake:
            producer.send_raw(kafka.events, encode(good[0]), partition=2)
            for (content, _), after in zip(BAD, good[1:], strict=True):
                producer.send_raw(kafka.events, content, partition=2)
                producer.send_raw(kafka.events, encode(after), partition=2)
            packed = msgpack.packb(
                {"v": 1, "events": [GOOD, {**GOOD, "kind": "?"}, {**GOOD, "event_id": "h"}]}
            )
            producer.send_raw(kafka.events, packed, partition=2)
            producer.flush()
            eventually(lambda: intake.counts.messages == 2 * len(BAD) + 2)
            producer.flush()
            letters = intake.dead_letters.read()
            assert sum(intake.counts.dead.values()) == len(BAD) + 1
            assert intake.archive.next_offsets() == {(0, 2): 2 * len(BAD) + 2}
    reasons = {(one.offset, one.ordinal): one.reason for one in letters}
    assert reasons == {
        **{(2 * n + 1, 0): reason for n, (_, reason) in enumerate(BAD)},
        (2 * len(BAD) + 1, 1): "unknown_kind",
    }
    assert {(one.topic, one.partition) for one in letters} == {(kafka.events, 2)}
    first = next(one for one in letters if one.offset == 1)
    assert base64.b64decode(first.content) == BAD[0][0]
    assert sorted(e for e, _ in held(tmp_path)) == sorted([e.event_id for e in good] + ["g", "h"])

    dead = kafka.model_copy(update={"events": kafka.dead, "group_id": "dead"})
    with running(dead, tmp_path / "dead") as intake:  # the topic holds the same letters
        eventually(lambda: intake.counts.messages == len(letters))


def test_restart_reads_nothing_twice(kafka, tmp_path, eventually):
    with EventProducer(kafka) as producer:
        for part in range(3):
            with running(kafka, tmp_path) as intake:
                producer.send(event(n) for n in range(part * 50, part * 50 + 50))
                producer.send_raw(kafka.events, b"bad", partition=1)
                producer.flush()
                eventually(lambda intake=intake: intake.counts.messages == 51)
                assert intake.counts.duplicates == 0
    assert held(tmp_path) == sorted((f"e{n}", 0) for n in range(150))
    assert len(DeadLetters(tmp_path / "dead.jsonl").read()) == 3


def test_profiles_follow_within_a_second(kafka, store, topics, tmp_path, eventually):
    profiles = Profiles(store, ProfileConfig(prefix=topics("intake")))
    with EventProducer(kafka) as producer, running(kafka, tmp_path, profiles):
        producer.send([event(0, user_id="u")])
        producer.flush()
        eventually(lambda: profiles.positions())
        followed_s = []
        for number in range(1, 5):
            began = time.monotonic()
            producer.send([event(number, user_id="u")])
            producer.flush()
            clicks = str(number + 1).encode()
            eventually(
                lambda clicks=clicks: (
                    profiles._store.hget(f"{profiles.config.prefix}:{{u:u}}", "n:click") == clicks
                )
            )
            followed_s.append(time.monotonic() - began)
        assert min(followed_s) < 1.0  # a busy machine may hold one of them up


def test_an_absent_store_holds_nothing_up_and_is_repaired(kafka, topics, tmp_path, eventually):
    with EmbeddedStore(tmp_path / "store") as service, EventProducer(kafka) as producer:
        profiles = Profiles(service.url, ProfileConfig(prefix=topics("repair")))
        counter = (f"{profiles.config.prefix}:{{u:u}}", "n:click")
        popular = PopularCounts(service.url, PopularNowConfig(half_lives_h=(24,)), topics("repair"))
        sets = {"clicked": SeenConfig(kinds=("click",), items=7)}
        seen = SeenSets(service.url, sets, profiles.config.prefix)
        with running(kafka, tmp_path, profiles, item_counts=[popular], seen=seen) as intake:
            for first in (0, 50, 100):
                if first == 50:
                    service.stop()
                elif first == 100:
                    service.start()
                producer.send(event(n, user_id="u") for n in range(first, first + 50))
                producer.flush()
                eventually(lambda total=first + 50: intake.counts.events == total)
            eventually(lambda: profiles.positions() == intake.archive.next_offsets())
            eventually(lambda: popular.positions() == intake.archive.next_offsets())
            assert profiles._store.hget(*counter) == b"150"
            (everything,) = PopularReader(service.url, popular.config, topics("repair")).read().changed[""]
            decayed = sum(2.0 ** ((T0 + n * 1000 - everything.landmark_ms) / DAY) for n in range(150))
            assert sum(everything.sums) == pytest.approx(decayed)
            eventually(lambda: seen.positions() == intake.archive.next_offsets())
            (held,) = asyncio.run(AsyncProfiles(service.url, profiles.config, sets).fetch("u")).seen
            assert held.last_ms == {f"#{n % 11}": T0 + n * 1000 for n in range(143, 150)}
            assert intake.counts.seen_dropped >= 4


@pytest.mark.parametrize("bound", [{"queue_messages": 100}, {"queue_bytes": 100 * 50}])
def test_a_slow_archive_pauses_the_polling(kafka, tmp_path, eventually, monkeypatch, bound):
    """Back-pressure: polled messages stay bounded while the archive is stuck, and nothing is lost."""
    small = kafka.model_copy(update=bound)
    gate, readers = threading.Event(), []

    class Watched(Reader):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            readers.append(self)

    def step(name):
        if name == "active synced":
            gate.wait(20)

    monkeypatch.setattr("stream.intake.Reader", Watched)
    archive = Archive(tmp_path / "archive", step=step)
    with EventProducer(small) as producer:
        producer.send(event(n) for n in range(3000))
        producer.flush()
        with running(small, tmp_path, archive=archive) as intake:
            eventually(lambda: readers and readers[0]._consumer.paused())
            if "queue_messages" in bound:  # a poll is never cut by bytes
                assert readers[0]._queued <= 300
                assert intake.counts.events <= 300
            gate.set()
            eventually(lambda: intake.counts.events == 3000)
    assert held(tmp_path) == sorted((f"e{n}", 0) for n in range(3000))


CONSUMER = """
import sys, threading
from pathlib import Path
from stream.archive import Archive
from stream.dead_letters import DeadLetters
from stream.intake import Intake, IntakeConfig
from stream.topics import KafkaConfig
root = Path(sys.argv[1])
kafka = KafkaConfig(bootstrap=sys.argv[2], events=sys.argv[3], group_id=sys.argv[3], assignment=sys.argv[4])
archive = Archive(root / "archive", interval_ms=60_000)
intake = Intake(kafka, archive, None, DeadLetters(root / "dead.jsonl"), config=IntakeConfig(idle_s=1))
take_in = intake.take_in
def report(chunks):
    for chunk in chunks:                        # small appends, so that a kill falls between many of them
        for first in range(0, len(chunk.records), 20):
            take_in([chunk._replace(records=chunk.records[first:first + 20])])
            print(sum(archive.next_offsets().values()), flush=True)
intake.take_in = report
intake.run(threading.Event())
"""


def consumer(root, kafka, assignment="all"):
    command = [sys.executable, "-c", CONSUMER, str(root), kafka.bootstrap, kafka.events, assignment]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_kill_9_in_the_middle_of_a_stream(kafka, tmp_path):
    total = 4000
    with EventProducer(kafka) as producer:
        producer.send(event(n) for n in range(total))
    for stop in (700, 1900, total):
        with consumer(tmp_path, kafka) as process:
            for line in process.stdout:
                if int(line) >= stop:
                    break
            process.send_signal(signal.SIGKILL)
    ids = [e for e, _ in held(tmp_path)]
    assert len(ids) == len(set(ids)) == total


def test_a_broker_that_lost_its_memory_is_a_new_incarnation(tmp_path, eventually):
    with EmbeddedBroker(tmp_path / "broker") as service:
        kafka = KafkaConfig(bootstrap=service.address, events="events")
        with EventProducer(kafka) as producer:
            producer.send(event(n) for n in range(300))
            producer.flush()
            with running(kafka, tmp_path) as intake:
                eventually(lambda: intake.counts.events == 300)
                # The broker restarts under a running intake and a running producer.
                service.stop()
                service.start()
                producer.send(event(n) for n in range(300, 500))
                with pytest.raises(DeliveryFailed):
                    producer.flush(5)
                eventually(lambda: intake._topic_id != "" and _exists(kafka))
                producer.send(event(n) for n in range(300, 500))
                producer.flush()
                eventually(lambda: intake.counts.events == 500)
        # And once more while nobody looks.
        service.stop()
        service.start()
        with EventProducer(kafka) as producer, running(kafka, tmp_path) as intake:
            producer.send(event(n) for n in range(100))
            producer.flush()
            eventually(lambda: intake.counts.events == 100)
            assert intake.counts.duplicates == 0
    incarnations = [incarnation for _, incarnation in held(tmp_path)]
    assert [incarnations.count(i) for i in range(3)] == [300, 200, 100]


def _exists(kafka):
    with Topics(kafka) as topics:
        return kafka.events in topics.describe([kafka.events])


def test_absent_broker_is_one_clear_error(tmp_path):
    kafka = KafkaConfig(bootstrap="127.0.0.1:1", connect_timeout_ms=300)
    with pytest.raises(Unreachable, match=r"kafka\.bootstrap.*127\.0\.0\.1:1"):
        EventProducer(kafka)
    with pytest.raises(Unreachable, match=r"kafka\.bootstrap"), running(kafka, tmp_path):
        pass


def test_a_broken_archive_stops_the_intake_with_its_cause(kafka, tmp_path):
    def broken(name):
        if name == "active head written":
            raise StreamError("broken on purpose")

    archive = Archive(tmp_path / "archive", step=broken)
    with EventProducer(kafka) as producer:
        producer.send([event(0)])
    intake = Intake(kafka, archive, None, DeadLetters(tmp_path / "dead.jsonl"))
    with pytest.raises(StreamError, match="on purpose"):
        intake.run(threading.Event())
    archive.close()


def test_members_of_a_group_share_the_partitions(kafka, tmp_path, eventually):
    shared = kafka.model_copy(update={"assignment": "group", "session_timeout_ms": 2000})
    with EventProducer(shared) as producer:
        producer.send(event(n, user_id=n) for n in range(100))
        producer.flush()
        with running(shared, tmp_path / "a") as one:
            eventually(lambda: one.counts.events == 100)
        with running(shared, tmp_path / "b") as two:  # another archive goes on from the committed offsets
            producer.send(event(n, user_id=n) for n in range(100, 150))
            producer.flush()
            eventually(lambda: two.counts.events == 50)
    assert len(held(tmp_path / "a") + held(tmp_path / "b")) == 150


def test_a_broker_that_flickers_while_partitions_are_assigned_is_waited_out(
    kafka, tmp_path, eventually, monkeypatch
):
    connect, seek, calls, seeks = Reader._connect, Reader._seek, [], []

    def flicker(reader):
        calls.append(None)
        if len(calls) in (2, 3):  # the first one is that of the start, which may fail
            raise Unreachable("kafka.bootstrap", kafka.bootstrap)
        return connect(reader)

    def first_lost(reader, places, states):
        seeks.append(None)
        if len(seeks) == 1:
            raise Unreachable("kafka.bootstrap", kafka.bootstrap)
        seek(reader, places, states)

    monkeypatch.setattr(Reader, "_connect", flicker)
    monkeypatch.setattr(Reader, "_seek", first_lost)
    with running(kafka, tmp_path) as intake, EventProducer(kafka) as producer:
        producer.send([event(0)])
        producer.flush()
        eventually(lambda: intake.counts.events == 1)
    assert len(calls) == 4


def test_a_wrong_client_option_is_not_called_an_absent_broker(kafka):
    wrong = kafka.model_copy(update={"options": {"nonsense": 1}})
    with pytest.raises(StreamError, match=r"kafka\.options: KafkaAdminClient: .*nonsense") as caught:
        Topics(wrong)
    assert not isinstance(caught.value, Unreachable)
