"""The backtest: exact ranks, metrics by hand, what each strategy serves when, and no look into the future."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from deploy.backtest.events import event_stream
from deploy.backtest.metrics import NAMES, Bootstrap, Scoreboard, summary, touched, values_of
from deploy.backtest.plan import Step
from deploy.backtest.ranking import ranked
from deploy.backtest.replay import Answer
from deploy.backtest.run import Question, backtest
from deploy.backtest.settings import interval_of
from deploy.backtest.snapshot import Snapshot
from deploy.backtest.strategies import STRATEGIES
from deploy.backtest.targets import targets_of
from deploy.cli import app
from deploy.errors import StartError
from models.model_config import ModelConfig
from tests.deploy.backtest_data import HOUR, POSITIVES, START, event_table, write_tables
from tests.updater.world import CONFIG, EMPTY, RECIPE, World
from tests.updater.world import HOUR as WORLD_HOUR
from tests.updater.world import START as WORLD_START
from updater.sample_order import Shuffled
from updater.state import TrainingState

FROM_MS = START + 20 * HOUR + 11 * 60_000
MIDNIGHTS = (START + 24 * HOUR, START + 48 * HOUR)
CHANNELS = ("small", "popularity", "own_items", "item_cf")
Lists = dict[tuple[int, str, str, str], tuple[list[str], int]]


def question(paths: dict[str, Path], out: Path, **changes: Any) -> Question:
    asked = Question(
        events=paths["events"], items=paths["items"], users=paths["users"], config=paths["config"], out=out,
        positives=POSITIVES, start_ms=FROM_MS, strategies=tuple(STRATEGIES), channels=CHANNELS,
        sample=100, interval="4h", k=10,
    )  # fmt: skip
    return replace(asked, **changes)


def clicks(ts_ms: list[int], users: str, items: str) -> pa.Table:
    """One click per time, user letter and item letter, as the archive gives them."""
    rows = [
        {"ts_ms": t, "user_id": u, "item_id": i, "kind": "click", "scene": "", "request_id": "", "value": 0.0}
        for t, u, i in zip(ts_ms, users, items, strict=True)
    ]
    return event_stream(pa.Table.from_pylist(rows)).events


def lists_of(out: Path) -> Lists:
    rows = pq.read_table(out / "predictions.parquet").to_pylist()
    names = ("row", "strategy", "channel", "scope")
    return {
        tuple(row[name] for name in names): (row["items"], row["made_at_watermark_ms"])  # type: ignore[misc]
        for row in rows
    }


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], Path, dict[str, Any]]:
    """Every strategy on the whole table: (tables, folder of the results, figures)."""
    folder = tmp_path_factory.mktemp("backtest")
    paths = write_tables(folder, event_table())
    figures = backtest(question(paths, folder / "out"))
    return paths, folder / "out", figures


def test_ranks_and_lists_are_those_of_sorting() -> None:
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 12, (40, 70)).astype(np.float32)  # many ties
    scores[rng.random(scores.shape) < 0.1] = -np.inf
    target = rng.integers(-1, 70, 40).astype(np.int32)
    barred = [np.setdiff1d(rng.integers(0, 70, 9), target[n]).astype(np.int32) for n in range(40)]
    offsets = np.concatenate([[0], np.cumsum([len(b) for b in barred])]).astype(np.int64)
    rank, best = np.empty(40), np.empty((40, 20), np.int32)
    ranked(scores, target, offsets, np.concatenate(barred), rank, best)
    for n in range(40):
        row = scores[n].copy()
        row[barred[n]] = -np.inf
        order = [place for place in np.lexsort([np.arange(70), -row]) if row[place] > -np.inf][:20]
        assert best[n].tolist() == order + [-1] * (20 - len(order))
        own = row[target[n]] if target[n] >= 0 else -np.inf
        expected = (row > own).sum() + ((row == own).sum() - 1) / 2 if own > -np.inf else np.inf
        assert rank[n] == expected


def test_fewer_items_than_asked_for_leave_places_empty() -> None:
    scores = np.array([[1.0, 3.0, 2.0]], np.float32)
    rank, best = np.empty(1), np.empty((1, 5), np.int32)
    ranked(scores, np.array([2], np.int32), np.zeros(2, np.int64), np.empty(0, np.int32), rank, best)
    assert best.tolist() == [[1, 2, 0, -1, -1]]
    assert rank.tolist() == [1.0]


def test_metrics_of_ranks() -> None:
    values = values_of(np.array([0.0, 9.5, 49.5, 99.0, 100.0, np.inf]))
    ten, twenty, fifty, hundred = values[:, :4].T.tolist()
    assert (ten, twenty) == ([1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0])
    assert (fifty, hundred) == ([1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0])
    np.testing.assert_allclose(
        values[:, 4], [1.0, 1 / np.log2(11.5), 1 / np.log2(51.5), 1 / np.log2(101), 0.0, 0.0]
    )


def test_bootstrap_draws_users_and_pairs_contestants() -> None:
    users = np.array([5, 5, 5, 9, 2])
    values = np.array([[1.0, 0.5], [1.0, 0.5], [1.0, 0.5], [0.0, 0.0], [4.0, 2.0]])
    drawn = Bootstrap(users, seed=1, rounds=400).means(values)
    np.testing.assert_allclose(drawn[:, 0], 2 * drawn[:, 1])  # the same draws for both
    chances = [(n, m, 3 - n - m) for n in range(4) for m in range(4 - n)]  # times each user is drawn
    by_hand = {round((3 * n + 4 * k) / (3 * n + m + k), 12) for n, m, k in chances}
    assert set(np.round(drawn[:, 0], 12)) <= by_hand
    assert len(set(drawn[:, 0])) > 5


def test_scoreboard_by_hand() -> None:
    """Three targets of two users; item 0 was taken twice before."""
    targets = targets_of(clicks([1, 2, 3, 10, 11, 12], "uvuvuv", "aababc"), ("click",))
    board, step = Scoreboard(targets), Step(10, 20, False)
    asked = np.array([3, 4, 5])
    best = np.array([[0, 1], [0, -1], [-1, -1]], np.int32)
    board.add(Answer("daily", "m", "all", step, 10, asked, np.array([0.0, 60.0, np.inf]), best, 4))
    worse = np.full((3, 2), -1, np.int32)
    board.add(Answer("frozen", "m", "all", step, 10, asked, np.array([np.inf, 60.0, np.inf]), worse, 4))
    skew = board.values(("daily", "m", "all"))[:, NAMES.index("popularity_skew")]
    expected = [(np.log(3) + np.log(2)) / 2 - np.log(3), np.log(3) - np.log(2), 0.0]
    np.testing.assert_allclose(skew, expected)
    assert board.coverage(("daily", "m", "all")) == 2 / 4
    figures = summary(board, targets, [step], seed=7)
    found = figures["metrics"]["daily"]["m"]["all"]
    assert found["n"] == 3
    assert found["recall@50"]["mean"] == pytest.approx(1 / 3)
    assert found["recall@100"]["mean"] == pytest.approx(2 / 3)
    gain = next(d for d in figures["differences"] if d["metric"] == "recall@50" and d["targets"] == "asked")
    assert gain["a"] == ("daily", "m")
    assert gain["mean"] == pytest.approx(-1 / 3)
    assert gain["low"] <= gain["mean"] <= gain["high"]


def test_touched_since_the_last_full_retrain() -> None:
    targets = targets_of(clicks([5, 11, 21, 22, 31, 41], "uuvwuu", "abbcde"), ("click",))
    cut = [Step(10, 20, False), Step(20, 30, False), Step(30, 40, True), Step(40, 50, False)]
    # 11: before the start does not count; 21: item b at 11; 31: user u at 11; 41: a full retrain at 40
    assert touched(targets, np.arange(1, 6), cut).tolist() == [False, True, False, True, False]


def test_every_strategy_serves_what_was_made_by_then(
    ran: tuple[dict[str, Path], Path, dict[str, Any]],
) -> None:
    paths, out, figures = ran
    targets = targets_of(event_stream(pq.read_table(paths["events"])).events, POSITIVES)
    lists = lists_of(out)
    rows = targets.sampled(FROM_MS, figures["about"]["end_ms"], 100, 7)
    assert {key[0] for key in lists} == set(rows.tolist())
    for (row, name, _, _), (_, watermark_ms) in lists.items():
        ts_ms, strategy = int(targets.ts_ms[row]), STRATEGIES[name]
        full_ms = max([FROM_MS, *(ms for ms in MIDNIGHTS if ms <= ts_ms)]) if strategy.daily else FROM_MS
        latest_ms = max(FROM_MS, START + (ts_ms - START) // (4 * HOUR) * 4 * HOUR)
        assert watermark_ms == (latest_ms if strategy.moves else full_ms)
    early = [row for row in rows if targets.ts_ms[row] < START + 24 * HOUR]
    assert early
    for row in early:  # nothing has moved yet
        same = {tuple(lists[row, name, "small", "all"][0]) for name in STRATEGIES if name != "daily_ordered"}
        assert len(same) == 1
    late = [row for row in rows if targets.ts_ms[row] >= MIDNIGHTS[0] + 4 * HOUR]
    pairs = [
        ("frozen", "daily"), ("daily", "hourly"), ("hourly", "hourly_items"), ("hourly", "hourly_all"),
        ("daily", "daily_ordered"), ("incremental_only", "frozen"), ("daily", "daily_live"),
    ]  # fmt: skip
    for a, b in pairs:
        assert any(lists[row, a, "small", "all"] != lists[row, b, "small", "all"] for row in late), (a, b)


def test_scope_new_leaves_out_what_the_user_had(ran: tuple[dict[str, Path], Path, dict[str, Any]]) -> None:
    paths, out, figures = ran
    targets = targets_of(event_stream(pq.read_table(paths["events"])).events, POSITIVES)
    lists = lists_of(out)
    rows = np.unique([key[0] for key in lists])
    history = targets.before(rows)
    counted = 0
    for at, row in enumerate(rows):
        had = set(history.items[history.offsets[at] : history.offsets[at + 1]].tolist())
        names = {targets.item_keys[code].as_py().removeprefix("#") for code in had}
        if targets.item[row] in had:
            assert (row, "daily", "small", "new") not in lists
            continue
        counted += 1
        for channel in CHANNELS:
            best = lists[row, "daily", channel, "new"][0]
            assert not set(best) & names
            assert len(best) == len(set(best)) == 10
    assert figures["metrics"]["daily"]["small"]["new"]["n"] == counted
    assert 0 < counted < len(rows)


def test_popularity_by_brute_force(ran: tuple[dict[str, Path], Path, dict[str, Any]]) -> None:
    paths, out, _ = ran
    table = pq.read_table(paths["events"]).to_pylist()
    taken = {}  # a request's click and its long view count once
    for at, row in enumerate(table):
        if row["kind"] in POSITIVES:
            taken.setdefault((row["user_id"], row["request_id"] or at, row["item_id"]), row)
    clicks = list(taken.values())
    for (_, _, channel, scope), (items, watermark_ms) in list(lists_of(out).items())[::50]:
        if channel == "popularity" and scope == "all":
            counts: dict[str, float] = {}
            for row in clicks:
                if row["ts_ms"] < watermark_ms:
                    age = (watermark_ms - row["ts_ms"]) / (12 * HOUR)
                    counts[row["item_id"]] = counts.get(row["item_id"], 0.0) + 2.0**-age
            expected = sorted(counts.values(), reverse=True)[:10]
            np.testing.assert_allclose([counts[item] for item in items], expected, rtol=1e-4)


def test_predictions_and_metrics_have_their_form(ran: tuple[dict[str, Path], Path, dict[str, Any]]) -> None:
    _, out, figures = ran
    schema = pq.read_schema(out / "predictions.parquet")
    assert schema.names == ["row", "strategy", "channel", "scope", "items", "made_at_watermark_ms"]
    assert schema.field("items").type.value_type == pa.string()
    assert json.loads((out / "metrics.json").read_text())["metrics"].keys() == set(STRATEGIES)
    for channels in figures["metrics"].values():
        for channel in CHANNELS:
            for scope in ("all", "new"):
                found = channels[channel][scope]
                recall = found["recall@10"]
                assert 0 <= recall["low"] <= recall["mean"] <= recall["high"] <= 1
                assert 0 < found["coverage"] <= 1
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 2
    assert "http" not in page.split("</svg>")[-1]


def test_the_future_changes_no_list(
    ran: tuple[dict[str, Path], Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Everything after a moment in the middle of an interval of the second day is cut away."""
    paths, out, _ = ran
    moment_ms = START + 49 * HOUR + 40 * 60_000
    events = pq.read_table(paths["events"])
    cut = write_tables(tmp_path, events.filter(events["ts_ms"].to_numpy() <= moment_ms))
    backtest(question(cut, tmp_path / "out"))
    whole, part = lists_of(out), lists_of(tmp_path / "out")
    targets = targets_of(event_stream(events).events, POSITIVES)
    same = {key: made for key, made in whole.items() if targets.ts_ms[key[0]] <= moment_ms}
    assert max(targets.ts_ms[key[0]] for key in same) > MIDNIGHTS[1]
    assert {key: part[key] for key in same} == same


def test_forks_in_memory_go_on_as_bundles_do(tmp_path: Path) -> None:
    """The same deltas come of a snapshot as of a published bundle."""
    world = World(tmp_path)
    world.pass_hours(0, 6)
    world.retrain(6)
    updater = world.updater()
    updater.advance()
    world.pass_hours(6, 7)
    updater.advance()
    delta = world.registry.open_delta(world.registry.deltas(world.registry.bundles()[0])[0])
    last = world.reader.seals()[5]
    state = TrainingState.fresh(RECIPE)
    order = Shuffled(7, last.sequence)
    state.retrain([(world.reader.read(None, last.interval_end_ms), EMPTY)], last.interval_end_ms, order, True)
    fork = TrainingState.warm(Snapshot(state, last.interval_end_ms), RECIPE)
    end_ms = WORLD_START + 7 * WORLD_HOUR
    changes = fork.advance(world.reader.read(last.interval_end_ms, end_ms), EMPTY, end_ms)
    expected = delta.tables["two_tower"]["user"]
    assert changes["two_tower"]["user"].keys.equals(expected.keys)
    assert changes["two_tower"]["user"].rows.tobytes() == expected.rows.tobytes()


def test_strategies_name_the_tables_their_steps_move() -> None:
    assert STRATEGIES["hourly"].configured(CONFIG).trained_tables == ("user",)
    assert STRATEGIES["hourly_items"].configured(CONFIG).published_tables == ("user", "item", "history_item")
    shared = CONFIG.model_copy(update={"shared_items": True})
    assert STRATEGIES["hourly_items"].configured(shared).trained_tables == ("user", "item")
    everywhere = ModelConfig(trained_tables=("user", "item"))
    assert STRATEGIES["daily"].configured(everywhere) is everywhere


def test_refusals_say_what_is_there(tmp_path: Path) -> None:
    paths = write_tables(tmp_path, event_table(hours=4))
    with pytest.raises(StartError, match=r"expected some of frozen, .*got often"):
        backtest(question(paths, tmp_path / "out", strategies=("often",)))
    with pytest.raises(StartError, match=r"expected some of small, .*popularity, .*got 'towers'"):
        backtest(question(paths, tmp_path / "out", channels=("towers",), start_ms=START + HOUR))
    with pytest.raises(StartError, match="kinds there: click, impression, long_view"):
        backtest(question(paths, tmp_path / "out", positives=("purchase",)))
    with pytest.raises(StartError, match="expected positives before"):
        backtest(question(paths, tmp_path / "out", start_ms=START))
    with pytest.raises(StartError, match="got 'often'"):
        interval_of("often")
    assert interval_of("10m") == 600_000


def test_the_verb_answers_for_help() -> None:
    shown = CliRunner().invoke(app, ["backtest", "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert "--start-ms" in shown.output
