"""Write the generated parts of docs/ranking.md from benchmarks/results/rankers.json.

`python -m benchmarks.rankers.page [--check]`. A part stands between `<!-- rankers: NAME -->` and
`<!-- end of rankers -->`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import pages
from benchmarks.findings.figures import table
from benchmarks.rankers.experiments import BASELINE, EXPERIMENTS, SCENES, TASKS
from benchmarks.rankers.results import FILE

PAGE = Path(__file__).parents[2] / "docs" / "ranking.md"
PART = re.compile(r"(<!-- rankers: ([^>]*?) -->\n).*?(<!-- end of rankers -->)", re.DOTALL)
JOINT = "pepnet, warm rate 1"
UNKNOWN = "not yet measured"
METRICS = {"auc": "AUC", "gauc": "GAUC", "gauc_day": "GAUC within a day"}
Results = dict[str, Any]


def _entries(data: Results, group: str) -> list[Results]:
    return [one for one in data["experiments"] if one["group"] == group]


def _difference(
    data: Results, name: str, against: str, task: str, metric: str, scene: str = "all"
) -> Results | None:
    wanted = (name, against, task, metric, scene)
    keys = ("name", "against", "task", "metric", "scene")
    return next((one for one in data["differences"] if tuple(one[key] for key in keys) == wanted), None)


def _shown(one: Results | None) -> str:
    return f"{one['value']:+.4f} [{one['low']:+.4f}, {one['high']:+.4f}]" if one else ""


def setup(data: Results) -> str:
    """On what, with what."""
    about = data["about"]
    shown = about["impressions"]
    positives = ", ".join(f"{n:,} {task}" for task, n in about["positives"].items())
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    seconds = sum(one["wall_s"] * one["seeds"] for one in data["experiments"])
    earlier = sorted({one["git"][:12] for one in data["experiments"]} - {about["git"][:12]})
    kept = sum(one["git"][:12] in earlier for one in data["experiments"])
    told = f" ({kept} rows kept from {', '.join(earlier)})" if kept else ""
    return (
        f"{shown['before']:,} impressions before the test days, {shown['test']:,} on them "
        f"({about['test_users']:,} users; {positives}). "
        f"{sum(one['seeds'] for one in data['experiments'])} runs, {seconds / 3600:.1f} core hours, "
        f"on {about['machine']['cores']} cores ({about['machine']['cpu']}); {versions}; revision "
        f"{about['git'][:12]}{told}. "
        f"`{about['command']}`"
    )


def rankers(data: Results) -> str:
    """Every metric of every ranker."""
    return _figures(data, "rankers")


def logistic(data: Results) -> str:
    """What the logistic regression gains by other settings, and rankers of and near the third round."""
    groups = ("logistic", "third", "between")
    entries = [one for group in groups for one in _entries(data, group)]
    differing = [_over_baseline(data, entries, metric) for metric in METRICS]
    return "\n\n".join([_figures(data, *groups), *differing])


def _figures(data: Results, *groups: str) -> str:
    """Every metric of the experiments of groups."""
    rows = []
    for one in (one for group in groups for one in _entries(data, group)):
        figures = one["figures"]["all"]
        cells = [" / ".join(f"{figures[task][metric]:.4f}" for metric in METRICS) for task in TASKS]
        rows.append((one["name"], *cells))
    head = ("ranker", *(f"{task}: {' / '.join(METRICS.values())}" for task in TASKS))
    return table(head, rows) if rows else UNKNOWN.capitalize() + "."


def differences(data: Results) -> str:
    """Against the logistic regression, with intervals."""
    entries = [one for one in _entries(data, "rankers") if one["name"] != BASELINE]
    return "\n\n".join(_over_baseline(data, entries, metric) for metric in METRICS)


def _over_baseline(data: Results, entries: list[Results], metric: str) -> str:
    """The entries' differences to the logistic regression, with intervals."""
    rows = [
        (one["name"], *(_shown(_difference(data, one["name"], BASELINE, t, metric)) for t in TASKS))
        for one in entries
    ]
    return table((f"{METRICS[metric]} over {BASELINE}", *TASKS), rows)


def goals(data: Results) -> str:
    """Whether what is set out is reached: beyond the interval better on clicks and long views, no worse on
    likes.
    """
    rows = []
    for name in ("deepfm", "mmoe", "pepnet"):
        for task in TASKS:
            cells = []
            for metric in METRICS:
                one = _difference(data, name, BASELINE, task, metric)
                cells += [_shown(one) or UNKNOWN, _verdict(one, task)]
            rows.append((name, task, *cells))
    head = [cell for shown in METRICS.values() for cell in (f"{shown} over {BASELINE}", "")]
    return table(("ranker", "task", *head), rows)


def _verdict(one: Results | None, task: str) -> str:
    if one is None:
        return ""
    if task == "like":
        return "reached" if one["high"] >= 0 else "not reached"
    if one["low"] > 0:
        return "reached"
    return "above, not beyond the interval" if one["value"] > 0 else "not reached"


def scenes(data: Results) -> str:
    """AUC of click and long_view by scene."""
    rows = []
    for one in _entries(data, "rankers"):
        cells = [
            " / ".join(f"{one['figures'][scene][task]['auc']:.4f}" for task in ("click", "long_view"))
            for scene in SCENES
        ]
        rows.append((one["name"], *cells))
    shown = data["about"]["impressions"]["test_by_scene"]
    return table(("click / long_view", *(f"{scene} ({shown[scene]:,})" for scene in SCENES)), rows)


def variants(data: Results, group: str) -> str:
    """A group's experiments, each against its base."""
    rows = []
    for one in _entries(data, group):
        against = next(base.against for base in EXPERIMENTS if base.name == one["name"])
        figures = one["figures"]["all"]
        rows += [
            (
                one["name"],
                against,
                *(f"{figures[t]['auc']:.4f}" for t in TASKS),
                *(_shown(_difference(data, one["name"], against, t, "auc")) for t in TASKS),
            )
        ]
    head = ("variant", "base", *(f"AUC {t}" for t in TASKS), *(f"over base, {t}" for t in TASKS))
    return table(head, rows) if rows else UNKNOWN.capitalize() + "."


def beside(data: Results) -> str:
    """What the networks gain, or lose, without the logistic regression beside them."""
    parts = []
    for metric in METRICS:
        rows = []
        for one in _entries(data, "beside"):
            against = next(base.against for base in EXPERIMENTS if base.name == one["name"])
            figures = one["figures"]["all"]
            shown = [_shown(_difference(data, one["name"], against, task, metric)) for task in TASKS]
            rows.append((one["name"], *(f"{figures[task][metric]:.4f}" for task in TASKS), *shown))
        name = METRICS[metric]
        head = (*(f"{name} {task}" for task in TASKS), *(f"over both, {task}" for task in TASKS))
        parts.append(table(("network", *head), rows))
    return "\n\n".join(parts)


def single(data: Results) -> str:
    """Models of one scene or one task beside the one model of all: a seesaw is a positive difference."""
    rows = []
    for one in _entries(data, "single"):
        scene = one["scene"] or "all"
        figures = one["figures"][scene]
        for task in figures:
            found = _difference(data, one["name"], JOINT, task, "auc", scene)
            verdict = ""
            if found:
                above, below = found["low"] > 0, found["high"] < 0
                verdict = "single is better" if above else "joint is better" if below else "undecided"
            rows.append((one["name"], task, f"{figures[task]['auc']:.4f}", _shown(found), verdict))
    head = ("single model", "task", "its AUC", "over the joint PEPNet", "")
    return table(head, rows) if rows else UNKNOWN.capitalize() + "."


def watch(data: Results) -> str:
    """Errors of predicted watch time."""
    rows = [
        (one["name"], f"{one['mae_s']:.2f}", f"{one['rmse_s']:.2f}", f"{one['mean_s']:.2f}")
        for one in data["watch"]
    ]
    truth = f"{data['watch'][0]['true_mean_s']:.2f}" if data["watch"] else UNKNOWN
    head = ("prediction", "MAE, s", "RMSE, s", f"mean, s (true: {truth})")
    return table(head, rows)


def serving(data: Results) -> str:
    """Milliseconds of a request."""
    keys = ("keys_ms", "keys_ms_cpu", "kept_items_ms", "kept_items_ms_cpu")
    rows = [(one["name"], *(f"{one[key]:.2f}" for key in keys)) for one in data["serving"]]
    n = data["serving"][0]["candidates"] if data["serving"] else 0
    head = ("from keys and attributes, ms", "of its core", "items kept, ms", "of its core")
    return table((f"{n} candidates of one user", *head), rows)


PARTS: dict[str, Callable[..., str]] = {
    "setup": setup, "rankers": rankers, "differences": differences, "goals": goals, "scenes": scenes,
    "logistic": logistic, "beside": beside,
    "variants": variants, "single": single, "watch": watch, "serving": serving,
}  # fmt: skip


def filled(text: str, data: Results) -> str:
    """The page with its parts written anew. Raises ValueError for a part of an unknown name."""
    return pages.filled(text, PART, PARTS, data)


def main(check: bool) -> int:
    """Write the page, or say whether it is current."""
    text = PAGE.read_text(encoding="utf-8")
    wanted = filled(text, json.loads(FILE.read_text(encoding="utf-8")))
    if text == wanted:
        return 0
    if check:
        remedy = "run python -m benchmarks.rankers.page"
        print(f"{PAGE.name}: differs from {FILE.name}; {remedy}", file=sys.stderr)
        return 1
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main("--check" in sys.argv))
