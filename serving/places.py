"""Which items of the fused list take the places of an answer: under caps, with what channels are owed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from serving.caps import Caps
from serving.channels.contract import Ranking
from serving.fusion import Fused, said_of
from serving.fusion_config import ChannelConfig


def admitted(fused: Sequence[Fused], k: int, caps: Caps) -> list[Fused]:
    """The first k of the list that caps admit."""
    if not caps.most:
        return list(fused[:k])
    by_key = {one.key: one for one in fused}
    return [by_key[key] for key in caps.admit(by_key, k)]


def placed(
    fused: Sequence[Fused],
    channels: Mapping[str, ChannelConfig],
    rankings: Mapping[str, Ranking],
    k: int,
    caps: Caps,
) -> list[Fused]:
    """The first k of the list that caps admit, with at least its `guaranteed` items of every channel, as far
    as the channel has them.

    They take the last places that no guarantee holds, in the order of the list; the first places stay. Caps
    hold for them as for all.
    """
    owed = {name: channels[name].guaranteed for name in rankings if name in channels}
    if not any(owed.values()):
        return admitted(fused, k, caps)
    listed = {one.key for one in admitted(fused, k, caps.trial())}
    held, joined = _reserved(owed, rankings, listed, caps.trial())
    caps.admit([*held, *joined], len(held) + len(joined))
    room = max(k - len(held) - len(joined), 0)
    rest = [one for one in fused if one.key not in held and one.key not in joined]
    free = {one.key for one in admitted(rest, room, caps)}
    said = said_of(rankings)
    last = []
    for key, name in joined.items():
        first = next(one for one in said[key] if one.channel == name)
        last.append(Fused(key, 0.0, (first, *(one for one in said[key] if one.channel != name))))
    return [*(one for one in fused if one.key in free or one.key in held), *last][:k]


def _reserved(
    owed: Mapping[str, int], rankings: Mapping[str, Ranking], listed: set[str], caps: Caps
) -> tuple[dict[str, str], dict[str, str]]:
    """Items that guarantees hold, with the channel: those that are listed, and those that join."""
    held: dict[str, str] = {}
    joined: dict[str, str] = {}
    for name, least in owed.items():
        mine = [key for key, _ in rankings[name]]
        there = [key for key in mine if key in listed or key in joined]
        others = [key for key in mine if key not in listed and key not in joined]
        count = 0
        for key in (*there, *others) if least else ():
            if count == least:
                break
            if key in held or key in joined or caps.admit([key], 1):
                count += 1
                (held if key in listed else joined).setdefault(key, name)
    return held, joined
