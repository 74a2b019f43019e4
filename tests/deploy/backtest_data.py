"""Two days and some hours of small, messy event data for the backtest's tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

HOUR = 3_600_000
START = 1_700_006_400_000  # a midnight in UTC
USERS, ITEMS, GROUPS = 40, 60, 3
POSITIVES = ("click", "long_view")


def event_table(hours: int = 54, per_hour: int = 12, seed: int = 0, shared: bool = True) -> pa.Table:
    """Impressions with clicks, and long views that repeat a click's request; sorted by ts_ms.

    Some rows share an instant, some have no request, some requests are of several items, and, if `shared`,
    some of two users.
    """
    rng = np.random.default_rng(seed)
    rows: list[tuple[int, str, str, str, str]] = []
    user, request = 0, ""
    for number in range(hours * per_hour):
        ts = START + int((number + rng.random()) * HOUR / per_hour) // 60_000 * 60_000
        if rng.random() > 0.15:  # else one more item of the same basket
            user = int(rng.integers(0, USERS))
            request = "" if rng.random() < 0.1 else f"r{number}"
            if shared and rng.random() < 0.1:
                request = f"r{max(0, number - 1)}"
        # Items come up over time, so that the newest are unknown to an old model.
        item = int(rng.integers(0, ITEMS // GROUPS)) * GROUPS + user % GROUPS
        item = item % max(GROUPS, ITEMS * (number + 40) // (hours * per_hour))
        rows.append((ts, f"u{user}", f"#{item}", "impression", request))
        rows.append((ts, f"u{user}", f"#{item}", "click", request))
        if rng.random() < 0.4:
            rows.append((ts + 60_000, f"u{user}", f"#{item}", "long_view", request))
    order = sorted(range(len(rows)), key=lambda at: rows[at][0])
    ts_ms, user_id, item_id, kind, request_id = zip(*(rows[at] for at in order), strict=True)
    return pa.table(
        {
            "ts_ms": pa.array(ts_ms, pa.int64()),
            "user_id": user_id,
            "item_id": item_id,
            "kind": kind,
            "scene": ["feed"] * len(rows),
            "request_id": request_id,
            "value": pa.nulls(len(rows), pa.float64()),
        }
    )


def write_tables(folder: Path, events: pa.Table) -> dict[str, Path]:
    """events, items, users and a configuration of small models, as files."""
    paths = {name: folder / f"{name}.parquet" for name in ("events", "items", "users")}
    pq.write_table(events, paths["events"])
    items = [f"#{item}" for item in range(ITEMS)]
    pq.write_table(pa.table({"item_id": items, "price": np.arange(ITEMS) * 1.5}), paths["items"])
    users = [f"u{user}" for user in range(USERS)]
    pq.write_table(
        pa.table({"user_id": users, "group": [f"g{u % GROUPS}" for u in range(USERS)]}), paths["users"]
    )
    paths["config"] = folder / "backtest.toml"
    paths["config"].write_text(CONFIG, encoding="utf-8")
    return paths


CONFIG = """
[models.small]
kind = "two_tower"
dim = 16
id_dim = 16
hidden = [32]
history_length = 8
batch_size = 128
batch_size_incremental = 32
negatives = 32
popularity = [{ half_life_h = 12.0 }]
own_items = 8

[[features]]
name = "price"
source = "item"
kind = "number"

[[features]]
name = "group"
source = "user"
"""
