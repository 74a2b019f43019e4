"""benchmarks/results/findings.json: the figures of every run, and the differences between them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.progress import track

from benchmarks.findings import reach
from benchmarks.findings.comparisons import Pair, differences, pairs_of
from benchmarks.findings.experiments import Experiment
from benchmarks.findings.hits import Hits
from benchmarks.findings.runs import Run
from benchmarks.measure import surroundings

FILE = Path(__file__).parents[1] / "results" / "findings.json"
EMPTY: dict[str, list[dict[str, Any]]] = {"runs": [], "comparisons": [], "reach": [], "failed": []}


def read(file: Path = FILE) -> dict[str, list[dict[str, Any]]]:
    """What was measured so far; nothing where there is no file."""
    return {**EMPTY, **json.loads(file.read_text(encoding="utf-8"))} if file.exists() else dict(EMPTY)


def collect(runs: Sequence[Run], experiments: Iterable[Experiment], file: Path = FILE) -> None:
    """Write the file anew from the folders of the runs of all experiments whose data sets are there.

    What the file says of other data sets stays; of these, only what was made by the experiments as they are
    declared now: a figure of another configuration disappears.
    """
    before = read(file)
    sets = {run.data.name for run in runs}
    old_runs = {(one["data"], one["name"], one["seed"], one["key"]): one for one in before["runs"]}
    kept = [one for one in before["runs"] if one["data"] not in sets]
    for run in runs:
        known = old_runs.get((run.data.name, run.experiment.name, run.seed, run.key))
        if run.done:
            kept.append(known or record(run))
        elif known:
            kept.append(known)
    written = {
        "runs": kept,
        "comparisons": [one for one in before["comparisons"] if one["data"] not in sets]
        + _comparisons(runs, experiments, before["comparisons"]),
        "reach": [one for one in before["reach"] if one["data"] not in sets]
        + reach.records(runs, before["reach"]),
        "failed": [one for one in before["failed"] if one["data"] not in sets]
        + [one for run in runs if (one := _failure(run))],
    }
    write(written, file)


def write(results: dict[str, list[dict[str, Any]]], file: Path) -> None:
    """One line for each entry, so that a diff shows which ones changed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    parts = [
        f"{json.dumps(name)}: [" + ",".join("\n" + json.dumps(one) for one in entries) + "\n]"
        for name, entries in results.items()
    ]
    aside = file.with_suffix(".tmp")
    aside.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
    aside.rename(file)


def record(run: Run) -> dict[str, Any]:
    """Figures of one run with all they depend on."""
    metrics = json.loads((run.folder / "metrics.json").read_text(encoding="utf-8"))
    about = metrics["about"]
    return {
        "data": run.data.name,
        "name": run.experiment.name,
        "seed": run.seed,
        "key": run.key,
        "figures": _rounded(metrics["metrics"]),
        "asked": about["asked"],
        "in_window": about["in_window"],
        "start_ms": about["start_ms"],
        "end_ms": about["end_ms"],
        "wall_s": about["wall_s"],
        "seconds": about["seconds"],
        "command": _command(run),
        "configuration": run.configuration,
        "git": about["git"],
        "versions": about["versions"],
        "machine": {**surroundings()["machine"], **about["machine"]},
        "data_sha256": run.data.sha256,
    }


def _command(run: Run) -> str:
    """Without folders: they say nothing about a run, and differ between machines."""
    words = [Path(word).name if "/" in word and Path(word).is_absolute() else word for word in run.command]
    return " ".join(["freshrecall", *words])


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return round(value, 5) if isinstance(value, float) else value


def _failure(run: Run) -> dict[str, Any] | None:
    file = run.folder / "failed.json"
    if run.done or not file.exists():
        return None
    error = json.loads(file.read_text(encoding="utf-8"))["error"]
    return {"data": run.data.name, "name": run.experiment.name, "seed": run.seed, "error": error}


def _comparisons(
    runs: Sequence[Run], experiments: Iterable[Experiment], before: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Of experiments that are done with all seeds; those of the same runs are not computed again."""
    known = {(one["name"], tuple(one["keys"])): one for one in before}
    by_name: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        by_name.setdefault((run.data.name, run.experiment.name), []).append(run)
    found = []
    opened: dict[str, Hits] = {}
    for pair in track(pairs_of(experiments), "comparing"):
        sides = [by_name.get((pair.data, side.experiment), []) for side in (pair.a, pair.b)]
        keys = tuple(run.key for side in sides for run in side)
        if (pair.name, keys) in known:
            found.append(known[pair.name, keys])
        elif all(side and all(run.done for run in side) for side in sides):
            for run in (run for side in sides for run in side):
                if run.key not in opened:
                    opened[run.key] = Hits.read(run.folder / "hits.parquet")
            a, b = ({run.seed: opened[run.key] for run in side} for side in sides)
            found.append(_entry(pair, keys, differences(pair, a, b)))
    return found


def _entry(pair: Pair, keys: tuple[str, ...], records: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": pair.name,
        "kind": pair.kind,
        "data": pair.data,
        "a": [pair.a.experiment, pair.a.strategy, pair.a.channel],
        "b": [pair.b.experiment, pair.b.strategy, pair.b.channel],
        "keys": list(keys),
        "records": records,
    }
