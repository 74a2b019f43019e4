"""Who is compared: recommenders in the same world, warmed up by the same lists, exploring alike."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.config import Config
from deploy.simulate.config import DAY_MS, RunConfig, WorldConfig
from deploy.simulate.learned import Learned
from deploy.simulate.recommenders import Exploring, Oracle, Popular, Random, Recommender, Warmed
from deploy.simulate.world import World

SYSTEM = Path(__file__).with_name("system.toml")
WORLD = {"users": 500, "items": 1000, "new_items_a_day": 50, "authors": 50, "trends_a_day": 20}
"""The defaults' world, smaller: as many items to an author and trends to an item."""
RUN = RunConfig(days=6.0, warm_days=2.0, requests_per_day=4000, explore=0.1)
"""explore: share of random items in the lists of every arm but oracle and random."""
WARM_EXPLORE = 0.8
"""The same share in the warm-up, whose lists are otherwise those of `popular`."""
SEEDS = (7, 8)
MODEL, RANKER = "fm", "light"
_COUNTS: dict[str, Any] = {"trained_tables": [], "published_tables": []}
_USERS: dict[str, Any] = {"trained_tables": ["user"], "published_tables": ["user"]}
_ROWS: dict[str, Any] = {"trained_tables": ["user", "item"], "published_tables": ["user", "item"]}
_PRERANK: dict[str, Any] = {
    "rankers": {RANKER: {"kind": "deepfm", "dim": 16, "epochs_first": 3, "lr_rows": 0.05}},
    "serving": {"prerank": {"model": RANKER, "candidates": 25, "timeout_ms": 10_000}},
}
_FUSED: dict[str, Any] = {
    "channels": {"item_cf": {"kind": "item_cf", "positives": ["click"]}},
    "serving": {"channels": {"popularity": {"users": "all"}}, "channel_timeout_ms": 10_000},
}
"""Several channels, blended from the second full retrain on."""
_CANDIDATES: dict[str, Any] = {
    "channels": _FUSED["channels"],
    "update": {"prerank": True},
    "serving": {
        **_FUSED["serving"],
        "prerank": {"model": "candidates", "candidates": 100, "timeout_ms": 10_000},
    },
}


@dataclass(frozen=True)
class Arm:
    """One contestant.

    changes: to system.toml, None = it does not learn; model: to its recall model; against: the arm to which
    the difference is told.
    """

    name: str
    meaning: str
    changes: Mapping[str, Any] | None = None
    against: str = ""
    model: Mapping[str, Any] = field(default_factory=dict)

    def config(self, folder: Path, seed: int) -> Config:
        """The system of a learned arm; seed: of its training."""
        tree = merged(tomllib.loads(SYSTEM.read_text(encoding="utf-8")), self.changes or {})
        seeded = {"models": {MODEL: {**self.model, "seed": seed}}, "data_dir": folder}
        return Config.model_validate(merged(tree, seeded))


ARMS = (
    Arm("random", "uniformly drawn items"),
    Arm("popular", "most clicks, half-life 12 h"),
    Arm("daily", "full retrain every midnight", {"update": {"incremental": False}}, "popular"),
    Arm("daily + counts", "and fresh popularity counts every hour", {}, "daily", _COUNTS),
    Arm("hourly users", "and steps on user rows every hour", {}, "daily + counts", _USERS),
    Arm("hourly rows", "and steps on user and item rows every hour", {}, "hourly users", _ROWS),
    Arm("pre-rank", "hourly rows, ordered by a ranker of the day", _PRERANK, "hourly rows", _ROWS),
    Arm(
        "pre-rank + rejects", "and what it turned down as hard negatives of the recall model", _PRERANK,
        "pre-rank", {**_ROWS, "hard_negatives": ["rejects"]},
    ),
    Arm("fused", "hourly rows, with neighbours and popularity in one ranking", _FUSED, "hourly rows", _ROWS),
    Arm("fused + pre-rank", "ordered by the network over all candidates", _CANDIDATES, "fused", _ROWS),
    Arm("oracle", "the highest true click probabilities"),
)  # fmt: skip


def chosen(names: Iterable[str]) -> list[Arm]:
    """Arms by name, all for none. Raises ValueError naming the ones there are."""
    wanted = list(names)
    unknown = [name for name in wanted if name not in {arm.name for arm in ARMS}]
    if unknown:
        raise ValueError(f"no arm {unknown[0]}; there are: {', '.join(arm.name for arm in ARMS)}")
    return [arm for arm in ARMS if not wanted or arm.name in wanted]


def world_of(seed: int) -> WorldConfig:
    """The world of a seed."""
    return WorldConfig.model_validate({**WORLD, "seed": seed})


def recommender(arm: Arm, world: World, run: RunConfig, folder: Path) -> tuple[Recommender, Learned | None]:
    """The arm behind its warm-up, and its system where it has one (to be closed); folder: empty."""
    first_ms = world.config.start_ms + round(run.warm_days * DAY_MS)
    learned = None
    if arm.changes is not None:
        learned = Learned(world, arm.config(folder, world.config.seed), first_ms)
    popular = Popular(world, run.popular_half_life_h, explore=0.0)
    warm = Exploring(world, popular, WARM_EXPLORE)
    inner: Recommender
    if arm.name in ("oracle", "random"):
        inner = Oracle(world) if arm.name == "oracle" else Random(world)
    else:
        own = learned or Popular(world, run.popular_half_life_h, explore=0.0)
        inner = Exploring(world, own, run.explore)
    return Warmed(world, warm, inner, first_ms), learned


def merged(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of settings with others laid over it, table by table."""
    result = dict(tree)
    for name, value in changes.items():
        below = result.get(name)
        nested = isinstance(below, Mapping) and isinstance(value, Mapping)
        result[name] = merged(below, value) if nested else value  # type: ignore[arg-type]
    return result
