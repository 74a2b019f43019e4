"""One run: train on the first days, then day by day as in production: score the day, learn it, go on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.findings.configuration import base
from benchmarks.rankers.experiments import Experiment
from benchmarks.rankers.joined_events import Days
from models.catalogue_columns import CatalogueColumns
from models.feature_config import FeatureConfig
from models.ranking.labels import task_labels, watch_seconds
from models.ranking.rank_config import RankConfig, WatchConfig
from models.ranking.rank_learner import RankLearner

FIRST_DAYS = 6
TUNED_DAY = 6
TEST_DAYS = (7, 8)
VERSION = 1
"""Of this procedure: kept runs of another one are made again."""


def features() -> tuple[FeatureConfig, ...]:
    """Those of the findings on kuairand."""
    return tuple(FeatureConfig.model_validate(one) for one in base("kuairand")["features"])


@dataclass(frozen=True)
class Run:
    """An experiment with one seed, kept under `root`."""

    experiment: Experiment
    seed: int
    root: Path
    data_sha256: str

    @property
    def config(self) -> RankConfig:
        return RankConfig.model_validate(self.experiment.configuration(self.seed))

    @property
    def key(self) -> str:
        """Of all that the scores depend on, in the form of the first runs: settings that came later, and are
        off or have nothing to do here, are left out.
        """
        config = self.config.model_dump(mode="json", exclude={"expire_after_days"})  # a run expires nothing
        if not config["pairwise"]:
            del config["pairwise"]
        told = {
            "version": VERSION,
            "config": config,
            "scene": self.experiment.scene,
            "data": self.data_sha256,
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def file(self) -> Path:
        return self.root / f"{self.key}.npz"

    @property
    def done(self) -> bool:
        return self.file.exists()


def tested_rows(days: Days) -> pa.Table:
    """The impressions of the test days, in order."""
    return pa.concat_tables([days.joined[day] for day in TEST_DAYS])


def _of_scene(table: pa.Table, scene: str) -> pa.Table:
    return table.filter(pa.compute.equal(table["scene"], scene)) if scene else table


def execute(run: Run, days: Days) -> None:
    """Train, score the test days, keep scores, losses and seconds."""
    scene, catalogue = run.experiment.scene, days.catalogue
    learner = RankLearner.fresh(run.config, features())
    began_s = time.perf_counter()
    losses = _learn(learner, pa.concat_tables(days.joined[:FIRST_DAYS]), scene, catalogue)
    first_s = time.perf_counter() - began_s
    scored: list[Mapping[str, np.ndarray]] = []
    for day in range(FIRST_DAYS, TEST_DAYS[-1] + 1):
        if day in TEST_DAYS:
            scored.append(learner.predict(_of_scene(days.joined[day], scene), catalogue))
        if day != TEST_DAYS[-1]:
            _learn(learner, days.joined[day], scene, catalogue)
    arrays = {name: np.concatenate([one[name] for one in scored]) for name in scored[0]}
    about = {"first_s": round(first_s, 1), "wall_s": round(time.perf_counter() - began_s, 1), "loss": losses}
    run.root.mkdir(parents=True, exist_ok=True)
    aside = run.file.with_suffix(".tmp")
    with aside.open("wb") as file:
        np.savez_compressed(file, about=np.array(json.dumps(about)), **arrays)
    aside.rename(run.file)


def _learn(
    learner: RankLearner, table: pa.Table, scene: str, catalogue: CatalogueColumns
) -> dict[str, float]:
    return learner.train(learner.prepare(_of_scene(table, scene), catalogue))


def read(run: Run) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(scores by name, what is said about the run)."""
    with np.load(run.file, allow_pickle=False) as kept:
        about: dict[str, Any] = json.loads(str(kept["about"]))
        return {name: kept[name] for name in kept.files if name != "about"}, about


def watched(table: pa.Table) -> np.ndarray:
    """Seconds of clicked impressions, 0 for others: what a watch head predicts."""
    config = RankConfig(kind="weighted_lr", watch=WatchConfig())
    actions = table["actions"].combine_chunks()
    return watch_seconds(WatchConfig(), actions) * task_labels(config, actions)[:, 0]
