"""report.html: one file without anything outside it; recall over time, tables with intervals."""

from __future__ import annotations

import html
import io
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from deploy.backtest.metrics import NAMES, Scoreboard
from deploy.backtest.targets import Targets

_BINS = 40
_SHOWN = ("recall@50", "recall@10", "recall@100", "ndcg@100", "popularity_skew")
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child, td.name { text-align: left; }
small { color: #777; } svg { max-width: 100%; height: auto; } tr.clear td { font-weight: 600; }
"""


def write_report(file: Path, board: Scoreboard, targets: Targets, figures: dict[str, Any]) -> None:
    """Write the page from the answers and the content of metrics.json."""
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>freshrecall backtest</title>",
        f"<style>{_STYLE}</style><h1>Backtest</h1>",
        f"<p>{_intro(figures['about'])}</p>",
    ]
    for scope in dict.fromkeys(scope for _, _, scope in board.contestants):
        parts.append(f"<h2>Scope {html.escape(scope)}</h2>")
        parts.append(_curves(board, targets, scope))
        parts.extend(_metric_table(figures["metrics"], scope))
        parts.extend(_difference_table(figures["differences"], scope))
    parts.append("</html>\n")
    file.write_text("\n".join(parts), encoding="utf-8")


def _intro(about: dict[str, Any]) -> str:
    begin, end = (
        datetime.fromtimestamp(about[name] / 1000, UTC).strftime("%Y-%m-%d %H:%M")
        for name in ("start_ms", "end_ms")
    )
    return (
        f"{about['asked']:,} of {about['in_window']:,} targets "
        f"({html.escape(', '.join(about['positives']))}) "
        f"between {begin} and {end} UTC, updates every {about['interval_ms'] / 60_000:g} min, days of "
        f"{html.escape(about['day_timezone'])}. Every target was asked before anything learned from it. "
        "Intervals: 95%, bootstrap over users."
    )


def _curves(board: Scoreboard, targets: Targets, scope: str) -> str:
    """Recall@50 by stretch of time, one panel per channel, one line per strategy, as inline SVG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    keys = [key for key in board.contestants if key[2] == scope]
    channels = list(dict.fromkeys(channel for _, channel, _ in keys))
    figure, panels = plt.subplots(
        1, len(channels), figsize=(5.2 * len(channels), 3.8), sharey=True, squeeze=False
    )
    for panel, channel in zip(panels[0], channels, strict=True):
        for strategy, name, _ in (key for key in keys if key[1] == channel):
            hours, recall = _over_time(board, targets, (strategy, name, scope))
            panel.plot(hours, recall, label=strategy, linewidth=1.3)
        panel.set(title=channel, xlabel="hours since the start")
    panels[0][0].set_ylabel("recall@50")
    panels[0][-1].legend(fontsize="small")
    figure.tight_layout()
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def _over_time(
    board: Scoreboard, targets: Targets, key: tuple[str, str, str]
) -> tuple[np.ndarray, np.ndarray]:
    """Middle of each stretch in hours since the first target, and the recall@50 within it."""
    ts_ms = targets.ts_ms[board.rows(key)]
    hits = board.values(key)[:, NAMES.index("recall@50")]
    if not len(ts_ms):
        return np.empty(0), np.empty(0)
    edges = np.linspace(ts_ms[0], ts_ms[-1] + 1, min(_BINS, max(1, len(ts_ms) // 20)) + 1)
    place = np.searchsorted(edges, ts_ms, side="right") - 1
    count = np.bincount(place, minlength=len(edges) - 1)
    mean = np.bincount(place, weights=hits, minlength=len(edges) - 1) / np.maximum(1, count)
    hours = ((edges[1:] + edges[:-1]) / 2 - ts_ms[0]) / 3_600_000
    return hours[count > 0], mean[count > 0]


def _metric_table(metrics: dict[str, Any], scope: str) -> Iterator[str]:
    heads = "".join(f"<th>{name}</th>" for name in _SHOWN)
    yield f"<table><tr><th>channel</th><th>strategy</th><th>n</th>{heads}<th>coverage</th></tr>"
    rows = [
        (channel, strategy, scopes[scope])
        for strategy, channels in metrics.items()
        for channel, scopes in channels.items()
        if scope in scopes
    ]
    for channel, strategy, figures in sorted(rows, key=lambda row: row[0]):
        cells = "".join(f"<td>{_spread(figures[name])}</td>" for name in _SHOWN)
        coverage = figures["coverage"]
        yield (
            f"<tr><td>{html.escape(channel)}</td><td class='name'>{html.escape(strategy)}</td>"
            f"<td>{figures['n']:,}</td>{cells}<td>{'' if coverage is None else f'{coverage:.3f}'}</td></tr>"
        )
    yield "</table>"


def _difference_table(differences: list[dict[str, Any]], scope: str) -> Iterator[str]:
    """Paired differences in recall@50; bold where the interval leaves out zero."""
    chosen = [d for d in differences if d["scope"] == scope and d["metric"] == "recall@50"]
    if not chosen:
        return
    yield "<h3>Differences in recall@50</h3><table>"
    yield "<tr><th>second − first</th><th>targets</th><th>n</th><th>difference</th><th>relative</th></tr>"
    for one in chosen:
        names = f"{' / '.join(one['b'])} − {' / '.join(one['a'])}"
        clear = " class='clear'" if one["low"] > 0 or one["high"] < 0 else ""
        relative = one.get("relative")
        yield (
            f"<tr{clear}><td>{html.escape(names)}</td><td>{one['targets']}</td><td>{one['n']:,}</td>"
            f"<td>{_spread(one, '+')}</td><td>{_spread(relative, '+', '.1%') if relative else ''}</td></tr>"
        )
    yield "</table>"


def _spread(value: dict[str, float], sign: str = "", form: str = ".4f") -> str:
    low, high = (f"{value[name]:{sign}{form}}" for name in ("low", "high"))
    return f"{value['mean']:{sign}{form}} <small>[{low}, {high}]</small>"
