"""The loop closed over the whole system in one process: reproducible, never ahead of its time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from deploy.config import Config
from deploy.simulate.actions import CLICK, IMPRESSION, Actions
from deploy.simulate.config import DAY_MS, HOUR_MS, RunConfig, WorldConfig
from deploy.simulate.learned import Learned
from deploy.simulate.live_profiles import LiveProfiles
from deploy.simulate.loop import Simulation
from deploy.simulate.recommenders import Exploring, Popular, Random, Warmed
from deploy.simulate.system import NothingServed
from deploy.simulate.world import World
from models.arrays import Int64Array
from stream.archive import ArchiveReader
from stream.profiles import ProfileConfig

WORLD = WorldConfig(users=40, items=120, new_items_a_day=48, dims=8, authors=12, categories=4, trends_a_day=4)
SETTINGS: dict[str, Any] = {
    "profiles": {"history_kinds": ["click"], "history_length": 8},
    "features": [{"name": "category", "source": "item"}, {"name": "favourite", "source": "user"}],
    "models": {
        "fm": {
            "kind": "fm", "dim": 8, "id_dim": 8, "history_length": 8, "own_items": 8, "batch_size": 64,
            "negatives": 32, "popularity": [{"half_life_h": 12}], "epochs_first": 4,
            "trained_tables": ["user", "item"], "published_tables": ["user", "item"],
            "hard_negatives": ["rejects"],
        },
    },
    "rankers": {
        "light": {"kind": "deepfm", "dim": 4, "hidden": [8], "epochs_first": 1, "linear_share": 0.0}
    },
    "serving": {
        "clock": "event", "rejects_per_answer": 3, "prerank": {"model": "light", "candidates": 8},
    },
}  # fmt: skip
K = 5


class Watched:
    """Keeps the lists, and what the system knew when it gave them."""

    def __init__(self, world: World, learned: Learned) -> None:
        self.world, self.learned = world, learned
        self.served: list[np.ndarray] = []
        self.watermarks: list[tuple[int, int]] = []
        self.ages: list[int] = []

    def lists(self, users: Int64Array, context: Any, k: int, ts_ms: Int64Array) -> Int64Array:
        served = self.learned.lists(users, context, k, ts_ms)
        snapshot = self.learned.system.swapper.served.snapshot
        assert snapshot is not None
        self.watermarks.append((snapshot.watermark_ms, self.world.now_ms))
        for user, moment in zip(users.tolist(), ts_ms.tolist(), strict=True):
            self.ages += [moment - entry.ts_ms for entry in self.learned.profiles.fetch(user).history]
        assert served.max(initial=0) <= self.world.items.count
        self.served.append(served)
        return served

    def observe(self, actions: Actions) -> None:
        self.learned.observe(actions)


class Kept:
    def __init__(self) -> None:
        self.tables: list[pa.Table] = []

    def items(self, items: pa.Table, ts_ms: int) -> None:
        pass

    def events(self, events: pa.Table) -> None:
        self.tables.append(events)


def run(folder: Path, hours: float) -> tuple[Watched, pa.Table]:
    """A day of `popular`, then so many hours of the system."""
    world = World(WORLD)
    learned = Learned(world, Config.model_validate({**SETTINGS, "data_dir": folder}), WORLD.start_ms + DAY_MS)
    watched, kept = Watched(world, learned), Kept()
    warm = Exploring(world, Popular(world, 12.0, 0.0), 0.5)
    asked = Warmed(world, warm, Exploring(world, watched, 0.2), WORLD.start_ms + DAY_MS)
    Simulation(world, RunConfig(days=1 + hours / 24, requests_per_day=800, k=K), asked, kept).run()
    learned.close()
    return watched, pa.concat_tables(kept.tables)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> tuple[Watched, pa.Table, Path]:
    folder = tmp_path_factory.mktemp("system")
    return *run(folder, 5), folder


def test_answers_are_full_distinct_and_learned(long: tuple[Watched, pa.Table, Path]) -> None:
    watched = long[0]
    rows = np.concatenate(watched.served)
    assert len(rows) > 50
    assert (rows > 0).all()
    assert all(len(set(row)) == K for row in rows.tolist())
    assert len({tuple(row) for row in rows.tolist()}) > 20  # not one list for everybody


def test_items_born_after_the_bundle_can_be_answered(long: tuple[Watched, pa.Table, Path]) -> None:
    snapshot = long[0].learned.system.swapper.served.snapshot
    assert snapshot is not None
    # The newest may have come with the run's last minute, after which nobody asked.
    born = [f"#{number}" for number in range(WORLD.items + 48 + 1, long[0].world.items.count)]
    assert len(born) >= 8
    assert (snapshot.channels["fm"].items.lookup(pa.array(born)) >= 0).all()


def test_nothing_is_known_before_its_time(long: tuple[Watched, pa.Table, Path]) -> None:
    watched = long[0]
    for watermark_ms, now_ms in watched.watermarks:
        assert watermark_ms == now_ms // HOUR_MS * HOUR_MS  # the last whole hour and nothing later
    assert min(watched.ages) >= 0
    for seal in ArchiveReader(long[2] / "archive").seals():
        events = ArchiveReader(long[2] / "archive").read(seal.interval_end_ms - 1, seal.interval_end_ms)
        assert (events["ts_ms"].to_numpy() < seal.interval_end_ms).all()


def test_the_same_seed_gives_the_same_loop(long: tuple[Watched, pa.Table, Path], tmp_path: Path) -> None:
    # A shorter run: what comes afterwards changes no answer either.
    watched, events = run(tmp_path, 2)
    assert events.equals(long[1].slice(0, len(events)))
    for ours, theirs in zip(watched.served, long[0].served, strict=False):
        np.testing.assert_array_equal(ours, theirs)


def test_rejects_become_hard_negatives(long: tuple[Watched, pa.Table, Path]) -> None:
    watched, _, folder = long
    reader = ArchiveReader(folder / "archive")
    events = reader.read(None, reader.seals()[-1].interval_end_ms)
    rejects = events.filter(pa.compute.equal(events["kind"], "reject"))
    assert len(rejects) == 3 * len(np.concatenate(watched.served))
    state = watched.learned.system._updater.state
    assert state is not None
    assert 0 < len(state.learners["fm"].rejects) <= len(rejects)


def test_a_request_before_the_first_bundle_is_refused(tmp_path: Path) -> None:
    world = World(WORLD)
    config = Config.model_validate({**SETTINGS, "data_dir": tmp_path})
    learned = Learned(world, config, WORLD.start_ms + DAY_MS)
    with pytest.raises(NothingServed, match="the first full retrain is that of"):
        learned.lists(np.array([1]), {}, K, np.array([world.now_ms]))
    learned.close()


def test_exploration_is_the_same_for_all_and_keeps_lists_distinct() -> None:
    world, users = World(WORLD), np.arange(1, 41)
    moments = np.full(40, world.now_ms)
    popular = Popular(world, 12.0, 0.0)
    plain = popular.lists(users, {}, K, moments)
    np.testing.assert_array_equal(Exploring(world, popular, 0.0).lists(users, {}, K, moments), plain)
    explored = Exploring(world, popular, 0.4).lists(users, {}, K, moments)
    changed = explored != plain
    assert 0.25 < changed.mean() < 0.5
    assert all(len(set(row)) == K for row in explored.tolist())
    drawn = Random(world).lists(users, {}, K, moments)
    np.testing.assert_array_equal(explored[changed], drawn[changed])


def test_profiles_keep_the_newest_of_their_kinds() -> None:
    profiles = LiveProfiles(
        ProfileConfig(history_kinds=("click",), history_length=2),
        pa.table({"user_id": [1, 2], "favourite": ["c0", "c1"]}),
    )
    count = 4
    actions = Actions(
        np.arange(count), np.zeros(count, np.int64), np.arange(10, 14),
        np.array([CLICK, IMPRESSION, CLICK, CLICK]), *np.zeros((3, count), np.int64), np.full(count, np.nan),
    )  # fmt: skip
    profiles.apply(actions, ["r0", "r0", "r0", "r1"])
    found = profiles.fetch(1)
    assert [(entry.item_id, entry.ts_ms, entry.request_id) for entry in found.history] == [
        ("#13", 2, "r0"), ("#14", 3, "r1"),
    ]  # fmt: skip
    assert found.attributes == {"favourite": "c0"}
    assert profiles.fetch(2).history == profiles.fetch(9).history == []
