"""How far a better order of the same candidates could go: where the targets of a fused run stood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.findings.experiments import CLASSICAL, FUSED_RUN, SHOWN, STAGED
from benchmarks.findings.hits import CUT, Hits
from benchmarks.findings.runs import Run
from deploy.backtest.settings import FUSED, PRERANK
from deploy.backtest.targets import Targets

SCOPES = ("all", "new")
SINGLES = tuple(channel for channel in STAGED if channel not in (FUSED, PRERANK))
GROUPS = {"all": (0, np.inf), "nothing": (0, 0), "1 to 9": (1, 9), "10 and more": (10, np.inf)}
"""Users by how many items they had taken before."""
FEW = 100
"""Targets that are too few for a row."""


def reach(run: Run) -> list[dict[str, Any]]:
    """A record for every scope and group: n targets, their share, and recall of several lists; `any`: among
    the first CUT of at least one channel, which no list of CUT can hold all of.
    """
    hits, found = Hits.read(run.folder / "hits.parquet"), []
    for scope in SCOPES:
        places = {name: hits.of(SHOWN, name, scope) for name in STAGED}
        rows = places[FUSED]["row"]
        taken = earlier(run.data.targets, rows)
        top = {name: one[f"recall@{CUT}"] for name, one in places.items()}
        hundred = places[FUSED]["ndcg@100"] > 0
        for group, (least, most) in GROUPS.items():
            chosen = (taken >= least) & (taken <= most)
            if chosen.sum() < FEW:
                continue
            means = {name: float(one[chosen].mean()) for name, one in top.items()}
            best = max(SINGLES, key=lambda name: means[name])
            brought = np.logical_or.reduce([top[name][chosen] > 0 for name in SINGLES])
            found.append(
                {
                    "scope": scope,
                    "group": group,
                    "n": int(chosen.sum()),
                    "share": round(float(chosen.mean()), 5),
                    "single": best,
                    "best single": round(means[best], 5),
                    "classical": round(max(means[name] for name in CLASSICAL), 5),
                    FUSED: round(means[FUSED], 5),
                    PRERANK: round(means[PRERANK], 5),
                    "fused@100": round(float(hundred[chosen].mean()), 5),
                    "any": round(float(brought.mean()), 5),
                }
            )
    return found


def earlier(targets: Targets, rows: np.ndarray) -> np.ndarray:
    """int64[n]: how many targets the users of targets `rows` int64[n] had in earlier requests."""
    return np.diff(targets.before(rows).offsets)


def records(runs: Sequence[Run], before: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the first seed of every data set's fused run that is done; known ones are not made again, and stay
    where the run itself is elsewhere.
    """
    known = {one["key"]: one for one in before}
    found = []
    for run in runs:
        if run.experiment.name != FUSED_RUN or run.seed != 0:
            continue
        if run.key in known:
            found.append(known[run.key])
        elif run.done:
            found.append({"data": run.data.name, "key": run.key, "seed": run.seed, "records": reach(run)})
    return found
