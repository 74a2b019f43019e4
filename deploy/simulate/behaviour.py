"""From served lists to what users do with them: one call per minute, whole arrays, no loop over events.

Each (request, place) has FATES uniform numbers, drawn whether they are needed or not: the same user at the
same place is equally lucky with every list, which makes comparisons of recommenders paired. Shapes as in
world.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deploy.simulate.actions import CLICK, IMPRESSION, LIKE, LONG_VIEW, PURCHASE, VIEW, Actions, joined
from deploy.simulate.config import HOUR_MS, MINUTE_MS, WorldConfig
from deploy.simulate.randomness import Stream, generator
from deploy.simulate.world import World
from models.arrays import Float64Array, Int64Array

FATES = 7
_CLICK, _REACTION, _WATCH, _LIKE, _LIKE_AT, _BUY, _BUY_AT = range(FATES)
PLACE_MS = 1_000
"""An item comes into sight so long after the one above it."""
_REACTION_MS = 4_000.0


class BadList(ValueError):
    """A served list is not of the form that was asked for."""


@dataclass(frozen=True)
class Answered:
    """actions: all that follows from the lists, in no order; expected: the clicks to expect of each list
    before any luck, float64[n].
    """

    actions: Actions
    expected: Float64Array


def answer(world: World, users: Int64Array, ts_ms: Int64Array, served: Int64Array) -> Answered:
    """Let users int64[n] at ts_ms int64[n] see the item IDs served int64[n, k], 0 = none; `world.clicked`
    hears of the clicks.

    Raises BadList for unknown items and for one that stands twice in a list.
    """
    check(world, users, served)
    fate = generator(world.config.seed, Stream.BEHAVIOUR, world.step).random((*served.shape, FATES))
    shown = served > 0
    items = np.maximum(served - 1, 0)
    logit = world.logits(users, items).astype(np.float64)
    probability = click_probability(logit, world.config) * shown
    clicks = fate[:, :, _CLICK] < probability
    row, place = np.nonzero(shown)
    seen_ms = ts_ms[row] + PLACE_MS * place
    minute = np.full(len(row), world.now_ms // MINUTE_MS)
    item, nothing = items[row, place], np.full(len(row), np.nan)
    kind = np.full(len(row), IMPRESSION)
    impressions = Actions(seen_ms, users[row], item, kind, minute, row, place, nothing)
    clicked = clicks[row, place]
    follows = _after_clicks(world, impressions.where(clicked), fate[clicks], logit[clicks])
    world.clicked(users[row][clicked], item[clicked])
    return Answered(joined([impressions, *follows]), probability.sum(axis=1))


def click_probability(logit: Float64Array, config: WorldConfig) -> Float64Array:
    """P(click) float64[n, k] = P(seen at place j) * sigmoid(logit at place j), the position-based model."""
    seen = (1.0 + np.arange(logit.shape[1])) ** -config.position_bias
    return np.asarray(seen * sigmoid(logit))


def check(world: World, users: Int64Array, served: Int64Array) -> None:
    """Raise BadList unless served is int64[n, k] of IDs of items that are there, none twice in a list."""
    if served.ndim != 2 or len(served) != len(users) or served.dtype != np.int64:
        raise BadList(
            f"served lists: expected int64[{len(users)}, k], got {served.dtype}{list(served.shape)}; "
            "fill short lists with 0"
        )
    if served.size and (served.min() < 0 or served.max() > world.items.count):
        raise BadList(
            f"served lists: expected item IDs 1 to {world.items.count} (0 = none), got {served.min()} to "
            f"{served.max()}; items appear when they are born"
        )
    ordered = np.sort(served, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] > 0)
    if twice.any():
        raise BadList(
            f"served lists: expected distinct items, got {ordered[:, 1:][twice][0]} twice in a list"
        )


def sigmoid(x: Float64Array) -> Float64Array:
    """1 / (1 + exp(-x))."""
    return np.asarray(1.0 / (1.0 + np.exp(-x)))


def _after_clicks(world: World, seen: Actions, fate: Float64Array, logit: Float64Array) -> list[Actions]:
    """Clicks and what comes after them. seen: the impressions [m] that are clicked; fate [m, FATES]."""
    config = world.config
    last_ms = (seen.ts_ms - PLACE_MS * seen.place) + round(config.horizon_h * HOUR_MS)
    duration = world.items.column("duration_ms")[seen.item].astype(np.float64)
    fate = np.clip(fate, 1e-12, 1 - 1e-12)
    # Watched share: the odds follow the liking, with logistic noise; many watch to the end.
    luck = np.log(fate[:, _WATCH] / (1 - fate[:, _WATCH]))
    share = np.minimum(1.0, 1.2 * sigmoid(0.5 * (logit - config.bias - 2.0) + luck))
    watch_ms = np.ceil(share * duration)
    click_ms = seen.ts_ms + 200 + np.floor(-_REACTION_MS * np.log1p(-fate[:, _REACTION])).astype(np.int64)
    end_ms = click_ms + watch_ms.astype(np.int64)
    like_ms = click_ms + np.floor(fate[:, _LIKE_AT] * watch_ms).astype(np.int64)
    delay_ms = -config.purchase_delay_h * HOUR_MS * np.log1p(-fate[:, _BUY_AT])
    price = world.items.column("price")[seen.item]
    everybody = np.ones(len(seen), bool)
    happened = (
        (CLICK, everybody, click_ms, None),
        (VIEW, everybody, end_ms, watch_ms),
        (LONG_VIEW, watch_ms >= np.minimum(duration, config.long_view_ms), end_ms, watch_ms),
        (LIKE, fate[:, _LIKE] < sigmoid(logit + config.like_logit), like_ms, None),
        (
            PURCHASE,
            fate[:, _BUY] < config.purchase_share * share,
            click_ms + delay_ms.astype(np.int64),
            price,
        ),
    )
    return [_of(seen, kind, did & (ts_ms <= last_ms), ts_ms, value) for kind, did, ts_ms, value in happened]


def _of(seen: Actions, kind: int, did: np.ndarray, ts_ms: Int64Array, value: Float64Array | None) -> Actions:
    chosen, count = seen.where(did), int(did.sum())
    values = np.full(count, np.nan) if value is None else value[did]
    kinds = np.full(count, kind)
    return Actions(
        ts_ms[did], chosen.user, chosen.item, kinds, chosen.minute, chosen.row, chosen.place, values
    )
