"""What is compared: every row of docs/ranking.md, declared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TASKS = ("click", "long_view", "like")
_TASKS = tuple({"name": name, "kinds": [name]} for name in TASKS)
SCENES = ("tab1", "tab4", "tab0", "tab2", "tab6")
"""Scenes with a model of their own: those with 500 impressions and more on the test days."""
SEEDS = 3
BASELINE = "logistic"


@dataclass(frozen=True)
class Experiment:
    """One setting, trained with several seeds. changes: of RankConfig; scene: only its rows ("" = all)."""

    group: str
    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    scene: str = ""
    seeds: int = SEEDS
    against: str = BASELINE

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(task["name"] for task in self.changes.get("tasks", _TASKS))

    def configuration(self, seed: int) -> dict[str, Any]:
        """For RankConfig."""
        shared = {"tasks": _TASKS, "author": "author_id", "day_timezone": "Asia/Shanghai", "seed": seed}
        return {**shared, **self.changes}


def _only(task: str) -> dict[str, Any]:
    return {"tasks": [one for one in _TASKS if one["name"] == task]}


_SEQUENCE = [_TASKS[0], {**_TASKS[1], "after": "click"}, _TASKS[2]]
_BASE = "pepnet, warm rate 1"
_LOG_LOSS = {"warm_rate": 1.0, "pairwise": 0.0}
_ALONE: dict[str, dict[str, Any]] = {
    "deepfm": {
        **_LOG_LOSS, "kind": "deepfm", "linear_share": 0.0, "bins": 16, "epochs_first": 5, "lr_linear": 0.015,
    },
    "mmoe": {
        **_LOG_LOSS, "kind": "mmoe", "linear_share": 0.0, "wide": True, "bins": 16, "epochs_first": 4,
        "lr_linear": 0.015,
    },
    "pepnet": {**_LOG_LOSS, "kind": "pepnet", "linear_share": 0.0, "epochs_first": 2, "warm_rate": 0.3},
}  # fmt: skip
"""The networks without a logistic regression beside them, each as it was tuned for that."""
_THIRD: dict[str, dict[str, Any]] = {
    "logistic": {"kind": "logistic", "bins": 16, "warm_rate": 1.0},
    "deepfm": {**_ALONE["deepfm"], "linear_share": 0.5},
    "mmoe": {**_LOG_LOSS, "kind": "mmoe", "linear_share": 0.5, "epochs_first": 4},
    "pepnet": {**_ALONE["pepnet"], "linear_share": 0.5, "epochs_first": 4},
}
"""As they were before the pairs within a user: the third round."""
_LOGISTIC: dict[str, dict[str, Any]] = {
    "logistic, long steps": {"lr_linear": 0.05},
    "logistic, pairs": {"pairwise": 0.2},
    "logistic, pairs as much as labels": {"pairwise": 1.0},
}
"""What is gained within a user, or seems to be, by the logistic regression itself."""
_BETWEEN: dict[str, dict[str, Any]] = {
    "deepfm, short steps": {"kind": "deepfm", "lr_linear": 0.02, "pairwise": 0.3},
    "mmoe, half": {"kind": "mmoe", "linear_share": 0.5},
    "pepnet, half": {"kind": "pepnet", "linear_share": 0.5},
}
"""Between the third round and the fourth: more AUC and less GAUC, on the days before the test days."""
PEPNET = {**_ALONE["pepnet"], "warm_rate": 1.0}
"""Base of PEPNet's variants: as it was before its step sizes in later trainings were tuned."""
_PLAIN = {**_ALONE["mmoe"], "wide": False, "bins": 8, "lr_linear": 0.05}
EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment("rankers", "logistic", {"kind": "logistic"}),
    Experiment("rankers", "weighted_lr", {"kind": "weighted_lr", "watch": {}}),
    Experiment("rankers", "deepfm", {"kind": "deepfm"}),
    Experiment("rankers", "mmoe", {"kind": "mmoe"}),
    Experiment("rankers", "pepnet", {"kind": "pepnet"}),
    *(Experiment("third", f"{kind}, third round", changes) for kind, changes in _THIRD.items()),
    *(Experiment("logistic", name, {"kind": "logistic", **one}) for name, one in _LOGISTIC.items()),
    *(Experiment("between", name, changes) for name, changes in _BETWEEN.items()),
    *(Experiment("beside", f"{kind}, alone", changes, against=kind) for kind, changes in _ALONE.items()),
    Experiment("mmoe", "mmoe, not wide", _PLAIN, against="mmoe, alone"),
    *(
        Experiment("mmoe", f"{sharing}, not wide", {**_PLAIN, "sharing": sharing}, "", 2, "mmoe, not wide")
        for sharing in ("shared_bottom", "soft_sharing", "omoe")
    ),
    Experiment(
        "mmoe", "click -> long_view, not wide", {**_PLAIN, "tasks": _SEQUENCE}, "", 1, "mmoe, not wide"
    ),
    Experiment("pepnet", _BASE, PEPNET, against="pepnet, alone"),
    *(
        Experiment("pepnet", name, {**PEPNET, **changes}, "", 2, _BASE)
        for name, changes in {
            "without EPNet": {"epnet": False},
            "without PPNet": {"ppnet": False},
            "without both": {"epnet": False, "ppnet": False},
            "gradients through the gates": {"stop_gradient": False},
            "PPNet sees EPNet's gate": {"ppnet_gate": "epnet_gate"},
            "gamma 1": {"gamma": 1.0},
            "gamma 3": {"gamma": 3.0},
        }.items()
    ),
    *(
        Experiment("sizes", f"D {dim}", {**PEPNET, "dim": dim}, against=_BASE, seeds=1)
        for dim in (4, 16, 32, 64)
    ),
    *(
        Experiment("sizes", f"{len(hidden) + 1} layers", {**PEPNET, "hidden": hidden}, "", 1, _BASE)
        for hidden in ((32,), (64, 32, 16), (64, 64, 32, 16), (64, 64, 32, 32, 16))
    ),
    *(
        Experiment("presets", f"{kind}, published", {"kind": kind, "preset": "published"}, "", 1, kind)
        for kind in ("pepnet", "mmoe", "deepfm")
    ),
    *(
        Experiment("single", f"{task}, all scenes", {**PEPNET, **_only(task)}, against=_BASE, seeds=1)
        for task in TASKS
    ),
    *(Experiment("single", f"all tasks, {scene}", PEPNET, scene, against=_BASE, seeds=1) for scene in SCENES),
    *(
        Experiment("single", f"{task}, {scene}", {**PEPNET, **_only(task)}, scene, against=_BASE, seeds=1)
        for task in TASKS
        for scene in SCENES
    ),
)


def chosen(only: tuple[str, ...]) -> list[Experiment]:
    """Experiments whose group or name is among `only` (all for none); ValueError for what is neither."""
    known = {one.group for one in EXPERIMENTS} | {one.name for one in EXPERIMENTS}
    unknown = [name for name in only if name not in known]
    if unknown:
        raise ValueError(f"no experiment {', '.join(unknown)}; there are: {', '.join(sorted(known))}")
    return [one for one in EXPERIMENTS if not only or one.group in only or one.name in only]
