"""Findings: declarations, keys, resuming, what is kept of a run, differences and pages."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.findings import comparisons, configuration, figures, reach, results, tables
from benchmarks.findings.comparisons import Pair, Side, pairs_of
from benchmarks.findings.data import COMPLETEJOURNEY, KUAIRAND, MOVIETWEETINGS, NAMES, DataSet, found
from benchmarks.findings.experiments import CLAIMS, EXPERIMENTS, FUSED_RUN, MODELS, SHOWN, Experiment, chosen
from benchmarks.findings.hits import Hits, condense
from benchmarks.findings.runner import Ended, missing, run_all
from benchmarks.findings.runs import Limits, Run, run_of, runs_of
from deploy.backtest.strategies import STRATEGIES

HOUR_MS = 3_600_000


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    """Five users that like ten items in turn, one every hour."""
    n = np.arange(40)
    table = {
        "ts_ms": n * HOUR_MS,
        "user_id": [f"u{one % 5}" for one in n],
        "item_id": [f"i{one % 10}" for one in n],
        "kind": ["like"] * len(n),
    }
    pq.write_table(pa.table(table), tmp_path / "events.parquet")
    return DataSet(MOVIETWEETINGS, tmp_path / "events.parquet", None, None)


# declarations


def test_every_experiment_is_one_that_freshrecall_accepts() -> None:
    bases = {name: configuration.base(name) for name in NAMES}
    for one in EXPERIMENTS:
        made = configuration.changed(bases[one.data], one.changes, one.without, one.channels)
        content = configuration.content(made, one.channels)  # raises where it is refused
        learned = set(one.channels) & set(MODELS)
        assert set(content["models"]) == learned, one.name
        assert set(one.strategies) <= set(STRATEGIES), one.name
        assert tomllib.loads(configuration.toml(made)) == made, one.name


def test_names_are_unique_and_variants_know_their_base() -> None:
    names = [(one.data, one.name) for one in EXPERIMENTS]
    assert len(set(names)) == len(names)
    for one in EXPERIMENTS:
        if one.against:
            base = next(b for b in EXPERIMENTS if (b.data, b.name) == (one.data, one.against))
            assert set(base.strategies) & set(one.strategies)
            assert set(base.seeds) & set(one.seeds)
    strategies = {claim.better for claim in CLAIMS} | {claim.worse for claim in CLAIMS}
    assert strategies <= {name for one in EXPERIMENTS if one.group == "claims" for name in one.strategies}


def test_only_minutes_on_kuairand() -> None:
    lengths = {name: [one.interval for one in chosen((f"{name}/intervals",))] for name in NAMES}
    assert lengths[KUAIRAND] == ["1d", "6h", "1h", "10m", "1m"]
    assert lengths[MOVIETWEETINGS] == lengths[COMPLETEJOURNEY] == ["1d", "6h", "1h"]
    with pytest.raises(ValueError, match="losess"):
        chosen(("losess",))


def test_changes_reach_one_model_or_all_and_others_are_left_out() -> None:
    tree = {
        "every_model": {"tau": 0.2, "own_items": 3},
        "models": {"a": {"kind": "fm", "own_items": 9}, "b": {"kind": "ebr"}, "c": {"kind": "mind"}},
        "features": [{"name": "tag", "source": "item"}, {"name": "age", "source": "user"}],
    }
    changes = {"every_model.tau": 1.0, "models.b.loss": "softmax", "update.seed": 3}
    made = configuration.changed(tree, changes, ("item",), ("a", "b"))
    assert made == {
        "models": {
            "a": {"tau": 1.0, "kind": "fm", "own_items": 9},
            "b": {"tau": 1.0, "own_items": 3, "kind": "ebr", "loss": "softmax"},
        },
        "features": [{"name": "age", "source": "user"}],
        "update": {"seed": 3},
    }
    assert configuration.changed(tree, {}, ("item.tag",), ())["features"] == made["features"]
    assert tree["every_model"]["tau"] == 0.2


# runs and their keys


def test_key_follows_what_figures_depend_on_and_nothing_else(data: DataSet, tmp_path: Path) -> None:
    one, declared = Experiment("models/two_tower", MOVIETWEETINGS), Limits()

    def key(one: Experiment, seed: int = 0, data: DataSet = data, limits: Limits = declared) -> str:
        return run_of(one, seed, data, tmp_path, limits).key

    assert key(one) == key(one) == key(replace(one, name="losses/softmax"))  # another name, the same run
    assert key(one) == key(replace(one, changes={"models.two_tower.loss": "softmax"}))  # its default
    assert key(one) == key(replace(one, compared=("two_tower",)))  # what is shown of it
    others = [
        key(one, seed=1),
        key(replace(one, rejects="prerank")),
        key(one, limits=Limits(sample=5)),
        key(replace(one, sample=10)),
        key(replace(one, changes={"models.two_tower.loss": "nce"})),
        key(replace(one, without=("item",))),
        key(replace(one, interval="6h")),
        key(replace(one, strategies=("daily",))),
    ]
    pq.write_table(pq.read_table(data.events).slice(1), tmp_path / "cut.parquet")
    others.append(key(one, data=replace(data, events=tmp_path / "cut.parquet")))
    assert len({key(one), *others}) == len(others) + 1


def test_start_is_the_target_with_four_fifths_before_it(data: DataSet) -> None:
    assert data.start_ms == 32 * HOUR_MS


def test_absent_data_is_named(data: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = {KUAIRAND: tmp_path / "nowhere", MOVIETWEETINGS: data.events.parent}
    there = found(folders, False, tmp_path)
    assert list(there) == [MOVIETWEETINGS]
    assert there[MOVIETWEETINGS].items is None
    told = capsys.readouterr().err
    assert "kuairand: skipped" in told
    assert "completejourney: skipped" in told


def done(run: Run) -> Ended:
    run.folder.mkdir(parents=True)
    (run.folder / "hits.parquet").write_bytes(b"")
    return Ended(run, 1.0, "")


def test_goes_on_where_it_was_stopped_and_past_failures(data: DataSet, tmp_path: Path) -> None:
    experiments = chosen(("movietweetings/losses",))
    runs = runs_of(experiments, {MOVIETWEETINGS: data}, tmp_path / "runs", Limits())
    begun: list[str] = []

    def execute(run: Run) -> Ended:
        begun.append(run.name)
        if "nce" in run.name:
            raise OSError("no space")
        return Ended(run, 1.0, "exit code 1") if "hinge" in run.name else done(run)

    ended = run_all(runs, 1, None, execute)
    assert len(ended) == len(begun) == len(runs) == 6
    failed = {one.run.name.split("/")[2]: one.error for one in ended if one.error}
    assert failed == {"nce seed 0": "OSError: no space", "pairwise_hinge seed 0": "exit code 1"}
    begun.clear()
    run_all(runs, 2, None, execute)
    assert sorted(begun) == sorted(one.run.name for one in ended if one.error)


def test_begins_nothing_after_its_hours(data: DataSet, tmp_path: Path) -> None:
    runs = runs_of(chosen(("movietweetings/losses",)), {MOVIETWEETINGS: data}, tmp_path / "runs", Limits())
    times = iter([0.0, 0.0, 3599.0, 3600.0, 3600.0])
    assert len(run_all(runs, 1, 1.0, done, lambda: next(times))) == 2
    assert len(missing(runs)) == 4


# what is kept of a run


def predictions(data: DataSet, file: Path, channel: str, places: list[int]) -> pa.Table:
    """Lists of eight for the last eight targets, with the target at the given place (-1: not in it)."""
    rows = np.arange(32, 40)
    lists = []
    for row, place in zip(rows, places, strict=True):
        own = f"i{row % 10}"
        others = [f"i{n}" for n in range(10) if f"i{n}" != own]
        lists.append([*others[:place], own, *others[place:]][:8] if place >= 0 else others[:8])
    columns = {
        "row": rows,
        "strategy": ["daily"] * 8,
        "channel": [channel] * 8,
        "scope": ["all"] * 8,
        "items": lists,
        "made_at_watermark_ms": np.zeros(8, np.int64),
    }
    table = pa.table(columns)
    pq.write_table(table, file)
    about = {"start_ms": 32 * HOUR_MS, "end_ms": 40 * HOUR_MS, "interval_ms": HOUR_MS, "day_timezone": "UTC"}
    return condense(file, about, data.targets)


def test_hits_are_places_in_the_lists(data: DataSet, tmp_path: Path) -> None:
    places = [0, 6, -1, 2, 2, 1, 0, -1]
    table = predictions(data, tmp_path / "p.parquet", "x", places)
    assert table["place"].to_pylist() == places
    assert "items" not in table.column_names
    # Every hour one of five users: from the sixth target on the user had one since the start at 32 h.
    assert table["touched"].to_pylist() == [False] * 5 + [True] * 3
    pq.write_table(table, tmp_path / "h.parquet")
    of = Hits.read(tmp_path / "h.parquet").of("daily", "x", "all")
    assert of["recall@50"].tolist() == [1, 1, 0, 1, 1, 1, 1, 0]
    assert of["ndcg@100"] == pytest.approx([1, 1 / 3, 0, 0.5, 0.5, 1 / np.log2(3), 1, 0])
    assert len(Hits.read(tmp_path / "h.parquet").of("daily", "x", "new")["row"]) == 0


def test_difference_is_the_mean_over_shared_seeds(data: DataSet, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(comparisons, "SCOPES", ("all",))
    hit, lost = [0] * 8, [-1] * 8
    sides = {
        name: Hits(predictions(data, tmp_path / "p.parquet", name, places))
        for name, places in {"hit": hit, "half": [0, -1] * 4, "lost": lost}.items()
    }
    pair = Pair("variant", MOVIETWEETINGS, Side("a", "daily", "half"), Side("b", "daily", "half"))
    same = comparisons.differences(pair, {0: sides["half"]}, {0: sides["half"], 1: sides["hit"]})
    assert same[0]["difference"] == {"mean": 0, "low": 0, "high": 0}
    assert same[0]["relative"] == {"mean": 0, "low": 0, "high": 0}
    claim = Pair("claim", MOVIETWEETINGS, Side("a", "daily", "lost"), Side("a", "daily", "hit"))
    records = comparisons.differences(claim, {0: sides["lost"]}, {0: sides["hit"]})
    assert [(one["targets"], one["metric"], one["n"]) for one in records] == [
        ("asked", "recall@50", 8), ("asked", "ndcg@100", 8),
        ("touched", "recall@50", 3), ("touched", "ndcg@100", 3),
    ]  # fmt: skip
    assert all(one["difference"] == {"mean": 1, "low": 1, "high": 1} for one in records)
    assert "relative" not in records[0]  # of nothing
    with pytest.raises(ValueError, match="both sides"):
        comparisons.differences(claim, {0: sides["lost"]}, {1: sides["hit"]})


def test_sides_of_different_targets_are_refused(data: DataSet, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(comparisons, "SCOPES", ("all",))
    table = predictions(data, tmp_path / "p.parquet", "x", [0] * 8)
    pair = Pair("variant", MOVIETWEETINGS, Side("a", "daily", "x"), Side("b", "daily", "x"))
    with pytest.raises(ValueError, match="same targets"):
        comparisons.differences(pair, {0: Hits(table)}, {0: Hits(table.slice(1))})


# results and pages


def finished(run: Run, data: DataSet, places: list[int]) -> None:
    """The files of a run."""
    run.folder.mkdir(parents=True)
    channel = run.experiment.channels[0]
    table = predictions(data, run.folder / "predictions.parquet", channel, places)
    other = table.set_column(table.column_names.index("strategy"), "strategy", pa.array([SHOWN] * 8))
    both = pa.concat_tables([table, other])
    new = both.set_column(both.column_names.index("scope"), "scope", pa.array(["new"] * 16))
    pq.write_table(pa.concat_tables([both, new]), run.folder / "hits.parquet")
    interval = {"mean": sum(one >= 0 for one in places) / 8, "low": 0.1, "high": 0.9}
    scope = {"n": 8, "recall@50": interval, "coverage": 0.5}
    shown = {channel: {"all": scope, "new": scope}}
    about = {
        "asked": 8, "in_window": 8, "start_ms": 0, "end_ms": 1, "wall_s": 3600.0, "seconds": {}, "git": "abc",
        "versions": {"torch": "2"}, "machine": {"cores": 2},
    }  # fmt: skip
    metrics = {"about": about, "metrics": {"daily": shown, SHOWN: shown}, "differences": []}
    (run.folder / "metrics.json").write_text(json.dumps(metrics))


def test_results_are_those_of_the_declarations_and_pages_follow(data: DataSet, tmp_path: Path) -> None:
    names = ("losses/softmax", "losses/nce", "losses/pointwise")
    experiments = tuple(one for one in EXPERIMENTS if one.data == MOVIETWEETINGS and one.name in names)
    file = tmp_path / "findings.json"
    other = {"data": KUAIRAND, "name": "losses/nce", "seed": 0, "key": "k", "figures": {}}
    stale = {"data": MOVIETWEETINGS, "name": "losses/nce", "seed": 0, "key": "old", "figures": {}}
    results.write({"runs": [other, stale], "comparisons": [], "failed": []}, file)
    runs = runs_of(experiments, {MOVIETWEETINGS: data}, tmp_path / "runs", Limits())
    finished(runs[0], data, [0, 0, 0, 0, -1, -1, -1, -1])
    finished(runs[1], data, [0] * 8)
    runs[2].folder.mkdir(parents=True)
    (runs[2].folder / "failed.json").write_text(json.dumps({"name": "x", "error": "out of memory"}))

    results.collect(runs, experiments, file)
    read = results.read(file)
    assert [(one["data"], one["name"]) for one in read["runs"]] == [
        (KUAIRAND, "losses/nce"), (MOVIETWEETINGS, "losses/softmax"), (MOVIETWEETINGS, "losses/nce"),
    ]  # fmt: skip
    assert str(tmp_path) not in read["runs"][1]["command"]
    assert [one["error"] for one in read["failed"]] == ["out of memory"]
    assert {one["b"][0] for one in read["comparisons"]} == {"losses/nce"}
    before = file.read_text()
    for run in runs[:2]:  # the folders are gone: what is known of the same runs stays
        for name in ("hits.parquet", "metrics.json"):
            (run.folder / name).unlink()
    results.collect(runs, experiments, file)
    assert file.read_text() == before

    text = tables.variants(read, "losses")
    assert f"kuairand: {figures.UNKNOWN}." in text
    assert "| nce | hourly_items | 1.0000 [0.1000, 0.9000] |" in text
    assert "+0.5000 [" in text
    assert ", +100.0% |" in text
    assert f"| listwise | daily | {figures.UNKNOWN} | {figures.UNKNOWN} | {figures.UNKNOWN} |" in text
    page = "a\n<!-- findings: variants: losses -->\nold\n<!-- end of findings -->\nb\n"
    wanted = tables.filled(page, read)
    assert text in wanted
    assert "old" not in wanted
    assert wanted.startswith("a\n")
    assert wanted.endswith("\nb\n")
    assert tables.filled(wanted, read) == wanted
    with pytest.raises(ValueError, match="weather"):
        tables.filled("<!-- findings: weather -->\n<!-- end of findings -->", read)


@pytest.mark.parametrize(
    ("low", "high", "said"), [(0.1, 0.3, "confirmed"), (-0.1, 0.3, "undecided"), (-0.3, -0.1, "the contrary")]
)
def test_verdict_is_the_interval_s(low: float, high: float, said: str) -> None:
    interval = {"mean": 0.0, "low": low, "high": high}
    records = [
        {
            "scope": scope,
            "targets": targets,
            "metric": "recall@50",
            "difference": interval,
            "relative": interval,
        }
        for scope in ("all", "new")
        for targets in ("asked", "touched")
    ]
    a, b = (["claims/with counts", strategy, "two_tower"] for strategy in ("daily", "hourly"))
    one = {"kind": "claim", "data": KUAIRAND, "a": a, "b": b, "records": records}
    text = tables.claims({"runs": [], "comparisons": [one], "failed": []}, KUAIRAND)
    line = next(line for line in text.splitlines() if "(hourly over daily)" in line)
    assert line.count(said) == 3
    assert figures.UNKNOWN in text


def test_median_of_seeds_is_shown() -> None:
    runs = [
        {"data": KUAIRAND, "name": "m", "figures": {SHOWN: {"c": {"all": {"recall@50": {"mean": mean}}}}}}
        for mean in (0.3, 0.1, 0.2)
    ]
    shown = figures.figures({"runs": runs}, KUAIRAND, "m", SHOWN, "c", "all")
    assert shown
    assert shown["recall@50"]["mean"] == 0.2


def test_every_pair_of_the_grid_is_of_known_experiments() -> None:
    known = {(one.data, one.name): one for one in EXPERIMENTS}
    pairs = pairs_of(EXPERIMENTS)
    assert {pair.kind for pair in pairs} == {"claim", "variant", "single", "model"}
    for pair in pairs:
        for side in (pair.a, pair.b):
            one = known[pair.data, side.experiment]
            assert side.strategy in one.strategies
            assert side.channel in one.channels


def test_a_group_may_compare_several_channels() -> None:
    declared = chosen(("rejects/ebr, none", "rejects/ebr, rejects, 10 easy to 1"))
    sides = [(pair.a, pair.b) for pair in pairs_of(declared)]
    assert [(a.channel, b.channel) for a, b in sides] == [(name, name) for name in declared[0].compared]
    assert {(a.experiment, b.experiment) for a, b in sides} == {tuple(one.name for one in declared)}
    run = {"data": KUAIRAND, "name": declared[0].name, "figures": {SHOWN: {}}}
    for name in declared[0].compared:
        value = {"mean": 0.5, "low": 0.4, "high": 0.6}
        run["figures"][SHOWN][name] = {scope: {"recall@50": value} for scope in ("all", "new")}
    page = tables.variants({"runs": [run], "comparisons": [], "failed": []}, "rejects")
    for name in declared[0].compared:
        assert f"| ebr, none: {name} | {SHOWN} | 0.5000 [0.4000, 0.6000] |" in page


def test_pages_are_current() -> None:
    assert tables.main(check=True) == 0


def test_readme_lists_every_model() -> None:
    text = tables.readme_models(results.read())
    for row in range(1, 9):
        assert f"| A{row} |" in text


def test_where_targets_stood_stays_known_where_the_run_is_elsewhere() -> None:
    """As when runs of another group are collected from a folder of their own."""
    fused: Any = SimpleNamespace(experiment=SimpleNamespace(name=FUSED_RUN), seed=0, key="k", done=False)
    known = [{"data": "kuairand", "key": "k", "seed": 0, "records": []}, {"key": "other"}]
    assert reach.records([fused], known) == known[:1]
    assert reach.records([fused], known[1:]) == []
