"""Progressive validation asks what had been published by then, and counts hits as brute force does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deploy.progressive import ProgressiveValidation, Scored, bootstrap, summary
from models.artifact import unpack_keys
from models.bundle import items_file
from models.learner import Learner, PublishedModel
from tests.updater.world import EMPTY, HOUR, START, World

NAME = "two_tower"


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Deltas 1 and 2 of a first bundle, then a hand-over that catches up over hours 9 and 10 in one delta."""
    world = World(tmp_path)
    world.pass_hours(0, 6)
    world.retrain(6)
    updater = world.updater()
    updater.advance()
    world.pass_hours(6, 8)
    updater.advance()
    world.pass_hours(8, 11)
    world.retrain(8)
    updater.advance()
    world.pass_hours(11, 12)
    updater.advance()
    return world


def run(world: World, k: int = 5) -> list[Scored]:
    validation = ProgressiveValidation(world.reader, world.registry, lambda ms: EMPTY, NAME, k)
    return list(validation.run(world.registry.bundles()[0]))


def test_every_interval_is_scored_by_what_had_been_published(world: World) -> None:
    scored = run(world)
    assert [one.start_ms for one in scored] == [START + hour * HOUR for hour in range(6, 12)]
    by_hour = {(one.start_ms - START) // HOUR: one.hits for one in scored}
    assert (by_hour[6]["frozen"] == by_hour[6]["hourly"]).all()  # nothing was published yet
    assert (by_hour[7]["frozen"] == by_hour[7]["daily"]).all()
    assert len(summary(scored)) == 5


def test_hits_are_those_of_brute_force(world: World) -> None:
    first = world.registry.open_bundle(world.registry.bundles()[0])
    learner = Learner.load(first, NAME)
    model = PublishedModel.load(first, NAME)
    items = first.tensors(items_file(NAME))
    keys = unpack_keys(items, "keys.").to_pylist()
    scored = run(world)
    for hour, one in zip(range(6, 12), scored, strict=True):
        events = world.reader.read(START + hour * HOUR, START + (hour + 1) * HOUR)
        samples = learner.prepare(events, EMPTY)
        vectors = model.queries(learner.moments(samples)).vectors[:, 0]
        ranked = np.argsort(-(vectors @ items["vectors"].T), axis=1)[:, :5]
        targets = learner.target_keys(samples).to_pylist()
        expected = [target in {keys[at] for at in best} for target, best in zip(targets, ranked, strict=True)]
        assert one.hits["frozen"].tolist() == expected
        assert one.users.to_pylist() == learner.moments(samples).user_id.to_pylist()


def test_bootstrap_draws_whole_users() -> None:
    users = np.repeat(np.arange(50), 20)
    values = np.repeat((np.arange(50) % 2).astype(float), 20)  # a user is always or never hit
    interval = bootstrap(users, values)
    assert interval.mean == 0.5
    by_rows = 1.96 * 0.5 / np.sqrt(len(values))
    assert interval.high - interval.low > 4 * by_rows  # 20 rows of one user are one observation, not 20
