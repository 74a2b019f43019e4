"""Versions written and brought live: a bundle beside a plain write of the same bytes, deltas until served."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from itertools import count
from pathlib import Path

from benchmarks.bundles import published
from benchmarks.measure import Result, rates, seconds
from benchmarks.system import System, serving
from models.delta import Delta
from models.registry import Registry


def bundle(items: int, users: int, graph_from: int, rounds: int) -> list[Result]:
    """A whole bundle into the registry, against writing the same files with fsync and sha256."""
    made, hours = published(items, users, graph_from), count()
    with tempfile.TemporaryDirectory() as name:
        registry = Registry(Path(name) / "registry")
        held = registry.open_bundle(made.publish(registry, next(hours)), verify=False)
        contents = [held.path(file).read_bytes() for file in held.names()]
        shutil.rmtree(held.root)

        def ours() -> float:
            hour = next(hours)
            began = time.perf_counter()
            bundle_id = made.publish(registry, hour)
            taken = time.perf_counter() - began
            shutil.rmtree(registry.root / "bundles" / bundle_id)
            return taken

        def plainly() -> float:
            files = [Path(name) / f"plain-{number}" for number in range(len(contents))]
            began = time.perf_counter()
            for file, content in zip(files, contents, strict=True):
                with file.open("wb", buffering=0) as out:
                    out.write(content)
                    hashlib.sha256(content).hexdigest()
                    os.fsync(out.fileno())
            taken = time.perf_counter() - began
            for file in files:  # all were there at once, as in a bundle: each in memory of its own
                file.unlink()
            return taken

        size = sum(map(len, contents))
        value, peer = rates(size / 1e6, ours, plainly, rounds=rounds)
    params = {"bytes": size, "files": len(contents)}
    return [
        Result(
            "publish.bundle", value, "MB/s", "write + sha256 + fsync of the same files", peer, params=params
        )
    ]


def delta_live(
    items: int, users: int, graph_from: int, changed_users: int, changed_items: int, rounds: int
) -> list[Result]:
    """Seconds from rows in memory to answers made of them: written, pointed to, loaded, swapped in. The
    slower of a delta of user rows and one of item rows.
    """
    made, sequences = published(items, users, graph_from), count(1)
    with tempfile.TemporaryDirectory() as name, serving(Path(name), made) as (system, bundle_id):

        def live(table: str, changed: int) -> float:
            delta = made.delta(bundle_id, next(sequences), table, changed)
            began = time.perf_counter()
            _ship(system, delta)
            return time.perf_counter() - began

        of_users, of_items = seconds(
            lambda: live("user", changed_users), lambda: live("item", changed_items), rounds=rounds
        )
    params = {"users_s": of_users, "items_s": of_items}
    return [Result("publish.delta_live_s", max(of_users, of_items), "s", params=params)]


def _ship(system: System, delta: Delta) -> None:
    ref = system.registry.publish_delta(delta)
    system.point(ref.bundle, ref.sequence, delta.fields.watermark_ms)
    system.until_served(ref.bundle, ref.sequence)
