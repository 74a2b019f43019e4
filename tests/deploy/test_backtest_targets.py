"""What is asked: the protocol restated row by row, hash samples, intervals, histories as of the moment."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest

from deploy.backtest.events import event_stream, ids_of, key_texts
from deploy.backtest.observer import BLOCK, Observer
from deploy.backtest.plan import steps
from deploy.backtest.targets import Targets, targets_of
from deploy.errors import StartError
from models.catalogue_columns import CatalogueColumns
from models.model_config import ModelConfig
from stream.event import EVENT_SCHEMA
from stream.keys import decode_id, encode_id
from tests.deploy.backtest_data import HOUR, POSITIVES, START, event_table
from updater.state import Recipe

HISTORY = 8


def protocol(table: pa.Table) -> list[dict[str, object]]:
    """The protocol in plain Python: filter, stable sort, first of each (request, item), number from 0."""
    rows = [row for row in table.to_pylist() if row["kind"] in POSITIVES]
    rows.sort(key=lambda row: row["ts_ms"])
    seen, kept = set(), []
    for number, row in enumerate(rows):
        request = row["request_id"] or ("alone", number)
        if (request, row["item_id"]) not in seen:
            seen.add((request, row["item_id"]))
            kept.append({**row, "request": request})
    return kept


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return event_table()


@pytest.fixture(scope="module")
def targets(table: pa.Table) -> Targets:
    return targets_of(event_stream(table).events, POSITIVES)


def test_targets_are_those_of_the_protocol(table: pa.Table, targets: Targets) -> None:
    expected = protocol(table)
    assert len(targets) == len(expected) < sum(kind in POSITIVES for kind in table["kind"].to_pylist())
    assert targets.ts_ms.tolist() == [row["ts_ms"] for row in expected]
    items = ids_of(targets.item_keys, pa.string()).to_pylist()
    assert [items[item] for item in targets.item] == [row["item_id"] for row in expected]
    users = targets.user_keys.to_pylist()
    assert [users[user] for user in targets.user] == [row["user_id"] for row in expected]


def test_what_came_before_is_earlier_and_of_other_requests(table: pa.Table, targets: Targets) -> None:
    expected = protocol(table)
    rows = np.arange(0, len(targets), 7)
    history = targets.before(rows)
    by_user = defaultdict(list)
    for number, row in enumerate(expected):
        by_user[row["user_id"]].append(number)
    some_left_out = False
    for at, number in enumerate(rows):
        own = expected[number]
        earlier = [other for other in by_user[own["user_id"]] if other < number]
        before = [
            other
            for other in earlier
            if expected[other]["ts_ms"] < own["ts_ms"] and expected[other]["request"] != own["request"]
        ]
        some_left_out |= len(before) < len(earlier)
        part = slice(history.offsets[at], history.offsets[at + 1])
        assert history.targets[part].tolist() == before
        assert history.items[part].tolist() == targets.item[before].tolist()
    assert some_left_out


def test_the_observer_reads_the_same_histories() -> None:
    table = event_table(shared=False)
    targets = targets_of(event_stream(table).events, POSITIVES)
    config = ModelConfig(
        positives=POSITIVES, history_length=HISTORY, own_items=0, dim=8, id_dim=8, hidden=(8,)
    )
    observer = Observer(Recipe({"m": config}, (), POSITIVES, HOUR), targets, HOUR)
    stream, rows = event_stream(table), np.arange(0, len(targets), 5)
    middle_ms = START + 30 * HOUR
    rows = rows[targets.ts_ms[rows] >= middle_ms]
    observer.observe(stream.between(None, middle_ms), CatalogueColumns())
    observer.take(stream.between(middle_ms, 2 * START), CatalogueColumns(), rows)
    history = targets.before(rows)
    at = 0
    for block in observer.blocks(rows):
        moments = block.moments["m"]
        assert len(moments) == BLOCK
        users = moments.user_id.to_pylist()
        keys = moments.history_id.to_pylist()
        for place, row in enumerate(block.rows):
            assert moments.ts_ms[place] == targets.ts_ms[row]
            assert users[place] == targets.user_keys[int(targets.user[row])].as_py()
            codes = history.items[history.offsets[at] : history.offsets[at + 1]][-HISTORY:]
            found = keys[moments.history_offsets[place] : moments.history_offsets[place + 1]]
            assert found == [targets.item_keys[int(code)].as_py() for code in codes]
            at += 1
    assert at == len(rows)


def test_samples_are_of_the_rows_alone(table: pa.Table, targets: Targets) -> None:
    start_ms, end_ms = START + 20 * HOUR, START + 54 * HOUR
    chosen = targets.sampled(start_ms, end_ms, 100, seed=7)
    assert len(chosen) == 100
    assert (np.diff(chosen) > 0).all()
    assert (targets.ts_ms[chosen] >= start_ms).all()
    assert set(chosen) != set(targets.sampled(start_ms, end_ms, 100, seed=8))
    moment_ms = START + 40 * HOUR
    cut = targets_of(event_stream(table.filter(table["ts_ms"].to_numpy() <= moment_ms)).events, POSITIVES)
    before = chosen[targets.ts_ms[chosen] <= moment_ms]
    assert set(before) <= set(cut.sampled(start_ms, end_ms, 100, seed=7))


def test_steps_cut_days_at_local_midnights() -> None:
    shanghai = "Asia/Shanghai"
    start_ms = 1_651_056_544_560  # 18:49 in Shanghai
    cut = steps(start_ms, start_ms + 40 * HOUR, HOUR, shanghai)
    assert cut[0].start_ms == start_ms
    assert cut[-1].end_ms == start_ms + 40 * HOUR
    assert all(a.end_ms == b.start_ms for a, b in itertools.pairwise(cut))
    fulls = [step.end_ms for step in cut if step.full]
    assert [(ms + 8 * HOUR) % (24 * HOUR) for ms in fulls] == [0, 0]
    assert len(cut) == 41
    daily = steps(start_ms, start_ms + 40 * HOUR, 24 * HOUR, shanghai)
    assert [step.end_ms for step in daily if step.full] == fulls
    assert len(daily) == 3
    with pytest.raises(StartError, match="at most a day"):
        steps(start_ms, start_ms + HOUR, 25 * HOUR, shanghai)


def test_days_of_summer_time_have_as_many_hours_as_they_have() -> None:
    spring_ms = 1_743_202_800_000  # 2025-03-29 00:00 in Berlin; the next day has 23 hours
    cut = steps(spring_ms, spring_ms + 60 * HOUR, HOUR, "Europe/Berlin")
    assert [(step.end_ms - spring_ms) // HOUR for step in cut if step.full] == [24, 47]


def test_key_texts_are_those_of_the_stream() -> None:
    identifiers = ["a", "#5", "##", "5", ""]
    texts = key_texts(pa.array(identifiers)).to_pylist()
    assert texts == [encode_id(identifier) for identifier in identifiers]
    assert ids_of(pa.array(texts), pa.string()).to_pylist() == identifiers
    numbers = key_texts(pa.chunked_array([[5, -7], [None]])).to_pylist()
    assert [decode_id(text) for text in numbers[:2]] == [5, -7]
    assert numbers[2] == ""


def test_events_are_as_the_archive_gives_them(table: pa.Table) -> None:
    stream = event_stream(table)
    assert stream.events.schema.equals(EVENT_SCHEMA)
    assert len(stream.between(START + HOUR, START + 2 * HOUR)) == sum(
        START + HOUR <= ts < START + 2 * HOUR for ts in table["ts_ms"].to_pylist()
    )
