"""One backtest of an experiment: its folder, its command, its configuration."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.findings import configuration
from benchmarks.findings.data import DataSet
from benchmarks.findings.experiments import CODE, Experiment


@dataclass(frozen=True)
class Limits:
    """Smaller than declared, for a trial: its runs are not those of the findings."""

    sample: int | None = None
    end_ms: int | None = None

    def __bool__(self) -> bool:
        return self.sample is not None or self.end_ms is not None


@dataclass(frozen=True)
class Run:
    """An experiment with one training seed."""

    experiment: Experiment
    seed: int
    data: DataSet
    folder: Path
    key: str
    configuration: dict[str, Any]
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.data.name}/{self.experiment.name} seed {self.seed}"

    @property
    def done(self) -> bool:
        """The hits are written last."""
        return (self.folder / "hits.parquet").exists()

    @property
    def command(self) -> list[str]:
        """Arguments of `freshrecall`, with paths."""
        tables = {"events": self.data.events, "items": self.data.items, "users": self.data.users}
        paths = [word for name, path in tables.items() if path for word in (f"--{name}", str(path))]
        config, out = str(self.folder / "config.toml"), str(self.folder)
        return ["backtest", *paths, *self.arguments, "--config", config, "--out", out]


def run_of(experiment: Experiment, seed: int, data: DataSet, root: Path, limits: Limits) -> Run:
    """The run under root/<key>; key: hash of all that its figures depend on."""
    made = configuration.changed(
        configuration.base(data.name), experiment.changes, experiment.without, experiment.channels
    )
    sample = experiment.sample if limits.sample is None else limits.sample
    arguments = [
        "--positives", ",".join(data.positives), "--start-ms", str(data.start_ms),
        *(["--end-ms", str(limits.end_ms)] if limits.end_ms else []),
        "--strategies", ",".join(experiment.strategies), "--channels", ",".join(experiment.channels),
        "--scope", "all,new", "--sample", str(sample), "--seed", "7", "--interval", experiment.interval,
        "--day-timezone", data.day_timezone, "--training-seed", str(seed),
        *(["--rejects", experiment.rejects] if experiment.rejects else []),
    ]  # fmt: skip
    content = configuration.content(made, experiment.channels)
    named = json.dumps([CODE, data.sha256, arguments, content], sort_keys=True)
    key = hashlib.sha256(named.encode()).hexdigest()[:16]
    return Run(experiment, seed, data, root / key, key, made, tuple(arguments))


def runs_of(
    experiments: tuple[Experiment, ...], sets: dict[str, DataSet], root: Path, limits: Limits
) -> list[Run]:
    """Runs of the experiments whose data set is there. Equal ones of two experiments share a folder."""
    return [
        run_of(one, seed, sets[one.data], root, limits)
        for one in experiments
        if one.data in sets
        for seed in one.seeds
    ]
