"""benchmarks/results/rankers.json: figures of every experiment, differences, watch time, serving."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from rich.progress import track

from benchmarks.measure import surroundings
from benchmarks.rankers.experiments import EXPERIMENTS, SCENES, TASKS, Experiment
from benchmarks.rankers.joined_events import DAY_MS, ZONE, Days
from benchmarks.rankers.metrics import Impressions, interval, mean_of, rounded
from benchmarks.rankers.runs import FIRST_DAYS, TEST_DAYS, Run, features, read, tested_rows, watched
from models.ranking.labels import task_labels
from models.ranking.rank_config import RankConfig
from models.ranking.rank_learner import RankLearner
from models.ranking.rank_published import PublishedRanker
from models.time_features import local_ms

FILE = Path(__file__).parents[1] / "results" / "rankers.json"
_SMOOTHING = 20.0
_WITHIN_USERS = ("rankers", "third", "logistic", "between", "beside", "mmoe", "pepnet")
"""Groups of experiments that are compared by GAUC too."""
METRICS = ("auc", "gauc", "gauc_day")
"""gauc_day: of the AUCs of each user's days."""


def runs_of(experiments: Iterable[Experiment], root: Path, days: Days) -> list[Run]:
    """Every seed of the experiments."""
    return [Run(one, seed, root, days.sha256) for one in experiments for seed in range(one.seeds)]


def tested(table: pa.Table) -> Impressions:
    """Labels and users of the rows."""
    config = RankConfig.model_validate(EXPERIMENTS[0].configuration(0))
    return Impressions(
        np.array(table["user_id"].combine_chunks().dictionary_encode().indices),
        np.array(table["scene"].to_pylist()),
        task_labels(config, table["actions"].combine_chunks()),
        _days_of(table),
    )


def _days_of(table: pa.Table) -> np.ndarray:
    """int64[N] local day of each impression, from 0."""
    day = local_ms(np.array(table["ts_ms"], np.int64), ZONE) // DAY_MS
    return np.asarray(day - day.min())


class Figures:
    """Metrics of experiments on the test days, each computed once."""

    def __init__(self, runs: Sequence[Run], days: Days) -> None:
        self._runs: dict[str, list[Run]] = {}
        for run in runs:
            if run.done:
                self._runs.setdefault(run.experiment.name, []).append(run)
        self._by_name = {one.name: one for one in EXPERIMENTS}
        self.rows = tested(tested_rows(days))
        self._scenes = {scene: self.rows.where(self.rows.scene == scene) for scene in SCENES}
        self._kept: dict[tuple[str, str, str, str, bool], list[np.ndarray]] = {}

    def done(self, name: str) -> bool:
        """Whether all seeds are there."""
        return len(self._runs.get(name, [])) == self._by_name[name].seeds

    def of(self, name: str, task: str, metric: str, scene: str = "", draws: bool = True) -> list[np.ndarray]:
        """[1 + DRAWS] values (or [1]) of every seed; scene: on its rows only."""
        key = (name, task, metric, scene, draws)
        if key not in self._kept:
            self._kept[key] = [self._value(run, task, metric, scene, draws) for run in self._runs[name]]
        return self._kept[key]

    def _value(self, run: Run, task: str, metric: str, scene: str, draws: bool) -> np.ndarray:
        scores = read(run)[0][task]
        rows = self._scenes[scene] if scene else self.rows
        if scene and not run.experiment.scene:
            scores = scores[self.rows.scene == scene]
        place = TASKS.index(task)
        if metric == "auc":
            return rows.aucs(place, scores, draws)
        return rows.gaucs(place, scores, draws, by_day=metric == "gauc_day")

    def record(self, one: Experiment) -> dict[str, Any]:
        """An experiment's entry: medians over the seeds, by task and by scene."""
        seconds = [read(run)[1]["wall_s"] for run in self._runs[one.name]]
        scenes = [one.scene] if one.scene else ["", *SCENES]

        def median(task: str, metric: str, scene: str) -> float:
            return rounded(np.median(self.of(one.name, task, metric, scene, draws=False)))

        figures = {
            scene or "all": {
                task: {metric: median(task, metric, scene) for metric in METRICS} for task in one.tasks
            }
            for scene in scenes
        }
        return {
            "group": one.group,
            "name": one.name,
            "scene": one.scene,
            "seeds": one.seeds,
            "keys": [run.key for run in self._runs[one.name]],
            "wall_s": rounded(statistics.median(seconds)),
            "config": self._runs[one.name][0].config.model_dump(mode="json", exclude={"seed"}),
            "figures": figures,
        }

    def differences(self, one: Experiment) -> list[dict[str, Any]]:
        """one - its base, by task and metric: paired draws, mean over the seeds of each."""
        if one.name == one.against or not self.done(one.against):
            return []
        metrics = METRICS if one.group in _WITHIN_USERS else METRICS[:1]
        found = []
        for scene in [one.scene]:
            for task in one.tasks:
                for metric in metrics:
                    a, b = (mean_of(self.of(n, task, metric, scene)) for n in (one.against, one.name))
                    found.append(
                        {
                            "name": one.name,
                            "against": one.against,
                            "scene": scene or "all",
                            "task": task,
                            "metric": metric,
                            **interval(b - a),
                        }
                    )
        return found


def watch_times(runs: Sequence[Run], days: Days) -> list[dict[str, Any]]:
    """Errors of predicted watch time per impression beside baselines that know the same days."""
    truth = watched(tested_rows(days))
    constant: dict[str, list[np.ndarray]] = {"global mean": [], "global median": [], "mean per item": []}
    for day in TEST_DAYS:
        before = pa.concat_tables(days.joined[:day])
        seconds, n = watched(before), len(days.joined[day])
        constant["global mean"].append(np.full(n, seconds.mean()))
        constant["global median"].append(np.full(n, np.median(seconds)))
        codes = before["item_id"].combine_chunks().dictionary_encode()
        total = np.bincount(np.array(codes.indices), seconds)
        shown = np.bincount(np.array(codes.indices))
        mean = (total + _SMOOTHING * seconds.mean()) / (shown + _SMOOTHING)
        at = pa.compute.index_in(days.joined[day]["item_id"].combine_chunks(), codes.dictionary)
        constant["mean per item"].append(
            np.where(np.array(at.is_valid()), mean[np.array(at.fill_null(0))], seconds.mean())
        )
    predicted = {name: [np.concatenate(parts)] for name, parts in constant.items()}
    for run in runs:
        if run.done and run.config.watch:
            predicted.setdefault(run.experiment.name, []).append(read(run)[0]["watch_s"])
    return [
        {
            "name": name,
            "mae_s": rounded(np.median([np.abs(one - truth).mean() for one in values])),
            "rmse_s": rounded(np.median([np.sqrt(np.square(one - truth).mean()) for one in values])),
            "mean_s": rounded(np.median([one.mean() for one in values])),
            "true_mean_s": rounded(truth.mean()),
        }
        for name, values in predicted.items()
    ]


class _Files:
    """A bundle in memory."""

    def __init__(self, learner: RankLearner) -> None:
        self.manifest = {"rankers": {"r": learner.describe()}}
        self._parts = learner.save()

    def tensors(self, name: str) -> dict[str, np.ndarray]:
        return self._parts[name.rpartition("/")[2].removesuffix(".safetensors")]


def serving(days: Days, candidates: int = 500, rounds: int = 40) -> list[dict[str, Any]]:
    """Milliseconds of one request by one thread, of the clock and of its core, for each kind."""
    torch.set_num_threads(1)
    users = days.catalogue.users.slice(0, 1).to_pylist()[0]
    found = []
    for one in (one for one in EXPERIMENTS if one.group == "rankers"):
        learner = RankLearner.fresh(RankConfig.model_validate(one.configuration(0)), features())
        learner.train(learner.prepare(days.joined[0], days.catalogue))
        ranker = PublishedRanker.load(_Files(learner), "r")
        items = days.catalogue.items.slice(0, candidates)
        attributes = {name: items[name].combine_chunks() for name in ranker.reads()["item"]}
        keys = items["item_id"].combine_chunks().cast(pa.string())
        user = {name: users[name] for name in ranker.reads()["user"]}
        ts_ms = int(days.joined[1]["ts_ms"][0].as_py())
        kept = ranker.items(keys, attributes)
        scene = {"scene": "tab1"}
        asked = {
            "keys_ms": partial(ranker.scores, "712", keys, scene, user, attributes, ts_ms),
            "kept_items_ms": partial(ranker.scores_of, "712", kept, scene, user, ts_ms),
        }
        times: dict[str, list[float]] = {f"{name}{kind}": [] for name in asked for kind in ("", "_cpu")}
        for _ in range(rounds):
            for name, ask in asked.items():
                began_s, began_cpu_s = time.perf_counter(), time.thread_time()
                ask()
                times[f"{name}_cpu"].append(1000 * (time.thread_time() - began_cpu_s))
                times[name].append(1000 * (time.perf_counter() - began_s))
        medians = {name: round(statistics.median(taken), 3) for name, taken in times.items()}
        found.append({"name": one.name, "candidates": candidates, **medians})
    return found


def collect(runs: Sequence[Run], days: Days, command: str, with_serving: bool) -> dict[str, Any]:
    """All figures of the experiments that are done."""
    figures = Figures(runs, days)
    done = [one for one in EXPERIMENTS if figures.done(one.name)]
    entries, differences = [], []
    for one in track(done, "figures"):
        entries.append(figures.record(one))
        differences += figures.differences(one)
    rows = figures.rows
    return {
        "about": {
            "command": command,
            "data_sha256": days.sha256,
            "first_days": FIRST_DAYS,
            "test_days": list(TEST_DAYS),
            "impressions": {
                "before": sum(len(one) for one in days.joined[: TEST_DAYS[0]]),
                "test": len(rows.user),
                "test_by_scene": {scene: int((rows.scene == scene).sum()) for scene in SCENES},
            },
            "test_users": len(rows.users[1]),
            "positives": dict(zip(TASKS, rows.labels.sum(0).astype(int).tolist(), strict=True)),
            **surroundings(),
        },
        "experiments": entries,
        "differences": differences,
        "watch": watch_times(runs, days),
        "serving": serving(days) if with_serving else [],
    }


def with_earlier(found: dict[str, Any], earlier: dict[str, Any], runs: Sequence[Run]) -> dict[str, Any]:
    """`found`, and from an earlier collection the experiments that it has not, if their runs are still those
    that are declared (`runs`): with their differences, if that holds for their base too. Each entry tells its
    revision ("git").
    """
    keys: dict[str, list[str]] = {}
    for run in runs:
        keys.setdefault(run.experiment.name, []).append(run.key)
    entries = {one["name"]: {**one, "git": found["about"]["git"]} for one in found["experiments"]}
    before = {one["name"]: one for one in earlier["experiments"]}
    same = {name for name, one in before.items() if one["keys"] == keys.get(name)}
    for name in same - set(entries):
        entries[name] = {"git": earlier["about"]["git"], **before[name]}
    kept = [
        one
        for one in earlier["differences"]
        if {one["name"], one["against"]} <= same
        and one["name"] not in {e["name"] for e in found["experiments"]}
    ]
    order = {name: place for place, name in enumerate(keys)}
    return {
        **found,
        "experiments": sorted(entries.values(), key=lambda one: order[one["name"]]),
        "differences": sorted([*found["differences"], *kept], key=lambda one: order[one["name"]]),
    }


def write(results: dict[str, Any], file: Path) -> None:
    """One line for each entry, so that a diff shows which ones changed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    parts = []
    for name, value in results.items():
        lines = [json.dumps(one) for one in value] if isinstance(value, list) else None
        text = json.dumps(value) if lines is None else "[" + ",".join("\n" + one for one in lines) + "\n]"
        parts.append(f"{json.dumps(name)}: {text}")
    aside = file.with_suffix(".tmp")
    aside.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
    aside.rename(file)
