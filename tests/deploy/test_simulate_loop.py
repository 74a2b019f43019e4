"""The closed loop: recommenders in their order, events the stream takes, files the backtest reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from deploy.backtest.events import catalogue_columns, event_stream
from deploy.backtest.targets import targets_of
from deploy.datasets import read_events
from deploy.errors import ConfigError, StartError
from deploy.simulate import run as run_file
from deploy.simulate.config import RunConfig, WorldConfig
from deploy.simulate.loop import Simulation
from deploy.simulate.over_http import Http
from deploy.simulate.recommenders import Oracle, Popular, Random, Recommender, Warmed
from deploy.simulate.run import Order, check_times, simulate
from deploy.simulate.settings import settings_of
from deploy.simulate.sinks import KafkaSink
from deploy.simulate.world import World
from stream.change import Change, decode_changes, encode_changes
from stream.codec import decode_messages, encode_packed
from stream.columns import to_columns
from stream.event import Event
from stream.producer import EventProducer
from stream.topics import KafkaConfig
from stream.validate import TimeGuard, TimeLimits, bad_fields

WORLD = WorldConfig(users=200, items=600, new_items_a_day=600, dims=8, authors=60, categories=8)
RUN = RunConfig(days=0.125, requests_per_day=6_000, k=6, oracle_requests=100)
Make = Callable[[World], Recommender]
MAKE: dict[str, Make] = {
    "oracle": Oracle,
    "popular": lambda world: Popular(world, RUN.popular_half_life_h, RUN.explore),
    "random": Random,
}


class Kept:
    def __init__(self) -> None:
        self.known, self.tables = 0, list[pa.Table]()

    def items(self, items: pa.Table, ts_ms: int) -> None:
        assert items["item_id"].to_pylist() == list(range(self.known + 1, self.known + len(items) + 1))
        self.known += len(items)

    def events(self, events: pa.Table) -> None:
        assert pc.max(events["item_id"]).as_py() <= self.known
        self.tables.append(events)

    @property
    def table(self) -> pa.Table:
        return pa.concat_tables(self.tables).combine_chunks()


def ran(make: Make, run: RunConfig = RUN) -> tuple[Simulation, Kept]:
    world, kept = World(WORLD), Kept()
    simulation = Simulation(world, run, make(world), kept)
    simulation.run()
    return simulation, kept


@pytest.fixture(scope="module")
def runs() -> dict[str, tuple[Simulation, Kept]]:
    return {name: ran(make) for name, make in MAKE.items()}


def test_oracle_beats_popular_beats_random(runs: dict[str, tuple[Simulation, Kept]]) -> None:
    found = {name: simulation.figures.summary() for name, (simulation, _) in runs.items()}
    clicks = {name: figures["clicks_per_impression"] for name, figures in found.items()}
    assert clicks["oracle"] > 2 * clicks["popular"] > 2 * 1.2 * clicks["random"]
    assert found["oracle"]["regret"] == pytest.approx(0.0, abs=1e-5)
    assert 0 < found["popular"]["relative_regret"] < found["random"]["relative_regret"] < 1
    assert len({figures["requests"] for figures in found.values()}) == 1  # the same users come to all
    for figures in found.values():
        assert figures["expected_clicks_per_impression"] == pytest.approx(
            figures["clicks_per_impression"], rel=0.25
        )
        assert 0 < figures["new_items_share"] < 1


@pytest.mark.parametrize("name", MAKE)
def test_the_same_seed_gives_the_same_bytes(runs: dict[str, tuple[Simulation, Kept]], name: str) -> None:
    short = RUN.model_copy(update={"days": 0.05})
    one, other = ran(MAKE[name], short)[1].table, ran(MAKE[name], short)[1].table
    assert one.equals(other)
    assert runs[name][1].table.slice(0, len(one)).equals(one)  # a longer run begins as a short one does


@pytest.mark.parametrize("name", MAKE)
def test_lists_have_their_form(name: str) -> None:
    world = World(WORLD)
    recommender = MAKE[name](world)
    for k in (1, 6, 599, 1000):
        users = np.arange(1, 30)
        lists = recommender.lists(users, {}, k, np.full(29, world.now_ms))
        assert (lists.shape, lists.dtype) == ((29, k), np.int64)
        for row in lists:
            items = row[row > 0]
            assert len(set(items)) == len(items) == min(k, 600)
            assert items.max() <= 600


def test_random_lists_are_uniform_at_every_place() -> None:
    world = World(WORLD.model_copy(update={"items": 5}))
    lists = Random(world).lists(np.ones(20_000, np.int64), {}, 3, np.zeros(20_000, np.int64))
    for place in range(3):
        np.testing.assert_allclose(np.bincount(lists[:, place])[1:] / 20_000, 0.2, atol=0.02)


def test_events_are_in_order_within_the_run_and_about_items_that_are_born(
    runs: dict[str, tuple[Simulation, Kept]],
) -> None:
    for simulation, kept in runs.values():
        table = kept.table
        ts_ms = table["ts_ms"].to_numpy()
        assert (np.diff(ts_ms) >= 0).all()
        assert WORLD.start_ms <= ts_ms[0] <= ts_ms[-1] < WORLD.start_ms + RUN.minutes * 60_000
        born = simulation.world.items.born_ms[table["item_id"].to_numpy() - 1]
        assert (born <= ts_ms).all()
        assert (born > WORLD.start_ms).any()
        assert pc.count_distinct(table["event_id"]).as_py() == len(table)
        assert simulation.handed_out == len(table)
        assert simulation.after_the_end > 0


def test_no_action_without_its_impression(runs: dict[str, tuple[Simulation, Kept]]) -> None:
    rows = runs["popular"][1].table.to_pylist()
    seen: dict[tuple[str, int, int], set[str]] = {}
    for row in rows:
        before = seen.setdefault((row["request_id"], row["user_id"], row["item_id"]), set())
        if row["kind"] == "click":
            assert "impression" in before
        elif row["kind"] != "impression":
            assert "click" in before
            assert (row["value"] is not None) == (row["kind"] != "like")
        before.add(row["kind"])


def test_every_event_passes_the_streams_validation(runs: dict[str, tuple[Simulation, Kept]]) -> None:
    table = runs["oracle"][1].table
    rows = [{name: value for name, value in row.items() if value is not None} for row in table.to_pylist()]
    events = [Event(**row) for row in rows]
    decoded = decode_messages([encode_packed(events[at : at + 50]) for at in range(0, len(events), 50)])
    assert decoded.events == events
    assert not decoded.rejected
    zeros = np.zeros(len(events), np.int64)
    batch = to_columns(events, zeros, zeros, np.arange(len(events)), zeros)
    assert bad_fields(batch) == {}
    assert TimeGuard(TimeLimits()).bad_times(batch, events[-1].ts_ms) == {}


def test_the_backtest_reads_what_a_simulation_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_file, "made_by", lambda: {"command": "test"})  # it would load all of training
    order = Order(WORLD, RUN, "popular", tmp_path / "metrics.json", tmp_path / "events.parquet")
    figures = simulate(order)
    table = read_events(tmp_path / "events.parquet")
    assert len(table) == figures["events"]
    stream = event_stream(table)
    assert stream.events["item_id"][0].as_py().startswith("#")
    assert (
        len(targets_of(stream.events, ("click",)).ts_ms) == pc.sum(pc.equal(table["kind"], "click")).as_py()
    )
    catalogue = catalogue_columns(tmp_path / "items.parquet", tmp_path / "users.parquet")
    assert {"author", "category", "price", "duration_s"} <= set(catalogue.items.column_names)
    assert set(table["item_id"].to_pylist()) <= set(
        pq.read_table(tmp_path / "items.parquet")["item_id"].to_pylist()
    )
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["simulation"] is True
    assert "SIMULATED" in written["note"]
    assert written["figures"]["by_day"][0]["day"] == 0
    content = (tmp_path / "events.parquet").read_bytes()
    simulate(order)
    assert (tmp_path / "events.parquet").read_bytes() == content
    assert not list(tmp_path.glob("*.tmp"))
    with pytest.raises(StartError, match=r"come beside it"):
        simulate(Order(WORLD, RUN, "popular", tmp_path / "metrics.json", tmp_path / "items.parquet"))
    with pytest.raises(StartError, match="expected oracle, random, popular, http, got 'best'"):
        simulate(Order(WORLD, RUN, "best", tmp_path / "metrics.json", tmp_path / "events.parquet"))


class Recorded(EventProducer):
    """What would be sent, through the checks of the codec, without a broker."""

    def __init__(self) -> None:
        self.config = KafkaConfig()
        self.changes: dict[str, list[Change]] = {"items": [], "users": []}
        self.sent: list[Event] = []

    def send_changes(self, topic: str, changes: Any) -> None:
        good, bad = decode_changes(encode_changes(changes))
        assert not bad
        self.changes[topic] += good

    def send_packed(self, events: Any) -> None:
        self.sent += events

    def flush(self, timeout_s: float = 30.0) -> None:
        pass


def test_kafka_gets_users_items_and_events_when_their_time_has_come() -> None:
    clock, producer, world = [100.0], Recorded(), World(WORLD)

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    sink = KafkaSink(producer, world.users_table(), WORLD.start_ms, 600.0, lambda: clock[0], sleep)
    run = RUN.model_copy(update={"days": 1 / 24})
    simulation = Simulation(world, run, Random(world), sink)
    simulation.run()
    assert len(producer.sent) == simulation.handed_out > 100
    assert len(producer.changes["users"]) == 200
    assert [change.id for change in producer.changes["items"]] == list(range(1, world.items.count + 1))
    assert producer.changes["items"][-1].ts_ms > WORLD.start_ms
    assert producer.changes["items"][0].attributes.keys() == {"author", "category", "price", "duration_s"}
    assert clock[0] - 100.0 == pytest.approx(6.0, abs=0.2)  # an hour at 600 seconds a second
    clock[0] += 50.0  # a stall is no reason to hurry afterwards
    for _ in range(60):
        simulation.minute()
    assert clock[0] - 100.0 == pytest.approx(6.0 + 50.0 + 6.0 - 1.0, abs=0.3)


def answering(request: httpx.Request) -> httpx.Response:
    if request.url.path == "/healthz":
        return httpx.Response(200)
    body = json.loads(request.content)
    assert body["context"] == {"scene": "feed"}
    if body["user_id"] % 3 == 0:
        raise httpx.ReadTimeout("slow", request=request)
    if body["user_id"] % 3 == 1:
        return httpx.Response(503, json={"error": "no bundle"})
    items = [{"id": one} for one in (5, 9999, "a", 5, 7, body["k"])]
    return httpx.Response(200, json={"items": items})


def test_a_server_is_asked_and_its_failures_are_served_nothing() -> None:
    world = World(WORLD)
    http = Http(world, "http://there", transport=httpx.MockTransport(answering))
    lists = http.lists(np.arange(3, 9), {"scene": "feed"}, 4, np.full(6, world.now_ms))
    assert lists.tolist() == [[0] * 4, [0] * 4, [5, 7, 4, 0]] * 2
    found = http.summary()
    assert (found["answered"], found["failed"], found["foreign_items"]) == (2, 4, 6)
    assert "slow" in found["first_failure"] or "503" in found["first_failure"]
    figures = Simulation(world, RUN, http, Kept())
    figures.minute()
    http.close()


def test_warm_days_are_answered_by_popular_and_the_server_is_waited_for() -> None:
    world, states = World(WORLD), iter((503, 503, 200))

    def late(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/readyz":
            return httpx.Response(next(states))
        return answering(request)

    http = Http(world, "http://there", transport=httpx.MockTransport(late))
    popular = MAKE["popular"](world)
    warmed = Warmed(world, popular, http, WORLD.start_ms + 60_000, http.wait_ready)
    users, ts_ms = np.arange(3, 9), np.full(6, world.now_ms)
    assert (warmed.lists(users, {"scene": "feed"}, 4, ts_ms) > 0).all()
    world.advance()
    assert http.summary()["answered"] == 0  # nobody asked it yet
    assert warmed.lists(users, {"scene": "feed"}, 4, ts_ms)[2].tolist() == [5, 7, 4, 0]
    assert next(states, None) is None
    with pytest.raises(StartError, match="expected 200 within"):
        Http(world, "http://there", transport=httpx.MockTransport(lambda _: httpx.Response(404))).wait_ready(
            0
        )
    http.close()


def test_a_server_that_is_not_there_is_said_at_once() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(StartError, match="http://there: expected a server of freshrecall"):
        Http(World(WORLD), "http://there", transport=httpx.MockTransport(refuse))


def test_settings_come_of_a_file_and_of_options(tmp_path: Path) -> None:
    file = tmp_path / "world.toml"
    file.write_text("[world]\nusers = 5\nseed = 3\n[run]\nk = 4\n", encoding="utf-8")
    settings = settings_of(file, {"world.users": 6, "run.k": None})
    assert (settings.world.users, settings.world.seed, settings.run.k) == (6, 3, 4)
    assert settings_of(None, {"run.days": 2.0}).run.days == 2.0
    with pytest.raises(ConfigError, match=r"--users: .*got 0"):
        settings_of(None, {"world.users": 0})
    file.write_text("[world]\nuser = 5\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"did you mean 'world.users'"):
        settings_of(file, {})


def test_events_of_the_future_are_refused_before_they_are_sent() -> None:
    order = Order(WORLD, RUN, "random", Path("metrics.json"))
    end_ms = WORLD.start_ms + RUN.minutes * 60_000
    check_times(order, end_ms)
    with pytest.raises(StartError, match="begin before"):
        check_times(order, end_ms - 1)
    check_times(Order(WORLD, RUN, "random", Path("metrics.json"), speed=1.0), WORLD.start_ms)
    with pytest.raises(StartError, match="got neither"):
        simulate(order)


def test_the_page_has_every_setting_as_it_is() -> None:
    page = (Path(__file__).parents[2] / "docs" / "simulate.md").read_text(encoding="utf-8")
    for model in (WorldConfig, RunConfig):
        for name, field in model.model_fields.items():
            assert f"| `{name}` | {field.default} | {field.description} |" in page
