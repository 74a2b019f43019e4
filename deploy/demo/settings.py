"""The demo's configuration file: the defaults of every section, and what belongs to a grocer's purchases."""

from __future__ import annotations

import socket
from pathlib import Path

POPULAR_SCENE, NEW_SCENE = "popular", "new"
"""Scenes that answer by one channel only, popular_now and fresh: the demo times what they answer when."""
MIXED_SCENE = "mixed"
"""A scene that answers by several channels: the demo shows an explained answer of it."""

TEMPLATE = """\
# Written by `freshrecall demo`; `freshrecall up --config {file}` starts the same system again.
data_dir = "{data_dir}"

[embedded]
broker_port = {broker_port}
store_port = {store_port}

[serving]
port = {port}
clock = "event"
audit_file = "{data_dir}/audit.jsonl"
audit_share = {audit_share}

# Scenes of one channel each, by which the demo times what is popular now and new items.
[serving.scenes.{popular_scene}]
fusion = {{ method = "snake" }}

[serving.scenes.{popular_scene}.channels]
two_tower = {{ users = "nobody" }}
popular_now = {{ users = "all" }}

[serving.scenes.{new_scene}]
fusion = {{ method = "snake" }}

[serving.scenes.{new_scene}.channels]
two_tower = {{ users = "nobody" }}
popular_now = {{ users = "nobody" }}
fresh = {{ users = "all" }}

# A scene of several channels: the model, what the user had, what is popular now, and a place for a new item.
[serving.scenes.{mixed_scene}]
fusion = {{ method = "rrf" }}

[serving.own_items]
kinds = ["purchase"]

[serving.scenes.{mixed_scene}.channels]
own_items = {{ users = "all" }}
popular_now = {{ users = "all" }}
fresh = {{ users = "all", guaranteed = 1 }}

[schedule]
clock = "event"
day_timezone = "{day_timezone}"

[archive]
interval_ms = 3600000

[profiles]
history_length = 200

[models.two_tower]
kind = "two_tower"
positives = ["purchase"]
day_timezone = "{day_timezone}"
own_items = 200
own_negatives = 4
popularity = [{{ half_life_h = 168 }}, {{ half_life_h = 24 }}]

{features}"""

FEATURES = (
    ("department", "item"),
    ("product_category", "item"),
    ("product_type", "item"),
    ("brand", "item"),
    ("age", "user"),
    ("income", "user"),
    ("household_size", "user"),
    ("scene", "context"),
    ("hour_of_day", "time"),
    ("day_of_week", "time"),
)


def write_settings(file: Path, data_dir: Path, day_timezone: str, audit_share: float) -> int:
    """Write the demo's TOML file with free ports; returns the port of the server."""
    broker_port, store_port, port = _free_ports(3)
    features = "\n".join(f'[[features]]\nname = "{name}"\nsource = "{source}"\n' for name, source in FEATURES)
    text = TEMPLATE.format(
        file=file, data_dir=data_dir.as_posix(), broker_port=broker_port, store_port=store_port, port=port,
        day_timezone=day_timezone, audit_share=audit_share, features=features,
        popular_scene=POPULAR_SCENE, new_scene=NEW_SCENE, mixed_scene=MIXED_SCENE,
    )  # fmt: skip
    file.write_text(text, encoding="utf-8")
    return port


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now; all are held until all are chosen, so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(held.getsockname()[1]) for held in sockets]
    for held in sockets:
        held.close()
    return ports
