"""benchmarks/results/closed_loop.json: figures of every arm by day, and differences paired by user."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.closed_loop.arms import ARMS, WARM_EXPLORE, Arm, world_of
from benchmarks.closed_loop.by_user import drawn, rates
from benchmarks.closed_loop.runs import Run, read
from benchmarks.measure import surroundings

FILE = Path(__file__).parents[1] / "results" / "closed_loop.json"
METRICS = ("clicks", "expected", "watch_s")
"""Per impression. expected: clicks before luck."""
BASELINE = "popular"
_DAY = ("clicks_per_impression", "expected_clicks_per_impression", "new_items_share", "relative_regret")
Kept = dict[str, np.ndarray]


def collect(runs: Sequence[Run], command: str) -> dict[str, Any]:
    """Everything that is done, of arms in their order."""
    done = [run for run in runs if run.done]
    if not done:
        raise ValueError("closed loop: expected a run that is done, got none")
    kept = {(run.arm.name, run.seed): read(run) for run in done}
    seeds = sorted({run.seed for run in done})
    first = round(done[0].run.warm_days)
    draws = {seed: drawn(world_of(seed).users, seed) for seed in seeds}
    sides = {key: _rates(held, first, draws[key[1]]) for key, (held, _) in kept.items()}
    arms = [arm for arm in ARMS if any(arm.name == name for name, _ in kept)]
    return {
        "about": {
            "simulation": True,
            "note": "SIMULATED: these figures say something about a made-up world, nothing about real users.",
            "command": command,
            **surroundings(),
            "worlds": [world_of(seed).model_dump() for seed in seeds],
            "run": done[0].run.model_dump(),
            "warm_explore": WARM_EXPLORE,
            "wall_s": round(sum(about["wall_s"] for _, about in kept.values())),
        },
        "arms": [_entry(arm, seeds, kept, sides) for arm in arms],
        "differences": [one for arm in arms for one in _differences(arm, seeds, sides)],
        "configurations": [
            {"arm": run.arm.name, "config": run.told["config"]} for run in done
            if run.seed == seeds[0] and run.told["config"]
        ],
    }  # fmt: skip


def _rates(kept: Kept, first: int, draws: np.ndarray) -> Kept:
    """float64[1 + ROUNDS] of every metric, over the days after the warm-up."""
    total = {name: values[first:].sum(axis=0) for name, values in kept.items()}
    return {name: rates(total[name], total["impressions"], draws) for name in METRICS}


def _entry(arm: Arm, seeds: Sequence[int], kept: dict[Any, Any], sides: dict[Any, Kept]) -> dict[str, Any]:
    there = [seed for seed in seeds if (arm.name, seed) in kept]
    return {
        "name": arm.name,
        "meaning": arm.meaning,
        "seeds": there,
        "figures": {
            name: interval(np.mean([sides[arm.name, seed][name] for seed in there], axis=0))
            for name in METRICS
        },
        "by_seed": [_days(seed, kept[arm.name, seed][1]) for seed in there],
    }


def _days(seed: int, about: dict[str, Any]) -> dict[str, Any]:
    days = about["figures"]["by_day"]
    return {"seed": seed, "wall_s": about["wall_s"], **{name: [day[name] for day in days] for name in _DAY}}


def _differences(arm: Arm, seeds: Sequence[int], sides: dict[Any, Kept]) -> list[dict[str, Any]]:
    """Against the arm's own base and against BASELINE: of each seed, and the mean of both arms' seeds."""
    found = []
    for against in dict.fromkeys((arm.against, BASELINE)):
        both = [seed for seed in seeds if {(arm.name, seed), (against, seed)} <= set(sides)]
        if not both or not arm.against or against == arm.name:
            continue
        for metric in METRICS:
            apart = [sides[arm.name, seed][metric] - sides[against, seed][metric] for seed in both]
            found.append(
                {
                    "name": arm.name,
                    "against": against,
                    "metric": metric,
                    "seeds": both,
                    **interval(np.mean(apart, axis=0)),
                    "by_seed": [interval(one) for one in apart],
                }
            )
    return found


def interval(values: np.ndarray) -> dict[str, float]:
    """Value and 95% interval of [1 + ROUNDS] values, the first of which is the value itself."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return {"value": round(float(values[0]), 5), "low": round(float(low), 5), "high": round(float(high), 5)}


def measured(file: Path = FILE) -> dict[str, Any]:
    """What was measured so far; no arms where there is no file."""
    if not file.exists():
        return {"about": {"simulation": True}, "arms": [], "differences": [], "configurations": []}
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def write(results: dict[str, Any], file: Path = FILE) -> None:
    """One line for each entry, so that a diff shows which ones changed."""
    parts = []
    for name, value in results.items():
        lines = [json.dumps(one) for one in value] if isinstance(value, list) else None
        text = json.dumps(value) if lines is None else "[" + ",".join("\n" + one for one in lines) + "\n]"
        parts.append(f"{json.dumps(name)}: {text}")
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(".tmp")
    aside.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
    aside.rename(file)
