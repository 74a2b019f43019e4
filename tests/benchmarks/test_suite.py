"""The suite of `make bench` at tiny sizes: every record is whole, every ratio is right. Times say nothing."""

import asyncio
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from benchmarks import __main__ as bench
from benchmarks import data, search, tower, train
from benchmarks.bundles import MODEL, published
from benchmarks.figures import Record
from benchmarks.measure import Measurement, Result, rates, seconds, surroundings
from benchmarks.page import PAGE, filled, main
from benchmarks.pauses import WAKE_S, late
from benchmarks.serve_peer import app_of
from benchmarks.sparse_torch import SparseTorch
from benchmarks.suite import SUITE, names
from benchmarks.swap import Seen
from benchmarks.worker import PEERS_PYTHON, SCANN_PYTHON, Worker, WorkerFailed
from models.moments import one_moment
from models.published import PublishedModel
from models.registry import Registry
from stream.keys import encode_id

FIELDS = {
    "name", "value", "unit", "peer", "peer_value", "ratio_to_peer", "limit", "ratio_to_limit", "params",
    "versions", "git", "data_sha256", "machine",
}  # fmt: skip
SERVED = {"items": 300, "users": 100, "graph_from": 100}
TINY: dict[str, dict[str, Any]] = {
    "train:youtube_dnn": {"items": 300, "samples": 64, "peer_samples": 0, "rounds": 1},
    "train:dssm": {"items": 300, "samples": 64, "peer_samples": 0, "rounds": 1},
    "train:two_tower": {"items": 300, "samples": 64, "rounds": 1},
    "train:rows": {"sizes": (300, 600), "samples": 64, "rounds": 1},
    "pipeline:share": {"items": 300, "samples": 64, "rounds": 1},
    "train:beside_busy": {"items": 300, "samples": 64, "neighbours": 1, "rounds": 1},
    "train:incremental": {"items": 300, "samples": 64, "rounds": 1},
    "intake:taken_in": {"single": 200, "packed": 500, "rounds": 1},
    "intake:path": {"events": 500, "users": 50, "items": 100, "rounds": 1},
    "archived:archived": {"events": 500, "batch": 100, "rounds": 1},
    "lookup:lookups": {"keys": 500, "asked": 200},
    "update:rows": {"rows": 500, "batch": 8, "rounds": 2},
    "prebatch:prebatched": {"samples": 64, "users": 4, "items": 100},
    "decode:decoding": {"events": 200},
    "join:hourly": {"impressions": 600},
    "cycle:grocer": {"events": 6_000},
    "search:exact": {"items": 300, "queries": 3},
    "search:published_items": {**SERVED, "queries": 3},
    "search:beside_scann": {**SERVED, "queries": 3, "peer_queries": 0},
    "serve:served": {**SERVED, "requests": 50, "recalled": 5, "rounds": 1},
    "tower:towers": {"calls": 2, "peer_calls": 0, "rounds": 1},
    "swap:swapped": {
        **SERVED,
        "changed_users": 50,
        "changed_items": 20,
        "deltas": 2,
        "bundles": 1,
        "steady_s": 0.05,
    },
    "publish:bundle": {**SERVED, "rounds": 1},
    "publish:delta_live": {**SERVED, "changed_users": 50, "changed_items": 20, "rounds": 1},
    "update:visible": {**SERVED, "changed": 20, "rounds": 1},
    "serve:startup": {**SERVED, "rounds": 1},
    "growth:users": {"sizes": (20, 40), "events": 50, "rounds": 1},
    "growth:history": {"lengths": (3, 9), "items": 200, "samples": 64, "calls": 3, "rounds": 1},
    "growth:items": {"sizes": (150, 300), "queries": 3, "rounds": 1},
    "large:served": {
        "items": 2_000,
        "users": 5_000,
        "ivf_from": 100,
        "changed_users": 50,
        "connections": 2,
        "steady_s": 0.1,
        "threads": 1,
    },
}


def tiny(measurement: Measurement) -> dict[str, Any]:
    named = {"name": measurement.names[0]} if "name" in measurement.full else {}
    return {**TINY[measurement.place], **named}


def check(record: dict[str, Any], sizes: dict[str, Any]) -> None:
    assert set(record) == FIELDS
    json.dumps(record, allow_nan=False)
    assert re.fullmatch(r"[0-9a-f]{64}|", record["data_sha256"])
    assert record["params"].items() >= sizes.items()
    assert record["value"] >= 0
    assert (record["peer"] == "") == (record["peer_value"] is None)
    for of in ("peer_value", "limit"):
        ratio = record["ratio_to_peer" if of == "peer_value" else "ratio_to_limit"]
        assert (ratio is None) == (record[of] is None)
        if ratio is not None:
            assert ratio == pytest.approx(record["value"] / record[of], abs=6e-4)


def test_every_measurement_has_sizes_and_names_of_its_own() -> None:
    assert len(set(names())) == len(names())
    assert {one.place for one in SUITE} == set(TINY)
    for one in SUITE:
        assert set(one.full) == set(one.quick) == set(tiny(one))


@pytest.mark.parametrize("measurement", SUITE, ids=lambda one: one.names[0])
def test_records_are_whole_and_their_ratios_right(measurement: Measurement) -> None:
    around = surroundings()
    for result in measurement.run(tiny(measurement)):
        check(result.record(around), TINY[measurement.place])


@pytest.mark.skipif(not PEERS_PYTHON.exists(), reason="the peers' environment is missing: make peers")
def test_torch_rechub_takes_its_turns_in_its_own_environment() -> None:
    (one,) = train.youtube_dnn("train.youtubednn.1m", items=300, samples=64, peer_samples=32, rounds=1)
    check(one.record(surroundings()), {})
    assert one.peer == train.RECHUB
    assert one.limit
    for other in train.dssm(items=300, samples=64, peer_samples=32, rounds=1):
        check(other.record(surroundings()), {})
        assert other.peer == train.RECHUB_DSSM


@pytest.mark.skipif(not PEERS_PYTHON.exists(), reason="the peers' environment is missing: make peers")
def test_onnxruntime_gives_the_vectors_of_the_compiled_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    for one in tower.towers(calls=2, peer_calls=2, rounds=1):
        check(one.record(surroundings()), {})
        assert one.peer == tower.ONNX
    monkeypatch.setattr(tower, "TOLERANCE", -1.0)
    with pytest.raises(RuntimeError, match=r"serve\.tower: expected the vectors of onnxruntime"):
        tower.towers(calls=1, peer_calls=1, rounds=1)


@pytest.mark.skipif(not SCANN_PYTHON.exists(), reason="the environment of ScaNN is missing: make peers")
def test_scann_finds_what_our_index_finds() -> None:
    (one,) = search.beside_scann(items=2000, users=100, graph_from=100, queries=20, peer_queries=20)
    check(one.record(surroundings()), {})
    assert one.peer_value
    assert one.params["peer_recall"] > one.params["recall"] - 0.05


def test_plain_torch_learns_what_it_is_shown() -> None:
    torch.manual_seed(7)
    given = data.Histories.drawn(64, 50)
    history, target = torch.from_numpy(given.history), torch.from_numpy(given.target)
    negatives = torch.arange(50)
    for dense in (True, False):
        model = SparseTorch(51, (16,), item_tower=dense, tau=1.0, dense=dense)
        before = float(model.loss(history, target, negatives).detach())
        frozen = [one.detach().clone() for one in model.user.parameters()]
        for _ in range(20):
            model.step(history, target, negatives)
        assert float(model.loss(history, target, negatives).detach()) < before
        moved = any((one != was).any() for one, was in zip(model.user.parameters(), frozen, strict=True))
        assert moved == dense


def test_a_child_that_ends_says_why() -> None:
    with (
        Worker("benchmarks.peers.rechub_speed", ["nothing"]) as worker,
        pytest.raises(WorkerFailed, match="Error"),
    ):
        worker.ask()


def test_rates_take_turns_after_a_warm_up_and_believe_a_run_that_tells_its_time() -> None:
    turns: list[str] = []
    told = iter([9.0, 1.0, 5.0, 2.0])

    def one() -> float:
        turns.append("one")
        return next(told)

    def other() -> float:
        turns.append("other")
        return 0.5

    assert rates([10, 1], one, other, rounds=3) == [5.0, 2.0]
    assert turns == ["one", "other"] * 4
    assert seconds(lambda: None, rounds=1)[0] >= 0


def test_a_measurement_that_gives_other_results_than_it_says_is_refused() -> None:
    wrong = Measurement("lookup:lookups", ("ids.other",), {}, {})
    with pytest.raises(RuntimeError, match=r"expected results .*ids\.other.* got .*ids\.lookup"):
        wrong.run(TINY["lookup:lookups"])


def test_only_names_or_their_beginnings_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.chosen(None) == list(SUITE)
    assert [one.place for one in bench.chosen(["ids.lookup", "decode"])] == [
        "lookup:lookups",
        "decode:decoding",
    ]
    with pytest.raises(SystemExit):
        bench.options(["--only", "ids.lookup,nothing"])
    assert "no result nothing" in capsys.readouterr().err


def test_new_figures_take_the_place_of_old_ones_and_others_stay() -> None:
    held = [{"name": name, "value": 1} for name in (names()[1], names()[0], "gone")]
    new = [{"name": names()[0], "value": 2}]
    assert [(one["name"], one["value"]) for one in bench.merged(held, new)] == [
        (names()[0], 2),
        (names()[1], 1),
    ]


def test_a_failure_is_named_and_the_others_are_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Measurement(
        "lookup:lookups", ("ids.broken",), {"keys": -1, "asked": 1}, {"keys": -1, "asked": 1}
    )
    whole = Measurement("search:exact", ("search.exact",), *[TINY["search:exact"]] * 2)
    monkeypatch.setattr(bench, "SUITE", (broken, whole))
    latest = tmp_path / "latest.json"
    latest.write_text(json.dumps([{"name": "ids.lookup", "value": 3.0, "peer": ""}]))
    monkeypatch.setattr(bench, "LATEST", latest)
    monkeypatch.setattr(bench, "QUICK", tmp_path / "quick" / "bench.json")
    monkeypatch.setattr("sys.argv", ["benchmarks", "--quick"])
    assert bench.main() == 1
    said = capsys.readouterr()
    assert "not measured: ids.broken: ValueError" in said.err
    assert "search.exact" in said.out
    quick = bench.read(bench.QUICK)
    assert [(one["name"], one["params"]["quick"]) for one in quick] == [("search.exact", True)]
    assert [one["name"] for one in bench.read(latest)] == ["ids.lookup"]  # a quick run leaves it alone


def test_what_was_measured_is_kept_though_the_run_is_stopped() -> None:
    class Stopped(Measurement):
        def run(self, sizes: Mapping[str, Any], mark: Mapping[str, Any] | None = None) -> list[Result]:
            raise KeyboardInterrupt

    whole = Measurement("search:exact", ("search.exact",), *[TINY["search:exact"]] * 2)
    stopped = Stopped("search:exact", ("search.exact",), {}, {})
    kept: list[list[str]] = []

    def keep(records: list[Record]) -> None:
        kept.append([one["name"] for one in records])

    with pytest.raises(KeyboardInterrupt):
        bench.run([whole, stopped], True, Console(quiet=True), keep)
    assert kept == [["search.exact"]]


def test_the_change_compares_ratios_where_the_peer_is_the_same() -> None:
    held = Result("a", 10.0, "x/s", "p", 5.0).record({})
    now = Result("a", 9.0, "x/s", "p", 3.0).record({})
    alone, before = Result("b", 3.0, "ms").record({}), Result("b", 2.0, "ms").record({})
    assert bench._change(now, held) == 1.5
    assert bench._change(alone, before) == 1.5
    assert bench._change(now, None) is None
    assert bench._change({**now, "peer": "other"}, held) is None
    console = Console(record=True, width=120)
    console.print(bench.table([now, alone], {"a": held}))
    assert "1.50" in console.export_text()


def test_the_page_has_every_figure_once_and_says_what_is_missing(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    assert main(check=True) == 0
    one = Result("ids.lookup", 8.0, "keys/s", "dict", 2.0).record(surroundings())
    text = filled(page.read_text(encoding="utf-8"), [one])
    for name in names():
        assert text.count(f"| `{name}` |") == 1
    assert text.count("| not measured yet |") == len(names()) - 1
    assert "| `ids.lookup` | 8 keys/s | dict | 2 | 4.00 | – |" in text
    assert "Not measured yet." in filled(page.read_text(encoding="utf-8"), [])
    with pytest.raises(ValueError, match="no result nothing"):
        filled("<!-- performance: figures: nothing -->\n<!-- end of performance -->", [])


def test_what_met_a_swap_is_told_apart() -> None:
    ended_s = np.array([1.0, 1.1, 2.0, 2.05, 3.0])
    latency_ms = np.array([10.0, 10.0, 500.0, 20.0, 30.0])
    pauses = [(2.5, 2.7), (0.5, 1.3), (1.2, 1.4), (1.9, 2.02)]
    seen = Seen.of(latency_ms, ended_s, [(1.6, 2.04)], pauses)
    assert seen.steady_p99_ms == pytest.approx(np.percentile([10.0, 10.0, 30.0], 99))
    assert seen.p99_ms == pytest.approx(np.percentile([500.0, 20.0], 99))
    assert seen.stall_ms == pytest.approx(900)
    assert seen.stall_paused_ms == pytest.approx(400)
    assert seen.steady_stall_ms == pytest.approx(950)
    assert seen.steady_stall_paused_ms == pytest.approx(200)
    with pytest.raises(ValueError, match="during swaps and outside"):
        Seen.of(latency_ms, ended_s, [])


def test_a_core_that_is_taken_away_is_seen(tmp_path: Path) -> None:
    moments = iter([1.0, 1.002, 1.0055, 1.2, 1.202, 1.203])
    there = iter([True] * 5 + [False])
    slept: list[float] = []
    told = list(late(lambda: next(there), lambda: next(moments), slept.append))
    assert told == [(1.0055, 1.2)]
    assert slept == [WAKE_S] * 5
    with Worker("benchmarks.pauses") as watch:
        answer = watch.ask(while_there=str(tmp_path / "gone"))
    assert (answer["began_s"], answer["ended_s"]) == ([], [])


def test_the_hand_written_peer_gives_the_answers_of_the_model(tmp_path: Path) -> None:
    made = published(**SERVED)
    registry = Registry(tmp_path)
    bundle = registry.open_bundle(made.publish(registry))
    model, app = PublishedModel.load(bundle, MODEL), app_of(bundle, made.histories)
    for user in range(3):
        history = [(encode_id(item), 1) for item in made.histories[user].tolist()]
        u_D = model.queries(one_moment(encode_id(user), 2, history)).flat[0]
        answer = asyncio.run(_post(app, {"user_id": user, "k": 10}))
        scores = made.vectors @ u_D
        assert {one["id"] for one in answer["items"]} == set(np.argsort(-scores)[:10].tolist())
        np.testing.assert_allclose(answer["items"][0]["score"], scores.max(), rtol=1e-4)


async def _post(app: Any, body: dict[str, Any]) -> Any:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(body).encode()}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app({"type": "http"}, receive, send)
    return json.loads(sent[1]["body"])


def test_a_past_in_parts_is_the_past_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    given = data.Histories.drawn(4, 30, length=3, draw=data.uniform)
    who = np.concatenate([np.full(30, -1), np.tile(np.arange(4), 3)])
    whole = data.clicks(who, np.concatenate([np.arange(30), given.history.T.ravel()]))
    assert given.past.equals(whole)
    monkeypatch.setattr(data, "PART", 7)
    parts = list(given.pasts())
    assert [len(part) for part in parts] == [7] * 6
    assert given.past.combine_chunks().equals(whole.combine_chunks())
    assert given.following["ts_ms"][0].as_py() == whole["ts_ms"][-1].as_py() + 1000


def test_generated_data_is_the_same_every_time() -> None:
    one, other = (data.clustered(data.generator(), 500) for _ in range(2))
    assert (one == other).all()
    np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1, rtol=1e-5)
    ids = data.zipf(data.generator(), 10_000, 100)
    assert ids.min() == 0
    assert ids.max() < 100
    assert np.bincount(ids).argmax() == 0
