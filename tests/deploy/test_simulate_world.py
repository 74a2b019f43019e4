"""The simulated world: determinism, drift, time of day, births, trends, and its scores by plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from deploy.simulate.behaviour import click_probability
from deploy.simulate.config import DAY_MS, HOUR_MS, WorldConfig
from deploy.simulate.randomness import Stream, generator
from deploy.simulate.world import RECENT, World, activity
from models.arrays import Int64Array

SMALL = WorldConfig(
    users=60, items=300, new_items_a_day=480, dims=8, authors=40, categories=6, trends_a_day=96
)
STILL = SMALL.model_copy(
    update={"new_items_a_day": 0, "trends_a_day": 0, "newness_peak": 0.0, "interest_half_life_d": 1e9}
)
EVERYBODY: Int64Array = np.arange(SMALL.users)


def passed(world: World, minutes: int) -> World:
    for _ in range(minutes):
        world.advance()
    return world


def expected(world: World, lists: Int64Array) -> float:
    """Mean expected clicks per list of item numbers [U, k], asked now by all users."""
    logits = world.logits(EVERYBODY, lists).astype(float)
    return float(click_probability(logits, world.config).sum(axis=1).mean())


def test_random_numbers_are_a_function_of_seed_stream_and_step() -> None:
    drawn = {
        (seed, stream, step): generator(seed, stream, step).random(3).tobytes()
        for seed in (0, 7)
        for stream in Stream
        for step in (-1, 0, 1)
    }
    assert len(set(drawn.values())) == len(drawn)
    assert generator(7, Stream.DRIFT, 1).random(3).tobytes() == drawn[7, Stream.DRIFT, 1]


def test_worlds_of_one_seed_are_equal_whoever_looks_at_them() -> None:
    one, other = World(SMALL), World(SMALL)
    for _ in range(130):
        one.advance()
        other.best(EVERYBODY, 5)  # reading moves nothing
        other.visitors(3.0)
        other.advance()
    assert one.items.table().equals(other.items.table())
    assert one.interest.tobytes() == other.interest.tobytes()
    assert one.logits(EVERYBODY[:4], one.best(EVERYBODY[:4], 9)).shape == (4, 9)
    for mine, theirs in zip(one.visitors(50.0), other.visitors(50.0), strict=True):
        assert mine.tobytes() == theirs.tobytes()
    assert not passed(World(SMALL.model_copy(update={"seed": 8})), 1).items.table().equals(one.items.table())


def test_logits_by_plain_loops() -> None:
    world = passed(World(SMALL), 95)
    config, items = world.config, world.items
    world.clicked(np.array([3, 3, 4]), np.array([10, 11, 10]))
    users, lists = np.array([3, 4, 5]), np.array([[10, 11, 12], [10, 11, 12], [10, 11, items.count - 1]])
    found = world.logits(users, lists)
    hour = 95 / 60
    for row, user in enumerate(users):
        sway = config.day_night * math.cos(2 * math.pi * (hour - 20) / 24)
        mood = world.interest[user] + sway * world._rhythm[user]
        mood = mood / math.sqrt(sum(float(x) ** 2 for x in mood))
        for place, item in enumerate(lists[row]):
            x = (world.now_ms - items.column("trend_ms")[item]) / (config.trend_rise_h * HOUR_MS)
            logit = config.bias + config.affinity * sum(
                float(a) * float(b) for a, b in zip(mood, items.vector[item], strict=True)
            )
            logit += items.column("quality")[item] + items.column("trend_peak")[item] * x * math.exp(1 - x)
            if (user, item) in ((3, 10), (3, 11), (4, 10)):
                logit += world._again[user]
            assert found[row, place] == pytest.approx(logit, abs=1e-4)


def test_the_best_items_by_brute_force_also_where_clicks_changed_them() -> None:
    world = passed(World(SMALL), 60)
    first = world.best(EVERYBODY, 3)
    world.clicked(np.repeat(EVERYBODY, 4), np.concatenate([first, first[:, :1]], axis=1).ravel())
    everything = np.tile(np.arange(world.items.count), (len(EVERYBODY), 1))
    logits = world.logits(EVERYBODY, everything)
    found = world.best(EVERYBODY, 10)
    assert found.shape == (60, 10)
    best = -np.sort(-logits, axis=1)[:, :10]
    np.testing.assert_allclose(np.take_along_axis(logits, found, axis=1), best, atol=1e-4)
    assert world.best(EVERYBODY, 10_000).shape == (60, world.items.count)


def test_the_newest_clicks_are_remembered_also_many_of_one_minute() -> None:
    world = World(SMALL)
    world.clicked(np.array([1, 0, 1]), np.array([5, 6, 7]))
    world.clicked(np.array([1] * RECENT), np.arange(RECENT))
    assert set(world._recent[1]) == set(range(RECENT))
    assert set(world._recent[0]) == {6, -1}


def test_interest_drifts_at_its_half_life_and_old_lists_are_worth_less_and_less() -> None:
    quick = STILL.model_copy(update={"interest_half_life_d": 0.5, "day_night": 0.0})
    world = World(quick)
    before, old_lists = world.interest.copy(), world.best(EVERYBODY, 10)
    values, cosines = [expected(world, old_lists)], []
    for _ in range(2):
        passed(world, 720)
        cosines.append(float((before * world.interest).sum(axis=1).mean()))
        values.append(expected(world, old_lists))
    assert cosines == pytest.approx([0.5, 0.25], abs=0.1)
    assert values[0] > values[1] > values[2]
    assert expected(world, world.best(EVERYBODY, 10)) > values[2]
    np.testing.assert_allclose(np.linalg.norm(world.interest, axis=1), 1.0, rtol=1e-5)


def test_taste_follows_the_time_of_day() -> None:
    world, flat = World(STILL), World(STILL.model_copy(update={"day_night": 0.0}))
    midnight, flat_midnight = world.best(EVERYBODY, 10), flat.best(EVERYBODY, 10)
    passed(world, 720), passed(flat, 720)
    noon, flat_noon = world.best(EVERYBODY, 10), flat.best(EVERYBODY, 10)
    assert (flat_noon == flat_midnight).all()
    assert expected(world, noon) > 1.05 * expected(world, midnight)
    passed(world, 720)
    assert (world.best(EVERYBODY, 10) == midnight).all()  # the same again a day later
    assert activity(20.0) > 3 * activity(5.0) > 0
    assert np.mean([activity(hour / 4) for hour in range(96)]) == pytest.approx(1.0)


def test_items_are_born_evenly_in_order_and_trend_up_and_down() -> None:
    world = World(SMALL)
    counts = [world.items.count]
    for _ in range(1440):
        world.advance()
        counts.append(world.items.count)
        assert world.items.born_ms[-1] <= world.now_ms
    assert counts[-1] - counts[0] == 480
    assert max(np.diff(counts)) == 1
    born = world.items.born_ms
    assert (np.diff(born) >= 0).all()
    assert born[0] >= SMALL.start_ms - 30 * DAY_MS
    now_ms, item = world.now_ms, np.array([2])
    world.items.begin_trends(item, np.array([3.0]), now_ms)
    quality = world.items.column("quality")[2]
    rise_ms = round(SMALL.trend_rise_h * HOUR_MS)
    gains = [world.items.appeal(now_ms + rise_ms * x)[2] - quality for x in (0, 1, 2, 8)]
    assert gains[0] == pytest.approx(0.0, abs=1e-6)
    assert gains[1] == pytest.approx(3.0, rel=1e-5)
    assert gains[1] > gains[2] > gains[3] > 0
