"""Peers beside the models here: the same targets, paired differences, what is kept and the README table."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.findings.data import KUAIRAND, MOVIETWEETINGS, DataSet
from benchmarks.findings.experiments import SHOWN, Experiment
from benchmarks.findings.runs import Limits, Run, run_of
from benchmarks.peers import side_by_side
from benchmarks.peers.pairs import METRIC, PAIRS, SCOPES, compared, models_of, peer_answers
from benchmarks.peers.positives import read_positives, read_targets
from benchmarks.peers.table import peers_table
from benchmarks.readme import filled

ROWS = np.arange(40, 60)


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    """Six users with IDs of a number each, who like ten items in turn."""
    n = np.arange(60)
    table = {"ts_ms": n * 1000, "user_id": n % 6, "item_id": n % 10, "kind": ["like"] * len(n)}
    table["request_id"] = [""] * len(n)
    pq.write_table(pa.table(table), tmp_path / "events.parquet")
    return DataSet(MOVIETWEETINGS, tmp_path / "events.parquet", None, None)


def kept_run(data: DataSet, root: Path, channel: str, seed: int, places: np.ndarray) -> Run:
    """A run whose lists have the targets ROWS at these places, in both scopes."""
    run = run_of(Experiment(f"models/{channel}", data.name, (channel,)), seed, data, root, Limits())
    run.folder.mkdir(parents=True)
    columns = {
        "row": np.tile(ROWS, 2),
        "user": np.tile(ROWS % 6, 2),
        "touched": np.zeros(2 * len(ROWS), bool),
        "place": np.tile(places, 2),
        "strategy": [SHOWN] * 2 * len(ROWS),
        "channel": [channel] * 2 * len(ROWS),
        "scope": np.repeat(SCOPES, len(ROWS)),
    }
    pq.write_table(pa.table(columns), run.folder / "hits.parquet")
    (run.folder / "metrics.json").write_text(json.dumps({"about": {"git": "abc"}}))
    return run


def lists(file: Path, ranks: dict[str, np.ndarray], rows: np.ndarray = ROWS) -> Path:
    parts = [
        {"row": rows[::-1], "peer": [name] * len(rows), "scope": [scope] * len(rows), "rank": rank[::-1]}
        for name, rank in ranks.items()
        for scope in SCOPES
    ]
    pq.write_table(pa.concat_tables([pa.table(part) for part in parts]), file)
    return file


def record(data: str, peer: str, scope: str, value: float) -> dict[str, object]:
    params = {
        "refits": 3, "knobs": {"epochs": 5}, "newest": 0, "trials": 2, "max_epochs": None,
        "tuning_s": 60.0, "test_s": 40.0,
    }  # fmt: skip
    return {
        "name": f"{peer}.{METRIC}", "value": value, "n": 20, "scope": scope, "data": data,
        "params": params, "versions": {"torch-rechub": "0.9.0"},
    }  # fmt: skip


def test_targets_are_some_of_those_that_a_backtest_asks(
    data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled = {}
    for size in (5, 9):
        monkeypatch.setattr(side_by_side, "TARGETS", size)
        side_by_side.write_targets(data, tmp_path / "targets.parquet")
        positives = read_positives(data.events, list(data.positives))
        sampled[size] = read_targets(tmp_path / "targets.parquet", positives, data.start_ms)
    assert len(sampled[5]) == 5
    assert set(sampled[5]) < set(sampled[9])


def test_difference_is_of_the_same_targets_and_the_mean_of_seeds(data: DataSet, tmp_path: Path) -> None:
    hit, missed = np.zeros(20, np.int16), np.full(20, -1, np.int16)
    few = np.where(np.arange(20) < 7, 49, 50).astype(np.int16)
    runs = [
        kept_run(data, tmp_path, "dssm", 0, hit),
        kept_run(data, tmp_path, "dssm", 1, missed),
        kept_run(data, tmp_path, "sequence", 0, few),
    ]
    some = ROWS[5:15]
    ranks = {"rechub_dssm": np.where(some < 48, 49.5, 50.0), "popularity": np.full(10, np.inf)}
    answers = peer_answers(lists(tmp_path / "lists.parquet", ranks, some))
    assert answers["rechub_dssm"]["all"][0].tolist() == some.tolist()
    found = compared(data.name, answers, models_of(runs))
    pair = [one for one in found if one["kind"] == "pair"]
    assert [(one["name"], one["scope"]) for one in pair] == [("dssm - rechub_dssm", s) for s in SCOPES]
    assert (pair[0]["peer_value"], pair[0]["value"], pair[0]["n"]) == (0.3, 0.5, 10)
    assert pair[0]["difference"] == pytest.approx(0.2)
    assert pair[0]["difference_interval"][0] < 0.2 < pair[0]["difference_interval"][1]
    assert pair[0]["seeds"] == [0, 1]
    assert pair[0]["keys"] == [runs[0].key, runs[1].key]
    best = next(one for one in found if one["kind"] == "best")
    assert (best["peer"], best["model"], best["value"]) == ("rechub_dssm", "dssm", 0.5)


def test_targets_that_were_not_asked_here_are_refused(data: DataSet, tmp_path: Path) -> None:
    models = models_of([kept_run(data, tmp_path, "dssm", 0, np.zeros(20, np.int16))])
    answers = peer_answers(
        lists(tmp_path / "lists.parquet", {"rechub_dssm": np.zeros(3)}, np.array([41, 60, 61]))
    )
    with pytest.raises(ValueError, match="expected all 3 targets of the peers, 2 are not there"):
        compared(data.name, answers, models)


def test_runs_on_other_events_are_refused(data: DataSet, tmp_path: Path) -> None:
    (tmp_path / "dssm.json").write_text(json.dumps([{"data_sha256": "0"}]))
    with pytest.raises(ValueError, match=r"dssm\.json: expected a run on .*; remove it"):
        side_by_side.results_of(tmp_path, data)


def test_other_data_sets_stay_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "peers.json"
    side_by_side.write([record(KUAIRAND, "recbole_bpr", "all", 0.1)], file)
    side_by_side.write([record(MOVIETWEETINGS, "recbole_bpr", "all", 0.2)], file)
    side_by_side.write([record(KUAIRAND, "recbole_bpr", "all", 0.3)], file)
    kept = json.loads(file.read_text())
    assert [(one["data"], one["value"]) for one in kept] == [(KUAIRAND, 0.3), (MOVIETWEETINGS, 0.2)]


def test_table_says_what_is_not_measured(data: DataSet, tmp_path: Path) -> None:
    run = kept_run(data, tmp_path, "dssm", 0, np.zeros(20, np.int16))
    answers = peer_answers(lists(tmp_path / "lists.parquet", {"rechub_dssm": np.full(20, 60.0)}))
    own = [record(data.name, "rechub_dssm", scope, 0.0) for scope in SCOPES]
    text = peers_table([*own, *compared(data.name, answers, models_of([run]))])
    assert (
        "| movietweetings | torch-rechub DSSM | 0.0000 / 0.0000 | dssm | 1.0000 / 1.0000 "
        "| +1.0000 [+1.0000, +1.0000] |" in text
    )
    assert (
        "| movietweetings | RecBole BPR | not measured yet | two_tower | not measured yet | – | – |" in text
    )
    assert "best: dssm" in text
    assert "torch-rechub DSSM 3 refits of 5 epochs, first 2 of its grid, 100 s" in text
    assert peers_table([]).count("not measured yet") == 3 * 2 * len(PAIRS) + 1


def test_only_what_stands_between_the_markers_is_written() -> None:
    block = ("<!-- a -->", "<!-- end of a -->")
    page = "before\n<!-- a -->\nold\n<!-- end of a -->\nafter\n"
    wanted = "before\n<!-- a -->\n\nnew\n\n<!-- end of a -->\nafter\n"
    assert filled(page, block, "new") == filled(wanted, block, "new") == wanted
