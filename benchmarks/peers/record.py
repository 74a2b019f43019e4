"""Results as they are kept: figures with all they depend on, and the lists themselves."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.peers.metrics import interval_by_user
from benchmarks.peers.peer import Peer
from benchmarks.peers.positives import Positives
from benchmarks.peers.replay import Outcome

PREDICTIONS = pa.schema(
    [
        ("row", pa.int64()),
        ("peer", pa.string()),
        ("scope", pa.string()),
        ("rank", pa.float64()),
        ("items", pa.list_(pa.string())),
    ]
)
ALWAYS = ("numpy", "pandas", "scipy", "pyarrow")


def records(
    peer: Peer, outcome: Outcome, positives: Positives, seed: int, params: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One for each scope and figure: the mean over targets and its 95% bootstrap interval by user."""
    spent = {
        "knobs": outcome.knobs,
        "refits": outcome.refits,
        "popularity_lists": outcome.fallbacks,
        "tuning_s": round(outcome.tuning_s, 1),
        "test_s": round(outcome.test_s, 1),
    }
    found = []
    for scope, scored in outcome.scopes.items():
        for figure, values in scored.figures().items():
            low, high = interval_by_user(values, positives.user[scored.row], seed)
            found.append(
                {
                    "name": f"{peer.name}.{figure}",
                    "value": round(float(values.mean()), 5),
                    "interval": [round(low, 5), round(high, 5)],
                    "n": len(values),
                    "scope": scope,
                    "params": {**params, **spent},
                    "versions": {name: metadata.version(name) for name in (*peer.packages, *ALWAYS)},
                }
            )
    return found


def predictions(peer: Peer, outcome: Outcome, positives: Positives) -> pa.Table:
    """PREDICTIONS: lists best first; rank: the target's expected one, from 0, as the figures take it."""
    parts = []
    for scope, scored in outcome.scopes.items():
        size = len(scored.row)
        items = [[str(key) for key in positives.item_keys[places]] for places in scored.lists]
        columns = [scored.row, [peer.name] * size, [scope] * size, scored.rank, items]
        parts.append(pa.table(columns, schema=PREDICTIONS))
    return pa.concat_tables(parts)


def surroundings(events: Path) -> dict[str, Any]:
    """Machine, data, command and revision of this run."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    with events.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    # Folders say nothing about a run, and differ between machines.
    options = [Path(one).name if "/" in one else one for one in sys.argv[1:]]
    return {
        "machine": {"cpu": next(models, ""), "cores": os.cpu_count(), "python": platform.python_version()},
        "data_sha256": digest,
        "git": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip(),
        "command": shlex.join(["python", "-m", "benchmarks.peers", *options]),
    }
