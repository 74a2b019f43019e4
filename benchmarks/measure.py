"""How a figure is taken and recorded."""

from __future__ import annotations

import hashlib
import importlib
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = (
    "torch", "faiss-cpu", "numpy", "numba", "msgspec", "kafka-python", "pyarrow", "uvicorn",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """One figure beside its peer's and its limit's, taken in turn in one run, all in `unit`.

    A figure that is a ratio or a duration of its own has no peer (""). limit: what this machine can do at
    most, measured in the same run. data_sha256: of the data it was measured on, "" where there is none.
    """

    name: str
    value: float
    unit: str
    peer: str = ""
    peer_value: float | None = None
    limit: float | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    data_sha256: str = ""

    def record(self, around: Mapping[str, Any]) -> dict[str, Any]:
        """As written to results/latest.json; around: surroundings() of the run."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "peer": self.peer,
            "peer_value": self.peer_value,
            "ratio_to_peer": _ratio(self.value, self.peer_value),
            "limit": self.limit,
            "ratio_to_limit": _ratio(self.value, self.limit),
            "params": dict(self.params),
            "data_sha256": self.data_sha256,
            **around,
        }


@dataclass(frozen=True)
class Measurement:
    """What gives some results: a function of this package, "module:function", with its sizes as keywords.

    Where several measurements share a function, the keyword `name` tells it the name of its result.
    """

    place: str
    names: tuple[str, ...]
    full: Mapping[str, Any]
    quick: Mapping[str, Any]

    def run(self, sizes: Mapping[str, Any], mark: Mapping[str, Any] | None = None) -> list[Result]:
        """The results, with the sizes (and `mark`) among their params; the module is imported only now.

        Raises RuntimeError where the function gives other results than `names`.
        """
        module, _, function = self.place.partition(":")
        given: Sequence[Result] = getattr(importlib.import_module(f"benchmarks.{module}"), function)(**sizes)
        names = tuple(one.name for one in given)
        if names != self.names:
            raise RuntimeError(f"{self.place}: expected results {self.names}, got {names}")
        said = {key: size for key, size in sizes.items() if key != "name"}
        return [replace(one, params={**said, **one.params, **(mark or {})}) for one in given]


def rates(units: float | Sequence[float], *runs: Callable[[], object], rounds: int = 5) -> list[float]:
    """Units per second of each run: median over rounds in which all take turns, after one warm-up.

    units: of each run, or of all. A run that gives a float says itself how many seconds it took: what it has
    to set up first does not count. (A run whose answer is another float gives it in a list.)
    """
    of_each = [units] * len(runs) if isinstance(units, int | float) else list(units)[: len(runs)]
    taken = seconds(*runs, rounds=rounds)
    return [of / median for of, median in zip(of_each, taken, strict=True)]


def seconds(*runs: Callable[[], object], rounds: int = 5) -> list[float]:
    """Seconds of each run, taken as rates() does."""
    taken: list[list[float]] = [[] for _ in runs]
    for turn in range(rounds + 1):
        for place, run in enumerate(runs):
            began = time.perf_counter()
            told = run()
            spent = told if isinstance(told, float) else time.perf_counter() - began
            if turn:
                taken[place].append(spent)
    return [statistics.median(one) for one in taken]


def sha256(*arrays: Any) -> str:
    """Of the bytes of arrays, in order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()


def surroundings() -> dict[str, Any]:
    """What a figure depends on: machine, versions, revision."""
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    revision = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "git": revision,
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "python": platform.python_version()},
    }


def _ratio(value: float, to: float | None) -> float | None:
    return None if to is None else round(value / to, 3)


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
