import json
import re
from pathlib import Path

import msgpack

from stream.archive import ArchiveConfig
from stream.codec import REASONS, decode, encode
from stream.event import KINDS, Event
from stream.topics import KafkaConfig
from stream.validate import TimeLimits, bad_fields
from tests.stream.samples import batch

DOCS = (Path(__file__).parents[2] / "docs" / "events.md").read_text()


def test_an_example_of_each_kind_is_valid():
    block = re.search(r"```json\n(.*?)```", DOCS, re.S).group(1)
    events = [decode(msgpack.packb(json.loads(line)))[0] for line in block.splitlines()]
    assert tuple(event.kind for event in events) == KINDS
    assert bad_fields(batch(events)) == {}


def test_the_bytes_shown_are_the_bytes():
    event = Event(
        event_id="e1",
        ts_ms=1_493_596_800_000,
        user_id="anna",
        item_id=42,
        kind="purchase",
        value=3.5,
        context={"geo": "de"},
    )
    shown = re.search(r"^bytes +(.*) \.\.\.$", DOCS, re.M).group(1).replace(" ", "")
    assert encode(event).hex().startswith(shown)


def test_reasons_and_defaults_are_those_of_the_code():
    assert re.findall(r"^\| `(\w+)` \| [^|]+\|$", DOCS, re.M)[-len(REASONS) :] == list(REASONS)
    kafka, times = KafkaConfig(), TimeLimits()
    assert (kafka.events, kafka.items, kafka.users, kafka.dead) == ("events", "items", "users", "events.dead")
    assert (kafka.partitions, kafka.pack, ArchiveConfig().interval_ms) == (4, 50, 3_600_000)
    assert (times.future_ms, times.too_old_ms, times.believe_after) == (
        30 * 86_400_000,
        400 * 86_400_000,
        100,
    )
