"""Making one ranking of several channels' rankings. Pure and deterministic.

| method | order of the answer |
|---|---|
| blend | every channel scores all candidates, and fitted weights add up what they say (models/blend.py) |
| snake | the channels take turns (a b, b a, a b, …), each with its best item that is not yet there |
| quota | the same, but a channel whose quota is full passes; when all are, the rest follows in turns |
| rrf | sum over channels of weight / (c + rank), rank from 1 (Cormack et al., SIGIR 2009) |
| weighted | sum over channels of weight * calibrated score: the best of a channel 1, its last 0, others 0 |

Equal sums: the item that an earlier channel named, then its rank there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from models.arrays import Float32Array
from models.blend import Blend, blend_features
from serving.channels.contract import Ranking
from serving.fusion_config import ChannelConfig, FusionConfig

_DEFAULT = ChannelConfig()


class Found(msgspec.Struct, frozen=True, gc=False):
    """One channel's say on an item; rank from 0."""

    channel: str
    score: float
    rank: int


class Fused(msgspec.Struct, frozen=True, eq=False):
    """An item of the merged ranking. found: what the channels said, first the one whose place it took (snake,
    quota), that gave it most (rrf, weighted) or ranked it best (blend); value: what it was ordered by, 0 for
    snake and quota; features: float32[2C] of a blend, which its value is the weighted sum of.
    """

    key: str
    value: float
    found: tuple[Found, ...]
    features: Float32Array | None = None

    def __eq__(self, other: object) -> bool:
        """All but the features, which the rest follows from."""
        if not isinstance(other, Fused):
            return NotImplemented
        return (self.key, self.value, self.found) == (other.key, other.value, other.found)

    def __hash__(self) -> int:
        """Of what is compared."""
        return hash((self.key, self.value, self.found))


def fuse(
    config: FusionConfig, channels: Mapping[str, ChannelConfig], rankings: Mapping[str, Ranking], k: int
) -> list[Fused]:
    """At most k distinct items of the rankings (by channel, in the order of their importance), best first.

    channels: settings by name; a channel that is not there has the defaults.
    """
    settings = [channels.get(name, _DEFAULT) for name in rankings]
    if config.method in ("blend", "snake", "quota"):  # blend: while there is none
        quotas = [one.quota if config.method == "quota" and one.quota is not None else k for one in settings]
        return _in_turns(rankings, quotas, k)
    if config.method == "rrf":
        values = [
            [one.weight / (config.rrf_constant + place) for place in range(1, len(ranking) + 1)]
            for one, ranking in zip(settings, rankings.values(), strict=True)
        ]
    else:
        values = [
            [one.weight * score for score in calibrated(ranking)]
            for one, ranking in zip(settings, rankings.values(), strict=True)
        ]
    return _by_sum(rankings, values, k)


def blended(
    blend: Blend,
    rankings: Mapping[str, Ranking],
    keys: Sequence[str],
    scores: Mapping[str, Float32Array],
    k: int,
) -> list[Fused]:
    """At most k of the rankings' items by a fitted blend, best first.

    keys: all_keys(rankings); scores: channel -> float32[len(keys)], of the channels that answered. One that
    is missing moves nobody; one that the blend does not know has no weight.
    """
    nothing = np.full(len(keys), -np.inf, np.float32)
    scores_CN = np.array([scores.get(name, nothing) for name in blend.channels], np.float32)
    features_NF = blend_features(scores_CN.reshape(len(blend.channels), len(keys)))
    values: Float32Array = features_NF @ blend.weights
    said = said_of(rankings)
    return [
        Fused(
            keys[at],
            float(values[at]),
            tuple(sorted(said[keys[at]], key=lambda one: one.rank)),
            features_NF[at],
        )
        for at in np.argsort(-values, kind="stable")[:k]
    ]


def all_keys(rankings: Mapping[str, Ranking]) -> list[str]:
    """Every item of the rankings once, in an order that depends on nothing else."""
    return sorted({key for ranking in rankings.values() for key, _ in ranking})


def calibrated(ranking: Ranking) -> list[float]:
    """Scores moved to 1 for the best and 0 for the last; 1 each where all are equal."""
    if not ranking:
        return []
    best, last = ranking[0][1], ranking[-1][1]
    if best <= last:
        return [1.0] * len(ranking)
    return [(score - last) / (best - last) for _, score in ranking]


def snake_merge(rankings: Sequence[Ranking], quotas: Sequence[int], k: int) -> list[tuple[int, int]]:
    """(channel, place in it) of the first k distinct keys, the channels taking turns.

    A channel whose turn it is skips what was already taken; an exhausted or full one is passed over.
    """
    taken: set[str] = set()
    picks: list[tuple[int, int]] = []
    next_place = [0] * len(rankings)
    left = list(quotas)
    order = range(len(rankings))
    turn = 0
    while len(picks) < k:
        before = len(picks)
        for channel in order if turn % 2 == 0 else reversed(order):
            ranking, place = rankings[channel], next_place[channel]
            while place < len(ranking) and ranking[place][0] in taken:
                place += 1
            if place < len(ranking) and left[channel] > 0 and len(picks) < k:
                taken.add(ranking[place][0])
                picks.append((channel, place))
                left[channel] -= 1
                place += 1
            next_place[channel] = place
        if len(picks) == before:
            break
        turn += 1
    return picks


def _in_turns(rankings: Mapping[str, Ranking], quotas: Sequence[int], k: int) -> list[Fused]:
    names, lists = list(rankings), list(rankings.values())
    if len(names) == 1:  # a quota leaves nothing out: what is beyond it follows
        (name,), (ranking,) = names, lists
        return [
            Fused(key, 0.0, (Found(name, score, place),)) for place, (key, score) in enumerate(ranking[:k])
        ]
    picks = snake_merge(lists, quotas, k)
    if len(picks) < k and any(quota < k for quota in quotas):
        taken = {lists[channel][place][0] for channel, place in picks}
        rest = [[entry for entry in ranking if entry[0] not in taken] for ranking in lists]
        places = [[at for at, entry in enumerate(ranking) if entry[0] not in taken] for ranking in lists]
        more = snake_merge(rest, [k] * len(lists), k - len(picks))
        picks += [(channel, places[channel][place]) for channel, place in more]
    said = said_of(rankings)
    fused = []
    for channel, place in picks:
        key = lists[channel][place][0]
        first = Found(names[channel], lists[channel][place][1], place)
        others = tuple(one for one in said[key] if one.channel != first.channel)
        fused.append(Fused(key, 0.0, (first, *others)))
    return fused


def _by_sum(rankings: Mapping[str, Ranking], values: Sequence[Sequence[float]], k: int) -> list[Fused]:
    sums: dict[str, float] = {}
    most: dict[str, tuple[float, Found]] = {}
    for (name, ranking), given in zip(rankings.items(), values, strict=True):
        for rank, ((key, score), value) in enumerate(zip(ranking, given, strict=True)):
            sums[key] = sums.get(key, 0.0) + value
            if key not in most or value > most[key][0]:
                most[key] = (value, Found(name, score, rank))
    best = sorted(sums, key=lambda key: -sums[key])[:k]  # stable: earlier channels, better ranks first
    said = said_of(rankings)
    return [
        Fused(
            key,
            sums[key],
            (most[key][1], *(one for one in said[key] if one.channel != most[key][1].channel)),
        )
        for key in best
    ]


def said_of(rankings: Mapping[str, Ranking]) -> dict[str, list[Found]]:
    """Item -> what every channel that named it said, in the order of the channels."""
    said: dict[str, list[Found]] = {}
    for name, ranking in rankings.items():
        for rank, (key, score) in enumerate(ranking):
            said.setdefault(key, []).append(Found(name, score, rank))
    return said
