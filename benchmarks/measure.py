"""How a figure is taken and recorded."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any


@dataclass
class Result:
    """One figure beside its peer's, taken in turn in one run; `ratio_to_peer` above 1 is faster than the
    peer.
    """

    name: str
    value: float
    unit: str
    peer: str
    peer_value: float
    params: Mapping[str, Any] = field(default_factory=dict)
    limit: float | None = None

    def record(self) -> dict[str, Any]:
        """As written to results/latest.json."""
        fields = asdict(self)
        fields["ratio_to_peer"] = round(self.value / self.peer_value, 3)
        fields["ratio_to_limit"] = None if self.limit is None else round(self.value / self.limit, 3)
        return fields


def rates(units: int, *runs: Callable[[], object], rounds: int = 5) -> list[float]:
    """Units per second of each run: median over rounds in which all take turns, after one warm-up."""
    seconds: list[list[float]] = [[] for _ in runs]
    for turn in range(rounds + 1):
        for place, run in enumerate(runs):
            began = time.perf_counter()
            run()
            if turn:
                seconds[place].append(time.perf_counter() - began)
    return [units / statistics.median(taken) for taken in seconds]


def surroundings() -> dict[str, Any]:
    """What a figure depends on: machine, versions, revision."""
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    revision = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    packages = (
        "torch",
        "fbgemm-gpu-cpu",
        "faiss-cpu",
        "numpy",
        "numba",
        "msgspec",
        "kafka-python",
        "pyarrow",
    )
    return {
        "git": revision,
        "versions": {name: metadata.version(name) for name in packages},
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "python": platform.python_version()},
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
