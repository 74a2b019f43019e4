"""The demo's result: a table, report.json and a plot."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from deploy.demo.explained import printed
from deploy.demo.freshness import percentile
from deploy.progressive import PAIRS, STRATEGIES, Interval, Scored


@dataclass
class Measured:
    """Everything the demo measured."""

    events: int
    live_events: int
    live_s: float
    deltas: int
    bundles: int
    requests: int
    failed: list[str]
    audited: int
    mixed: list[str]
    latency_ms: list[float]
    profile_ms: list[float]
    profile_changed: int
    profile_lost: int
    popular_ms: list[float]
    popular_lost: int
    new_item_ms: list[float]
    new_item_lost: int
    delta_ms: list[float]
    recall: dict[str, Interval]
    targets: int
    stages_s: dict[str, float] = field(default_factory=dict)
    wall_s: float = 0.0
    about: dict[str, Any] = field(default_factory=dict)
    explained: dict[str, Any] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        """The flat figures of report.json."""
        figures = {
            "events": self.events,
            "events_per_s": self.live_events / self.live_s if self.live_s else math.nan,
            "live_events": self.live_events,
            "deltas": self.deltas,
            "bundles": self.bundles,
            "requests": self.requests,
            "failed": len(self.failed),
            "audited": self.audited,
            "mixed": len(self.mixed),
            "request_p50_ms": percentile(self.latency_ms, 50),
            "request_p99_ms": percentile(self.latency_ms, 99),
            "visible_profile_p50_ms": percentile(self.profile_ms, 50),
            "visible_profile_p99_ms": percentile(self.profile_ms, 99),
            "visible_profile_n": len(self.profile_ms),
            "visible_profile_changed_answers": self.profile_changed,
            "visible_profile_lost": self.profile_lost,
            "visible_popular_p50_ms": percentile(self.popular_ms, 50),
            "visible_popular_p99_ms": percentile(self.popular_ms, 99),
            "visible_popular_n": len(self.popular_ms),
            "visible_popular_lost": self.popular_lost,
            "visible_new_item_p50_ms": percentile(self.new_item_ms, 50),
            "visible_new_item_p99_ms": percentile(self.new_item_ms, 99),
            "visible_new_item_n": len(self.new_item_ms),
            "visible_new_item_lost": self.new_item_lost,
            "visible_delta_p50_ms": percentile(self.delta_ms, 50),
            "visible_delta_p99_ms": percentile(self.delta_ms, 99),
            "visible_delta_n": len(self.delta_ms),
            **{f"recall50_{name}": self.recall[name].mean for name in STRATEGIES if name in self.recall},
            "targets": self.targets,
            "recall50_intervals": {name: asdict(interval) for name, interval in self.recall.items()},
            "explained": self.explained,
            "first_failures": self.failed[:5],
            "first_mixed": self.mixed[:5],
            "stages_s": {name: round(seconds, 2) for name, seconds in self.stages_s.items()},
            "wall_s": self.wall_s,
            **self.about,
        }
        return {key: _finite(value) for key, value in figures.items()}


def _finite(value: Any) -> Any:
    """NaN is not JSON: a figure that could not be measured is null."""
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 4)
    return value


def write_report(file: Path, measured: Measured) -> None:
    """Write report.json."""
    file.write_text(json.dumps(measured.figures(), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def print_report(console: Console, measured: Measured) -> None:
    """Print the closing table."""
    figures = measured.figures()
    table = Table("figure", "value", title="freshrecall demo: completejourney through the loop")
    rows = [
        ("events through Kafka", f"{measured.events:,}"),
        ("events/s while live", f"{figures['events_per_s']:,.0f}"),
        ("deltas served", f"{measured.deltas}"),
        ("bundles served", f"{measured.bundles}"),
        ("requests", f"{measured.requests:,}"),
        ("request latency", _spread(measured.latency_ms)),
        ("failed requests", f"{len(measured.failed)}"),
        ("mixed-version answers", f"{len(measured.mixed)} of {measured.audited} recomputed from their files"),
        ("event → profile → answer", _spread(measured.profile_ms)),
        ("event → popularity channel", _spread(measured.popular_ms)),
        ("new item → retrieved", _spread(measured.new_item_ms)),
        ("end of interval → delta served", _spread(measured.delta_ms)),
    ]  # fmt: skip
    recall = measured.recall
    rows += [(f"recall@50, next hour: {name}", _share(recall[name])) for name in STRATEGIES]
    rows += [(f"{b} − {a}", _share(recall[f"{b}-{a}"], "+")) for a, b in PAIRS]
    rows.append(("wall time", f"{measured.wall_s:.0f} s"))
    for row in rows:
        table.add_row(*row)
    console.print(table)
    if measured.explained:
        console.print(printed(measured.explained))
    difference = measured.recall.get("hourly-daily")
    if difference is not None and difference.low <= 0:
        side = "not above" if difference.mean <= 0 else "above, but not beyond chance,"
        console.print(
            f"On these {measured.targets:,} targets hourly is {side} daily "
            f"({difference.mean:+.4f}, 95% interval {difference.low:+.4f} to {difference.high:+.4f})."
        )


def plot(file: Path, scored: list[Scored], measured: Measured) -> None:
    """Recall per strategy over event time, and the freshness distributions."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.2))
    hours = np.array([(one.start_ms - scored[0].start_ms) / 3_600_000 for one in scored])
    targets = np.cumsum([len(one.users) for one in scored])
    so_far = {name: np.cumsum([one.hits[name].sum() for one in scored]) / targets for name in STRATEGIES}
    left.plot(hours, so_far["frozen"], color="grey")
    left.set(
        xlabel="hours of event time", ylabel="recall@50 so far", title="first bundle, next hour's purchases"
    )
    middle.axhline(0.0, color="grey", label="frozen")
    for name in ("daily", "hourly"):
        middle.plot(hours, so_far[name] - so_far["frozen"], label=name)
    middle.set(xlabel="hours of event time", ylabel="difference so far", title="against the first bundle")
    middle.legend()
    for values, label in (
        (measured.profile_ms, "event → profile → answer"),
        (measured.popular_ms, "event → popularity channel"),
        (measured.new_item_ms, "new item → retrieved"),
        (measured.delta_ms, "interval end → delta served"),
    ):
        if len(values):
            ordered = np.sort(values)
            right.plot(ordered, np.arange(1, len(ordered) + 1) / len(ordered), label=label)
    right.set(xscale="log", xlabel="wall time, ms", ylabel="share of events", title="freshness")
    right.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _spread(values: list[float]) -> str:
    if not values:
        return "not measured"
    return f"p50 {percentile(values, 50):.3g} ms, p99 {percentile(values, 99):.3g} ms (n = {len(values):,})"


def _share(interval: Interval, sign: str = "") -> str:
    return f"{interval.mean:{sign}.4f}  [{interval.low:{sign}.4f}, {interval.high:{sign}.4f}]"
