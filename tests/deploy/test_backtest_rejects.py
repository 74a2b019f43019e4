"""What the pre-rank of a backtest turns down: as the server would, from before its moment, read once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.backtest.events import event_stream
from deploy.backtest.rejects import RejectLog, turned_down
from deploy.backtest.run import backtest
from deploy.backtest.settings import RejectsBack
from deploy.backtest.targets import Targets, targets_of
from deploy.errors import StartError
from models.reject_events import rejects_among
from serving.fusion import Fused
from serving.stages import Staged, spread
from stream.event import EVENT_SCHEMA
from tests.deploy.backtest_data import CONFIG, HOUR, POSITIVES, START, event_table, write_tables
from tests.deploy.test_backtest import lists_of, question

FROM_MS = START + 40 * HOUR + 11 * 60_000
MOMENT_MS = START + 49 * HOUR + 40 * 60_000
BACK = RejectsBack(4, 1000, 7)
CHANNELS = ("small", "popularity", "item_cf", "prerank")


def table_targets() -> Targets:
    return targets_of(event_stream(event_table()).events, POSITIVES)


def by_the_server(scores: np.ndarray, keep: int, most: int) -> list[tuple[str, int, float]]:
    """Key, rank and score of what the server's stage names."""
    order = [Fused(str(at), 0.0, ()) for at in range(len(scores))]
    staged = Staged(order, {}).then("prerank", 200, scores, keep)
    return [(one.key, one.rank, one.score) for one in spread(staged.rejected, most)]


@given(
    st.lists(st.integers(-3, 3), max_size=40), st.integers(1, 50), st.integers(0, 30)
)  # few values: many ties
def test_it_names_what_the_server_would(values: list[int], keep: int, most: int) -> None:
    scores = np.array(values, np.float32)
    places, ranks = turned_down(scores, keep, most)
    found = [(str(at), rank, float(scores[at])) for at, rank in zip(places, ranks.tolist(), strict=True)]
    assert found == by_the_server(scores, keep, most)


def test_they_stand_among_the_events_of_their_stretch_and_are_forgotten() -> None:
    targets, events = table_targets(), event_stream(event_table()).events
    log = RejectLog(targets, BACK)
    rows, codes = log.rows_of_day(START, START + 60 * HOUR), np.arange(9)
    for row in rows:
        log.take("s", int(row), codes, np.zeros(9, np.float32), 5)
    begin_ms, end_ms = START + 24 * HOUR, START + 48 * HOUR
    ts_ms = events["ts_ms"].to_numpy()
    day = events.filter((ts_ms >= begin_ms) & (ts_ms < end_ms))
    joined = log.joined("s", day, begin_ms, end_ms)
    asked_ms = targets.asked_ms[rows]
    mine = rows[(asked_ms >= begin_ms) & (asked_ms < end_ms)]
    assert len(joined) == len(day) + 4 * len(mine)
    assert (np.diff(joined["ts_ms"].to_numpy()) >= 0).all()
    rejects = np.array([kind == "reject" for kind in joined["kind"].to_pylist()])
    assert joined.filter(~pa.array(rejects).to_numpy(zero_copy_only=False)).equals(day.combine_chunks())
    same = np.flatnonzero((np.diff(joined["ts_ms"].to_numpy()) == 0) & rejects[:-1])
    assert rejects[same + 1].all()  # behind the events of the same time
    assert log.joined("other", day, begin_ms, end_ms) is day
    log.forget(end_ms)
    assert log.joined("s", day, begin_ms, end_ms) is day


def test_a_request_is_told_of_once_and_only_as_of_its_beginning() -> None:
    targets = table_targets()
    log = RejectLog(targets, replace(BACK, requests_a_day=10**6))
    rows = log.rows_of_day(START, START + 60 * HOUR)
    first = {int(code): row for row, code in reversed(list(enumerate(targets.request)))}
    named = [row for row in first.values() if targets.user_keys[targets.user[row]].as_py()]
    assert rows.tolist() == sorted(named)
    history, since_ms = targets.before(rows), START + 20 * HOUR
    found = log.as_of_request(rows, history, since_ms)
    for at, row in enumerate(rows):
        earlier = history.targets[history.offsets[at] : history.offsets[at + 1]]
        as_asked = (targets.ts_ms[earlier] < targets.asked_ms[row]).all()
        assert found[at] == (targets.asked_ms[row] >= since_ms and as_asked)
    assert 0 < found.sum() < len(rows)


def test_not_where_the_user_did_something_else_since_the_request_began() -> None:
    shown = [("r1", 10, "impression"), ("r2", 12, "click"), ("r1", 15, "click"), ("r3", 20, "click")]
    columns = ("request_id", "ts_ms", "kind")
    rows = [dict(zip(columns, one, strict=True)) for one in shown]
    more = {"user_id": "u", "scene": "", "value": 0.0}
    table = pa.Table.from_pylist([{**row, **more, "item_id": row["request_id"]} for row in rows])
    targets = targets_of(event_stream(table).events, ("click",))
    log, every = RejectLog(targets, BACK), np.arange(3)
    assert targets.asked_ms.tolist() == [12, 10, 20]
    assert log.as_of_request(every, targets.before(every), 0).tolist() == [True, False, True]
    assert log.as_of_request(every, targets.before(every), 13).tolist() == [False, False, True]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    paths = write_tables(tmp_path_factory.mktemp("tables"), event_table())
    reading = CONFIG.replace("own_items = 8", 'own_items = 8\nhard_negatives = ["rejects"]')
    paths["config"].write_text(reading + "\n[serving]\nrejects_per_answer = 6\n", encoding="utf-8")
    return paths


def asked(tables: dict[str, Path], out: Path, **changes: Any) -> Any:
    chosen = {"channels": CHANNELS, "strategies": ("frozen", "daily", "hourly_items"), "start_ms": FROM_MS}
    return question(tables, out, **{**chosen, "rejects": "prerank", **changes})


def test_rejects_are_the_servers_over_what_was_answered(
    tables: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[tuple[str, int, np.ndarray, np.ndarray, int]] = []
    read: list[tuple[str, pa.Table]] = []
    take, joined = RejectLog.take, RejectLog.joined

    def noted(self: RejectLog, *of: Any) -> None:
        taken.append(of)
        take(self, *of)

    def told(self: RejectLog, name: str, *of: Any) -> pa.Table:
        table = joined(self, name, *of)
        read.append((name, table.filter(pa.compute.equal(table["kind"], "reject"))))
        return table

    monkeypatch.setattr(RejectLog, "take", noted)
    monkeypatch.setattr(RejectLog, "joined", told)
    backtest(asked(tables, tmp_path, sample=10_000))
    targets, lists = table_targets(), lists_of(tmp_path)
    names = ("ts_ms", "user_id", "item_id", "value", "context")
    found = [(name, *(one[column] for column in names)) for name, part in read for one in part.to_pylist()]
    expected, answered = [], 0
    for name, row, codes, scores, keep in taken:
        assert keep == 10
        listed = targets.item_keys.take(pa.array(codes[np.argsort(-scores, kind="stable")]))
        if (row, name, "prerank", "all") in lists:  # the same candidates in the same order
            answered += 1
            best = ["#" + item for item in lists[row, name, "prerank", "all"][0]]
            assert best == listed.to_pylist()[:10]
        if name != "frozen" and targets.asked_ms[row] < START + 48 * HOUR:  # the only full retrain
            user = targets.user_keys[targets.user[row]].as_py()
            for key, rank, score in by_the_server(scores, 10, 6):
                item = targets.item_keys[codes[int(key)]].as_py()
                context = [("stage", "prerank"), ("rank", str(rank))]
                expected.append((name, int(targets.asked_ms[row]), user, item, score, context))
    assert answered > 50
    assert sorted(found) == sorted(expected)
    for _, part in read:
        assert part.schema == EVENT_SCHEMA
        assert len(set(part["event_id"].to_pylist())) == len(part) == len(rejects_among(part))


def test_the_future_changes_no_list_and_a_repetition_neither(
    tables: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything after a moment of the second day is cut away; what training read lies before it."""
    read: list[tuple[str, int, pa.Table]] = []
    joined = RejectLog.joined

    def noted(self: RejectLog, name: str, events: pa.Table, start_ms: int | None, end_ms: int) -> pa.Table:
        told = joined(self, name, events, start_ms, end_ms)
        read.append((name, end_ms, told.filter(pa.compute.equal(told["kind"], "reject"))))
        return told

    monkeypatch.setattr(RejectLog, "joined", noted)
    figures = backtest(asked(tables, tmp_path / "whole"))
    assert figures["about"]["rejects"] == {"per_request": 6, "requests_a_day": 5000, "seed": 7}
    whole_read, read[:] = list(read), []
    # What never moves has no network in the lead, and reads nothing later.
    assert {name for name, _, told in whole_read if len(told)} == {"daily", "hourly_items"}
    for _, end_ms, told in whole_read:
        assert not len(told) or told["ts_ms"].to_numpy().max() < end_ms
    late = [(name, len(told) > 0) for name, end_ms, told in whole_read if end_ms > FROM_MS]
    assert late == [("daily", True), ("hourly_items", True)]  # the frozen one is not trained again

    events = pq.read_table(tables["events"])
    cut = write_tables(tmp_path, events.filter(events["ts_ms"].to_numpy() <= MOMENT_MS))
    cut["config"].write_text(tables["config"].read_text())
    backtest(asked(cut, tmp_path / "part"))
    assert [(name, end_ms) for name, end_ms, _ in read] == [(name, end_ms) for name, end_ms, _ in whole_read]
    assert all(one[2].equals(other[2]) for one, other in zip(read, whole_read, strict=True))
    targets = targets_of(event_stream(events).events, POSITIVES)
    whole, part = lists_of(tmp_path / "whole"), lists_of(tmp_path / "part")
    same = {key: made for key, made in whole.items() if targets.ts_ms[key[0]] <= MOMENT_MS}
    assert max(targets.ts_ms[key[0]] for key in same) > START + 48 * HOUR
    assert {key: part[key] for key in same} == same


def test_without_it_nothing_is_learned_from_and_with_it_something_is(
    tables: dict[str, Path], tmp_path: Path
) -> None:
    start = {"start_ms": START + 50 * HOUR}  # the last midnight is in the lead
    backtest(asked(tables, tmp_path / "with", **start))
    backtest(asked(tables, tmp_path / "without", rejects=None, **start))
    plain = write_tables(tmp_path, pq.read_table(tables["events"]))  # a model that asks for none
    backtest(asked(plain, tmp_path / "plain", rejects=None, **start))
    told, silent, unasked = (lists_of(tmp_path / name) for name in ("with", "without", "plain"))
    assert silent == unasked
    learned = {key[1] for key in told if key[2] == "small" and told[key] != silent[key]}
    assert learned == {"daily", "hourly_items"}  # from the lead's
    by_popularity = {key for key in told if key[2] == "popularity"}
    assert {key: told[key] for key in by_popularity} == {key: silent[key] for key in by_popularity}


def test_what_cannot_work_is_refused(tables: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(StartError, match="expected prerank"):
        backtest(asked(tables, tmp_path, rejects="rank"))
    with pytest.raises(StartError, match="channel prerank"):
        backtest(asked(tables, tmp_path, channels=("small", "fused")))
    with pytest.raises(StartError, match="at least one request"):
        backtest(asked(tables, tmp_path, rejects_a_day=0))
    plain = write_tables(tmp_path, pq.read_table(tables["events"]))
    with pytest.raises(StartError, match="a model that reads them"):
        backtest(asked(plain, tmp_path))
