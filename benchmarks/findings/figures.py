"""Looking figures up in the results, and how they are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.findings.hits import CUT

RECALL = f"recall@{CUT}"
UNKNOWN = "not measured yet"
Results = dict[str, list[dict[str, Any]]]


def runs(results: Results, data: str, name: str) -> list[dict[str, Any]]:
    """The runs of an experiment, by seed."""
    return [one for one in results["runs"] if one["data"] == data and one["name"] == name]


def figures(
    results: Results, data: str, name: str, strategy: str, channel: str, scope: str
) -> dict[str, Any] | None:
    """Of the run whose recall@50 is the median of the seeds (the lower middle one), or None."""
    there: list[dict[str, Any]] = [
        one["figures"][strategy][channel][scope]
        for one in runs(results, data, name)
        if scope in one["figures"].get(strategy, {}).get(channel, {})
    ]
    there.sort(key=lambda one: one[RECALL]["mean"])
    return there[(len(there) - 1) // 2] if there else None


def compared(
    results: Results,
    kind: str,
    data: str,
    a: Sequence[str],
    b: Sequence[str],
    scope: str,
    targets: str = "asked",
    metric: str = RECALL,
) -> dict[str, Any] | None:
    """The record of b - a; a, b: (experiment, strategy, channel)."""
    for one in results["comparisons"]:
        if (one["kind"], one["data"], one["a"], one["b"]) == (kind, data, list(a), list(b)):
            records: list[dict[str, Any]] = one["records"]
            for record in records:
                if (record["scope"], record["targets"], record["metric"]) == (scope, targets, metric):
                    return record
    return None


def mean(values: dict[str, Any] | None, metric: str = RECALL) -> str:
    """0.1934 [0.1861, 0.2007]."""
    if values is None:
        return UNKNOWN
    one = values[metric]
    return f"{one['mean']:.4f} [{one['low']:.4f}, {one['high']:.4f}]"


def change(record: dict[str, Any] | None) -> str:
    """+0.0021 [+0.0005, +0.0038], +1.1%."""
    if record is None:
        return UNKNOWN
    one = record["difference"]
    text = f"{one['mean']:+.4f} [{one['low']:+.4f}, {one['high']:+.4f}]"
    return f"{text}, {record['relative']['mean']:+.1%}" if "relative" in record else text


def relative(record: dict[str, Any] | None) -> str:
    """+1.1% [+0.3%, +1.9%]."""
    if record is None or "relative" not in record:
        return UNKNOWN
    one = record["relative"]
    return f"{one['mean']:+.1%} [{one['low']:+.1%}, {one['high']:+.1%}]"


def verdict(record: dict[str, Any] | None) -> str:
    """What the 95% interval of a claimed gain says."""
    if record is None:
        return UNKNOWN
    if record["difference"]["low"] > 0:
        return "confirmed"
    return "the contrary" if record["difference"]["high"] < 0 else "undecided"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
