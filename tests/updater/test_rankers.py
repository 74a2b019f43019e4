"""Rankers through full retrains: what they learn from, when they start over, and what a bundle holds."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from models.bundle import ranker_file
from models.feature_config import FeatureConfig
from models.ranking.joined import JOINED
from models.ranking.rank_config import RankConfig
from models.ranking.rank_learner import RankLearner
from models.ranking.rank_published import ITEMS, PublishedRanker, items_of
from tests.updater.test_loop import assert_same_bytes
from tests.updater.world import EMPTY, HOUR, START, World
from updater.rankers import RankerRetrain

CONFIG = RankConfig(kind="deepfm", dim=4, hidden=(8,), batch_size=32, epochs_first=2)
SCENE = FeatureConfig(name="scene", source="context")


class Joined:
    """Rows by the interval that emitted them: user u clicks what has their letter."""

    def __init__(self, hours: int, per_hour: int = 40) -> None:
        self.hours, self.per_hour = hours, per_hour
        self.read_calls: list[tuple[int | None, int | None]] = []

    def through_ms(self) -> int | None:
        return START + self.hours * HOUR if self.hours else None

    def read(self, after_ms: int | None, through_ms: int | None = None) -> pa.Table:
        self.read_calls.append((after_ms, through_ms))
        rows = []
        for hour in range(self.hours):
            end_ms = START + (hour + 1) * HOUR
            if (after_ms is None or end_ms > after_ms) and (through_ms is None or end_ms <= through_ms):
                rng = np.random.default_rng(hour)
                for n in range(self.per_hour):
                    user, item = int(rng.integers(6)), int(rng.integers(12))
                    rows.append(
                        {
                            "event_id": f"{hour}-{n}", "ts_ms": end_ms - HOUR // 2, "user_id": f"u{user}",
                            "item_id": f"i{item}", "scene": "home", "request_id": f"r{n}", "context": [],
                            "actions": [("click", 0.0)] if item % 6 == user else [], "late": False,
                            "emitted_ms": end_ms,
                        }
                    )  # fmt: skip
        return pa.Table.from_pylist(rows, JOINED)


def retrain_of(hours: int, **configs: RankConfig) -> tuple[RankerRetrain, Joined]:
    joined = Joined(hours)
    return RankerRetrain(configs or {"light": CONFIG}, (SCENE,), joined), joined


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.pass_hours(0, 8)
    return world


def test_a_bundle_holds_rankers_that_serve_and_go_on(world: World) -> None:
    first, _ = retrain_of(4)
    bundle = world.registry.open_bundle(world.retrain(4, rankers=first))
    entry = bundle.manifest["rankers"]["light"]
    assert (entry["kind"], entry["joined_through_ms"]) == ("deepfm", START + 4 * HOUR)
    keys, items = items_of(bundle.tensors(ranker_file("light", ITEMS)))
    assert len(keys) == len(items) > 0
    ranker = PublishedRanker.load(bundle, "light")
    plain = ranker.scores("u1", keys, {"scene": "home"}, {}, {}, START)
    encoded = ranker.scores_of("u1", items, {"scene": "home"}, {}, START)
    np.testing.assert_allclose(encoded["score"], plain["score"], rtol=1e-5)
    # The next one goes on from here, with the rows that it has not seen.
    second, joined = retrain_of(6)
    following = world.registry.open_bundle(world.retrain(6, rankers=second))
    assert joined.read_calls == [(START + 4 * HOUR, START + 6 * HOUR)]
    assert following.manifest["rankers"]["light"]["joined_through_ms"] == START + 6 * HOUR
    by_hand = RankLearner.load(bundle, "light")
    by_hand.train(by_hand.prepare(Joined(6).read(START + 4 * HOUR, START + 6 * HOUR), EMPTY))
    assert_same_bytes(by_hand.save(), RankLearner.load(following, "light").save())


def test_a_join_that_lags_is_waited_for(world: World) -> None:
    lagging, joined = retrain_of(3)
    bundle = world.registry.open_bundle(world.retrain(4, rankers=lagging))
    assert joined.read_calls == [(None, START + 3 * HOUR)]
    assert bundle.manifest["rankers"]["light"]["joined_through_ms"] == START + 3 * HOUR
    caught_up, joined = retrain_of(8)
    world.retrain(6, rankers=caught_up)
    assert joined.read_calls == [(START + 3 * HOUR, START + 6 * HOUR)]


def test_without_rows_there_is_no_ranker_and_a_bundle_all_the_same(world: World) -> None:
    empty, _ = retrain_of(0)
    bundle = world.registry.open_bundle(world.retrain(4, rankers=empty))
    assert "rankers" not in bundle.manifest
    later, joined = retrain_of(6)
    following = world.registry.open_bundle(world.retrain(6, rankers=later))
    assert joined.read_calls == [(None, START + 6 * HOUR)]
    assert "light" in following.manifest["rankers"]
    # No new rows: it stays in the next bundle as it was.
    still, _ = retrain_of(6)
    last = world.registry.open_bundle(world.retrain(8, rankers=still))
    assert last.manifest["rankers"]["light"]["joined_through_ms"] == START + 6 * HOUR
    assert_same_bytes(RankLearner.load(following, "light").save(), RankLearner.load(last, "light").save())


def test_another_configuration_starts_over(world: World) -> None:
    first, _ = retrain_of(4)
    world.retrain(4, rankers=first)
    changed, joined = retrain_of(6, light=CONFIG.model_copy(update={"hidden": (16,)}))
    world.retrain(6, rankers=changed)
    assert joined.read_calls == [(None, START + 6 * HOUR)]


def test_an_entry_of_a_version_that_knew_no_expiry_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = retrain_of(4)
    bundle = world.registry.open_bundle(world.retrain(4, rankers=first))
    del bundle.manifest["rankers"]["light"]["config"]["expire_after_days"]
    learner, after_ms = first._start(bundle, "light", CONFIG)
    assert after_ms == START + 4 * HOUR
    assert_same_bytes(learner.save(), RankLearner.load(bundle, "light").save())


def test_users_unseen_for_long_are_gone_after_a_retrain(world: World) -> None:
    short = CONFIG.model_copy(update={"expire_after_days": 2 / 24})
    first, _ = retrain_of(4, light=short)
    first.joined.per_hour = 3
    bundle = world.registry.open_bundle(world.retrain(4, rankers=first))
    held = RankLearner.load(bundle, "light")._parts.space.ids["user"]
    shown = first.joined.read(START + 2 * HOUR, START + 4 * HOUR)["user_id"]  # at half past, of two hours
    assert set(held.keys_of(held.live_entries()).to_pylist()) == set(shown.to_pylist())
    assert len(held) < len(set(first.joined.read(None)["user_id"].to_pylist()))
