"""Clicks per impression by day as an SVG: one line for each arm, on a logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 860, 460
LEFT, RIGHT, TOP, BOTTOM = 64, 190, 56, 48
_COLOURS = {
    "random": "#9aa0a6", "popular": "#5f6368", "daily": "#a6cee3", "daily + counts": "#1f78b4",
    "hourly users": "#b2df8a", "hourly rows": "#33a02c", "pre-rank": "#e08214",
    "pre-rank + rejects": "#d7301f", "fused": "#cab2d6", "fused + pre-rank": "#6a3d9a", "oracle": "#202124",
}  # fmt: skip
_TICKS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5)
_LABEL_PX = 15


def svg(results: dict[str, Any]) -> str:
    """The plot of closed_loop.json: expected clicks per impression, mean over the worlds."""
    if not results["arms"]:
        return _empty()
    lines = {arm["name"]: _mean(arm["by_seed"]) for arm in results["arms"]}
    days = max(len(line) for line in lines.values())
    values = [value for line in lines.values() for value in line]
    axis = _Axis(days, min(values) * 0.9, max(values) * 1.1)
    warm = results["about"]["run"]["warm_days"]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="12" role="img" aria-label="SIMULATED clicks per impression">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="24" font-size="15" fill="#202124">'
        "SIMULATED: clicks per impression by day</text>",
        f'<text x="{LEFT}" y="42" fill="#5f6368">expected, before luck; mean of '
        f"{len(results['about']['worlds'])} worlds; logarithmic axis</text>",
        f'<rect x="{LEFT}" y="{TOP}" width="{axis.x(warm - 0.5) - LEFT:.1f}" '
        f'height="{HEIGHT - TOP - BOTTOM}" fill="#f1f3f4"/>',
        f'<text x="{LEFT + 8}" y="{TOP + 18}" fill="#5f6368">warm-up, the same lists</text>',
        *_grid(axis, days),
        *_lines(axis, lines),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _empty() -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} 60" font-family="sans-serif">'
        '<text x="20" y="36">SIMULATED closed loop: not measured yet</text></svg>\n'
    )


class _Axis:
    def __init__(self, days: int, low: float, high: float) -> None:
        self.days, self.low, self.high = days, math.log(low), math.log(high)

    def x(self, day: float) -> float:
        """Middle of a day."""
        return LEFT + (day + 0.5) / self.days * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Of a rate."""
        share = (math.log(value) - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _grid(axis: _Axis, days: int) -> list[str]:
    parts = []
    for tick in (tick for tick in _TICKS if axis.low <= math.log(tick) <= axis.high):
        y = axis.y(tick)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#dadce0"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#5f6368">{tick:g}</text>')
    parts += [
        f'<text x="{axis.x(day):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle" fill="#5f6368">'
        f"{day + 1}</text>"
        for day in range(days)
    ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text x="{middle:.1f}" y="{HEIGHT - 10}" text-anchor="middle" fill="#5f6368">simulated day</text>'
    )
    return parts


def _lines(axis: _Axis, lines: dict[str, list[float]]) -> list[str]:
    parts = []
    for name, line in lines.items():
        points = " ".join(f"{axis.x(day):.1f},{axis.y(value):.1f}" for day, value in enumerate(line))
        dash = ' stroke-dasharray="5 4"' if name in ("oracle", "random") else ""
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{_COLOURS[name]}" stroke-width="2"{dash}/>'
        )
    names = sorted(lines, key=lambda name: axis.y(lines[name][-1]))
    for name, y in zip(names, _apart([axis.y(lines[name][-1]) for name in names]), strict=True):
        text = f"{escape(name)} {lines[name][-1]:.3f}"
        parts.append(f'<text x="{WIDTH - RIGHT + 10}" y="{y + 4:.1f}" fill="{_COLOURS[name]}">{text}</text>')
    return parts


def _apart(wanted: Sequence[float]) -> list[float]:
    """Heights of labels, ascending, moved down where they would overlap, then up into the picture."""
    placed: list[float] = []
    for y in wanted:
        placed.append(max(y, placed[-1] + _LABEL_PX) if placed else y)
    limit: float = HEIGHT - BOTTOM
    for at in reversed(range(len(placed))):
        placed[at] = min(placed[at], limit)
        limit = placed[at] - _LABEL_PX
    return placed


def _mean(by_seed: Sequence[dict[str, Any]]) -> list[float]:
    rows = [one["expected_clicks_per_impression"] for one in by_seed]
    return [sum(values) / len(values) for values in zip(*rows, strict=True)]
