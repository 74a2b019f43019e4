"""Making one ranking of several channels' rankings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
Ranked = Sequence[tuple[str, T]]


def snake_merge(channels: Sequence[Ranked[T]], k: int) -> list[tuple[int, int]]:
    """The first k distinct keys, the channels taking turns in a snake (a b, b a, a b, …).

    channels: rankings of (key, anything), best first, keys distinct in each. Returns (channel, place in it)
    of every pick. A channel whose turn it is skips what was already taken; an exhausted one is passed over.
    """
    if len(channels) == 1:
        return [(0, place) for place in range(min(k, len(channels[0])))]
    taken: set[str] = set()
    next_place = [0] * len(channels)
    picks: list[tuple[int, int]] = []
    turn = 0
    open_channels = sum(1 for ranked in channels if ranked)
    while open_channels and len(picks) < k:
        order = range(len(channels)) if turn % 2 == 0 else range(len(channels) - 1, -1, -1)
        turn += 1
        for channel in order:
            ranked, place = channels[channel], next_place[channel]
            if place >= len(ranked):
                continue
            while place < len(ranked) and ranked[place][0] in taken:
                place += 1
            if place < len(ranked):
                taken.add(ranked[place][0])
                picks.append((channel, place))
                place += 1
            next_place[channel] = place
            if place >= len(ranked):
                open_channels -= 1
            if len(picks) == k:
                break
    return picks
