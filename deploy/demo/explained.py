"""One answer of several channels, and why each item is in it: what the demo shows of `"explain": true`."""

from __future__ import annotations

from typing import Any

import httpx
from rich.table import Table

from deploy.demo.settings import MIXED_SCENE

SHOWN = 6
HEAD = ("item", "ordered by", "found by: rank, raw score")


def explained(url: str, user: str) -> dict[str, Any]:
    """An explained answer of the scene with several channels: `user`, `method`, `candidates` by channel,
    and `items`: id, value, and found_by (channel, score, rank from 0). Raises httpx.HTTPError.
    """
    body = {"user_id": user, "k": SHOWN, "context": {"scene": MIXED_SCENE}, "explain": True}
    answer = httpx.post(f"{url}/v1/recall", json=body, timeout=10.0).raise_for_status().json()["explain"]
    return {"user": user, **{name: answer[name] for name in ("method", "candidates", "items")}}


def rows(told: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Of a table with HEAD: the items, best first."""
    return [
        (
            str(item["id"]),
            f"{item['value']:.4f}",
            "; ".join(f"{by['channel']} {by['rank'] + 1}., {by['score']:.3g}" for by in item["found_by"]),
        )
        for item in told["items"]
    ]


def summary(told: dict[str, Any]) -> str:
    """Who was asked, and how it became one list."""
    gave = ", ".join(f"{name} {count}" for name, count in told["candidates"].items())
    return f"user {told['user']}, fused by {told['method']}; candidates: {gave}"


def printed(told: dict[str, Any]) -> Table:
    """For the terminal."""
    table = Table(*HEAD, title="an explained answer", caption=summary(told))
    for row in rows(told):
        table.add_row(*row)
    return table
