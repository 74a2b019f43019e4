"""From lists to events: against plain loops, and what may never happen."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from deploy.simulate.actions import KINDS, Actions, Pending, joined
from deploy.simulate.behaviour import FATES, PLACE_MS, BadList, answer
from deploy.simulate.config import HOUR_MS, WorldConfig
from deploy.simulate.randomness import Stream, generator
from deploy.simulate.recommenders import Oracle, Random
from deploy.simulate.world import World
from models.arrays import Int64Array

CONFIG = WorldConfig(users=50, items=400, dims=8, authors=40, categories=6, purchase_share=0.4, bias=-2.0)


def asked(world: World, count: int = 40, k: int = 6) -> tuple[Int64Array, Int64Array, Int64Array]:
    users, ts_ms = world.visitors(float(count))
    return users, ts_ms, Oracle(world).lists(users + 1, {}, k, ts_ms)


def rows_of(actions: Actions) -> set[tuple[Any, ...]]:
    columns = (actions.row, actions.place, actions.user, actions.item, actions.kind, actions.ts_ms)
    values = [None if math.isnan(value) else value for value in actions.value.tolist()]
    return set(zip(*(column.tolist() for column in columns), values, strict=True))


def by_plain_loops(
    world: World, users: Int64Array, ts_ms: Int64Array, served: Int64Array
) -> set[tuple[Any, ...]]:
    config, items = world.config, world.items
    fates = generator(config.seed, Stream.BEHAVIOUR, world.step).random((*served.shape, FATES))
    found: set[tuple[Any, ...]] = set()
    for row in range(len(users)):
        for place in range(served.shape[1]):
            if served[row, place] == 0:
                continue
            user, item = int(users[row]), int(served[row, place]) - 1
            seen_ms = int(ts_ms[row]) + PLACE_MS * place
            key = (row, place, user, item)
            found.add((*key, KINDS.index("impression"), seen_ms, None))
            click, reaction, watch, like, like_at, buy, buy_at = fates[row, place].tolist()
            logit = float(world.logits(users[row : row + 1], served[row : row + 1].clip(1) - 1)[0, place])
            if click >= (1 + place) ** -config.position_bias / (1 + math.exp(-logit)):
                continue
            duration = int(items.column("duration_ms")[item])
            odds = 0.5 * (logit - config.bias - 2.0) + math.log(watch / (1 - watch))
            share = min(1.0, 1.2 / (1 + math.exp(-odds)))
            watched = math.ceil(share * duration)
            click_ms = seen_ms + 200 + math.floor(-4000 * math.log1p(-reaction))
            happened = [("click", click_ms, None), ("view", click_ms + watched, float(watched))]
            if watched >= min(duration, config.long_view_ms):
                happened.append(("long_view", click_ms + watched, float(watched)))
            if like < 1 / (1 + math.exp(-logit - config.like_logit)):
                happened.append(("like", click_ms + math.floor(like_at * watched), None))
            if buy < config.purchase_share * share:
                delay = int(-config.purchase_delay_h * HOUR_MS * math.log1p(-buy_at))
                happened.append(("purchase", click_ms + delay, float(items.column("price")[item])))
            for kind, moment, value in happened:
                if moment <= int(ts_ms[row]) + config.horizon_h * HOUR_MS:
                    found.add((*key, KINDS.index(kind), moment, value))
    return found


def test_a_minute_equals_plain_loops() -> None:
    world = World(CONFIG.model_copy(update={"horizon_h": 2.0}))
    users, ts_ms, served = asked(world)
    served[3, 2:] = 0  # a short list
    expected = by_plain_loops(world, users, ts_ms, served)
    answered = answer(world, users, ts_ms, served)
    assert rows_of(answered.actions) == expected
    assert len(answered.actions) == len(expected)
    assert {KINDS[row[4]] for row in expected} == set(KINDS)


def test_nothing_follows_without_what_comes_before_it() -> None:
    world = World(CONFIG)
    for _ in range(20):
        actions = answer(world, *asked(world)).actions
        moments = {
            kind: {
                key: ts
                for key, ts, of in zip(
                    zip(actions.row.tolist(), actions.place.tolist(), strict=True),
                    actions.ts_ms.tolist(), actions.kind.tolist(), strict=True,
                )
                if KINDS[of] == kind
            }
            for kind in KINDS
        }  # fmt: skip
        assert all(ts > moments["impression"][key] for key, ts in moments["click"].items())
        for kind in KINDS[2:]:
            assert all(ts >= moments["click"][key] for key, ts in moments[kind].items())
        assert moments["long_view"].keys() <= moments["view"].keys()
        assert actions.ts_ms.max() <= world.now_ms + 60_000 + CONFIG.horizon_h * HOUR_MS
        world.advance()


def test_clicks_come_as_often_as_expected_and_less_further_down() -> None:
    world, places, total, expected = World(CONFIG), np.zeros(6), 0, 0.0
    for _ in range(60):
        users, ts_ms = world.visitors(200.0)
        answered = answer(world, users, ts_ms, Random(world).lists(users + 1, {}, 6, ts_ms))
        clicks = answered.actions.where(answered.actions.kind == KINDS.index("click"))
        places += np.bincount(clicks.place, minlength=6)
        total, expected = total + len(clicks), expected + float(answered.expected.sum())
        world.advance()
    assert total == pytest.approx(expected, abs=4 * math.sqrt(expected))
    np.testing.assert_allclose(places / places[0], (1 + np.arange(6)) ** -0.5, rtol=0.12)


def test_equal_lists_give_equal_bytes_and_luck_is_shared_between_lists() -> None:
    one, other = World(CONFIG), World(CONFIG)
    users, ts_ms, served = asked(one)
    first = answer(one, users, ts_ms, served).actions.in_order().table(7)
    assert first.equals(answer(other, users, ts_ms, served).actions.in_order().table(7))
    third = World(CONFIG)
    others = served.copy()
    others[0] = 0  # what one user was served changes nothing for the others
    rest = answer(third, users, ts_ms, others).actions
    mine = answer(World(CONFIG), users, ts_ms, served).actions
    assert rows_of(rest) == rows_of(mine.where(mine.row != 0))


def test_bad_lists_are_refused_with_what_was_expected() -> None:
    world = World(CONFIG)
    users, ts_ms, served = asked(world)
    twice = served.copy()
    twice[0, 1] = twice[0, 0]
    for bad, message in (
        (served[1:], "expected int64"),
        (served.astype(np.float32), "got float32"),
        (np.full_like(served, world.items.count + 1), "1 to 400"),
        (-served, "1 to 400"),
        (twice, "twice in a list"),
    ):
        with pytest.raises(BadList, match=message):
            answer(world, users, ts_ms, bad)


def test_what_waits_comes_out_once_and_in_order() -> None:
    world, pending, out = World(CONFIG), Pending(), []
    put = [answer(world, *asked(world)).actions for _ in range(3)]
    for end_ms, actions in zip((60_000, 120_000, 10**9), put, strict=True):
        pending.add(actions)
        out.append(pending.until(world.config.start_ms + end_ms))
        assert (out[-1].ts_ms < world.config.start_ms + end_ms).all()
    assert len(pending) == 0
    assert len(joined(out)) == len(joined(put))
    assert all((np.diff(part.ts_ms) >= 0).all() for part in out)
    assert len(joined([])) == 0
