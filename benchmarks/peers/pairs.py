"""A peer and the model here that answers it, on the same targets: means, and their paired difference."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.findings.experiments import MODELS, SHOWN
from benchmarks.findings.hits import CUT, Hits
from benchmarks.findings.runs import Run
from benchmarks.peers.metrics import FloatArray
from benchmarks.peers.positives import Int64Array
from deploy.backtest.metrics import Bootstrap

PAIRS = {
    "rechub_youtube_dnn": "youtube_dnn",
    "rechub_dssm": "dssm",
    "recbole_sasrec": "sequence",
    "recbole_bpr": "two_tower",
}
"""By peer, the model of the same idea; BPR's factors of users and items are two towers without inputs."""
SCOPES = ("all", "new")
METRIC = f"recall@{CUT}"
SEED = 7

Answers = dict[str, tuple[Int64Array, FloatArray]]
"""By scope: rows int64[n] of the targets, ascending, and recall of each float64[n]."""


def peer_answers(predictions: Path) -> dict[str, Answers]:
    """By peer, of a file that `python -m benchmarks.peers --predictions` has written."""
    table = pq.read_table(predictions, columns=["row", "peer", "scope", "rank"])
    found: dict[str, Answers] = {}
    for name in pc.unique(table["peer"]).to_pylist():
        for scope in SCOPES:
            wanted = pc.and_(pc.equal(table["peer"], name), pc.equal(table["scope"], scope))
            part = table.filter(wanted).sort_by("row")
            hit = (part["rank"].to_numpy() < CUT).astype(np.float64)
            found.setdefault(name, {})[scope] = (part["row"].to_numpy(), hit)
    return found


class Model:
    """A learned channel of the findings: its runs that are done, one for each training seed."""

    def __init__(self, name: str, runs: Sequence[Run]) -> None:
        self.name = name
        self.runs = runs
        self._hits = [Hits.read(run.folder / "hits.parquet") for run in runs]

    def at(self, rows: Int64Array, scope: str) -> tuple[Int64Array, FloatArray]:
        """User code and recall, mean over the seeds, at each of these targets.

        Raises ValueError where one of them was not asked.
        """
        users, recall = np.zeros(0, np.int64), []
        for run, hits in zip(self.runs, self._hits, strict=True):
            own = hits.of(SHOWN, self.name, scope)
            place = np.minimum(np.searchsorted(own["row"], rows), len(own["row"]) - 1)
            lost = int((own["row"][place] != rows).sum())
            if lost:
                raise ValueError(
                    f"{run.folder}/hits.parquet, {self.name}, scope {scope}: expected all {len(rows)} "
                    f"targets of the peers, {lost} are not there; were both made from the same events?"
                )
            users = own["user"][place]
            recall.append(own[METRIC][place])
        return users, np.mean(recall, axis=0)

    def about(self) -> dict[str, Any]:
        """What its figures depend on, as far as it is not in the entries of findings.json with these keys."""
        made = [json.loads((run.folder / "metrics.json").read_text())["about"] for run in self.runs]
        return {
            "keys": [run.key for run in self.runs],
            "seeds": [run.seed for run in self.runs],
            "git": sorted({one["git"] for one in made}),
        }


def models_of(runs: Sequence[Run]) -> dict[str, Model]:
    """The learned channels of one data set of which at least one seed is done."""
    found = {}
    for name in MODELS:
        done = [run for run in runs if run.experiment.name == f"models/{name}" and run.done]
        if done:
            found[name] = Model(name, done)
    return found


def compared(data: str, peers: Mapping[str, Answers], models: Mapping[str, Model]) -> list[dict[str, Any]]:
    """Records of every pair of which both are there, and of the best model against the best peer.

    Best: by the mean of both scopes.
    """
    asked = [("pair", peer, model) for peer, model in PAIRS.items() if peer in peers and model in models]
    if peers and models:
        rows = {scope: next(iter(peers.values()))[scope][0] for scope in SCOPES}
        best_peer = max(peers, key=lambda name: sum(peers[name][scope][1].mean() for scope in SCOPES))
        best_model = max(
            models, key=lambda name: sum(models[name].at(rows[scope], scope)[1].mean() for scope in SCOPES)
        )
        asked.append(("best", best_peer, best_model))
    return [
        {
            "name": f"{model} - {peer}",
            "data": data,
            "kind": kind,
            "peer": peer,
            "model": model,
            "strategy": SHOWN,
            "scope": scope,
            "metric": METRIC,
            **_difference(peers[peer][scope], models[model], scope),
            **models[model].about(),
        }
        for kind, peer, model in asked
        for scope in SCOPES
    ]


def _difference(answers: tuple[Int64Array, FloatArray], model: Model, scope: str) -> dict[str, Any]:
    rows, theirs = answers
    user, ours = model.at(rows, scope)
    drawn = Bootstrap(user, SEED).means(np.column_stack([theirs, ours]))
    return {
        "n": len(rows),
        "peer_value": round(float(theirs.mean()), 5),
        "value": round(float(ours.mean()), 5),
        "interval": _interval(drawn[:, 1]),
        "difference": round(float((ours - theirs).mean()), 5),
        "difference_interval": _interval(drawn[:, 1] - drawn[:, 0]),
    }


def _interval(drawn: FloatArray) -> list[float]:
    return [round(float(one), 5) for one in np.quantile(drawn, [0.025, 0.975])]
