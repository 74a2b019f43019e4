"""Recorded figures as text, for the terminal and for pages."""

from __future__ import annotations

from typing import Any

Record = dict[str, Any]
NONE = "–"


def number(value: float | None) -> str:
    """Three digits or more, "–" for none."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ratio(value: float | None) -> str:
    """Two places, "–" for none."""
    return NONE if value is None else f"{value:.2f}"


def measured(one: Record) -> str:
    """Value and unit; a ratio has no unit."""
    return f"{number(one['value'])} {one['unit']}".strip()
