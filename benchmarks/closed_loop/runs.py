"""One arm in one world, kept in a file of its own: a second start goes on with what is missing."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.closed_loop.arms import WARM_EXPLORE, Arm, recommender, world_of
from benchmarks.closed_loop.by_user import ByUser
from deploy.simulate.config import RunConfig
from deploy.simulate.loop import Simulation
from deploy.simulate.world import World

VERSION = 1
"""Of this procedure and of what it runs: kept runs of another one are made again."""


@dataclass(frozen=True)
class Run:
    """An arm in the world of a seed; kept under `root`."""

    arm: Arm
    seed: int
    run: RunConfig
    root: Path

    @property
    def told(self) -> dict[str, Any]:
        """All that the figures depend on."""
        learned = self.arm.changes is not None
        config = self.arm.config(Path("data"), self.seed).model_dump(mode="json") if learned else None
        return {
            "version": VERSION,
            "arm": self.arm.name,
            "world": world_of(self.seed).model_dump(),
            "run": self.run.model_dump(),
            "warm_explore": WARM_EXPLORE,
            "config": config,
        }

    @property
    def file(self) -> Path:
        """Where the run is kept."""
        key = hashlib.sha256(json.dumps(self.told, sort_keys=True).encode()).hexdigest()[:16]
        return self.root / f"{key}.npz"

    @property
    def done(self) -> bool:
        """Whether it is there."""
        return self.file.exists()


class _Nowhere:
    """A sink for events that only the recommender hears of."""

    def items(self, items: pa.Table, ts_ms: int) -> None:
        """Not kept."""

    def events(self, events: pa.Table) -> None:
        """Not kept."""


def execute(run: Run, progress: Callable[[int, int], None] = lambda minutes, of: None) -> None:
    """Simulate, keep what users did by day and the figures; the system's folder is removed afterwards."""
    world = World(world_of(run.seed))
    began_s = time.perf_counter()
    run.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=run.root) as folder:
        asked, learned = recommender(run.arm, world, run.run, Path(folder))
        simulation = Simulation(world, run.run, asked, _Nowhere())
        figures = simulation.figures = ByUser(world, run.run)
        simulation.run(lambda minutes, ts_ms, events: progress(minutes, run.run.minutes))
        if learned:
            learned.close()
    about = {"figures": figures.summary(), "wall_s": round(time.perf_counter() - began_s, 1)}
    aside = run.file.with_suffix(".tmp")
    with aside.open("wb") as file:
        np.savez_compressed(file, about=np.array(json.dumps(about)), **figures.kept)
    aside.rename(run.file)


def read(run: Run) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(float64[days, users] by name of COUNTED, what is said about the run)."""
    with np.load(run.file, allow_pickle=False) as kept:
        about: dict[str, Any] = json.loads(str(kept["about"]))
        return {name: kept[name] for name in kept.files if name != "about"}, about
