"""The steps of an answer: what is asked of the channels and stages, one batch of calls after another.

`steps` says what to call and is sent what came back, so that the server can make the calls of a step in lanes
with limits (serving/gather.py) and a test in one thread. It is pure: no clock, no I/O, no state.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from serving.asking import Asking
from serving.caps import Caps
from serving.channels.contract import Ranking
from serving.channels.names import EXPLORE
from serving.exploration import Spread
from serving.filters import HeldBack
from serving.fusion import Found, Fused, all_keys, blended, fuse
from serving.places import admitted, placed
from serving.stages import Rejected, Staged

CAPS = "caps"


@dataclass(frozen=True)
class Step:
    """Calls by name of channel or stage, and how long to wait for each."""

    calls: Mapping[str, Callable[[], Any]]
    limits_s: Mapping[str, float]


@dataclass(frozen=True)
class Chosen:
    """What the channels gave, what the stages made of it, and the items of the answer with the caps as they
    left them; held: what Bloom filters held back.
    """

    rankings: Mapping[str, Ranking]
    staged: Staged
    fused: list[Fused]
    caps: Caps
    held: HeldBack

    @property
    def turned_down(self) -> list[Rejected]:
        """What the stages rejected and nothing brought back."""
        there = {one.key for one in self.fused}
        return [one for one in self.staged.rejected if one.key not in there]


Steps = Generator[Step, Mapping[str, Any], Chosen]
Fusing = Generator[Step, Mapping[str, Any], list[Fused]]
Staging = Generator[Step, Mapping[str, Any], Staged]
Exploring = Generator[Step, Mapping[str, Any], tuple[Ranking, list[Fused]]]
Answering = Generator[Step, Mapping[str, Any], dict[str, Ranking]]


def steps(asking: Asking) -> Steps:
    """Ask, fuse, stage, choose. A call that is not among what is sent back is done without."""
    caps, held, k = asking.caps, asking.held_back, asking.request.k
    rankings = yield from _candidates(asking, list(asking.sources), held)
    merged = yield from _fused(asking, rankings, None if caps.most else asking.depth)
    staged = yield from _staged(asking, merged)
    drawn, explored = yield from _explored(asking, staged.order[:k], caps, held)
    order, others = staged.order, rankings
    if taken := {one.key for one in explored}:
        order = [one for one in order if one.key not in taken]
        others = {name: [one for one in ranking if one[0] not in taken] for name, ranking in rankings.items()}
    fused = placed(order, asking.channels, others, k - len(explored), caps)
    chosen = Chosen(rankings, staged, [*fused, *explored], caps, held)
    if caps.most and len(chosen.fused) < k:
        chosen = yield from _refilled(asking, chosen)
    if asking.explore is None:
        return chosen
    fused = [one for one in chosen.fused if one.key not in taken]
    spread = Spread(asking.explore.config.after, asking.explore.request_id).over(fused, explored)
    return replace(chosen, rankings={**chosen.rankings, EXPLORE: drawn}, fused=spread)


def run(steps: Steps) -> Chosen:
    """Make the calls one after another."""
    step = next(steps)
    while True:
        answers = {name: call() for name, call in step.calls.items()}
        try:
            step = steps.send(answers)
        except StopIteration as done:
            chosen: Chosen = done.value
            return chosen


def _candidates(asking: Asking, names: Sequence[str], held: HeldBack) -> Answering:
    """The best k of these channels that nothing holds back, or all that it has.

    A channel is asked for twice as many where there are filters to test them by, and again, without what was
    held back, for twice as many every time, until it has given k or has no more.
    """
    k = asking.k
    wanted = dict.fromkeys(names, 2 * k if held else k)
    hidden: dict[str, set[str]] = {}
    rankings: dict[str, Ranking] = {}
    while wanted:
        found = yield Step(asking.candidate_calls(wanted, hidden), asking.limits_s)
        if not held:
            return dict(found)
        out = held.among({key for ranking in found.values() for key, _ in ranking})
        again = {}
        for name, ranking in found.items():
            rankings[name] = rankings.get(name, []) + [one for one in ranking if one[0] not in out]
            if len(rankings[name]) < k and len(ranking) >= wanted[name]:
                again[name] = 2 * wanted[name]
                hidden[name] = held.keys | {key for key, _ in rankings[name]}
            rankings[name] = rankings[name][:k]
        wanted = again
    return rankings


def _fused(asking: Asking, rankings: Mapping[str, Ranking], k: int | None) -> Fusing:
    """The channels' candidates as one list of at most k."""
    most = sum(len(ranking) for ranking in rankings.values()) if k is None else k
    if asking.blend is None:
        return fuse(asking.fusion, asking.channels, rankings, most)
    keys = all_keys(rankings)
    scores = yield Step(asking.score_calls(keys), asking.limits_s)
    return blended(asking.blend, rankings, keys, {**scores, **asking.counted(keys)}, most)


def _staged(asking: Asking, merged: list[Fused]) -> Staging:
    """A merged list after the stages."""
    staged = Staged(merged, {})
    for place, (name, stage, _) in enumerate(asking.stages):
        call = {name: asking.stage_call(place, staged.order)}
        ranked = yield Step(call, {name: stage.timeout_ms / 1000})
        if name in ranked:
            staged = staged.then(name, stage.candidates, ranked[name], asking.keep(place))
    return staged


def _explored(asking: Asking, first: Sequence[Fused], caps: Caps, held: HeldBack) -> Exploring:
    """All that was drawn, and the best draws for the places that are explored, none of which the list would
    have brought anyway. They come first under the caps.
    """
    drawn: Ranking = []
    explored: list[Fused] = []
    if asking.explore is None:
        return drawn, explored
    k, listed = asking.request.k, {one.key for one in first}
    places, more = asking.explore.config.places(k), 2 * k
    while len(explored) < places:
        found = yield Step(asking.explore_call(asking.explore, more), asking.limits_s)
        ranking = found.get(EXPLORE, [])
        new = {key: rank for rank, (key, _) in enumerate(ranking) if rank >= len(drawn) and key not in listed}
        out = held.among(new) if held else set()
        chosen = caps.admit([key for key in new if key not in out], places - len(explored))
        explored += [Fused(key, 0.0, (Found(EXPLORE, ranking[new[key]][1], new[key]),)) for key in chosen]
        drawn = ranking or drawn
        if len(ranking) < more:
            break
        more *= 2
    return drawn, explored


def _refilled(asking: Asking, chosen: Chosen) -> Steps:
    """An answer that caps left short, with what the channels have beyond it: until it is full or they have no
    more. Every round asks for twice as many, and for none that caps would turn away again. The stages order
    what it brings; it stands behind what came before.
    """
    staged, rankings, fused, caps, held = (
        chosen.staged,
        dict(chosen.rankings),
        list(chosen.fused),
        chosen.caps,
        chosen.held,
    )
    k, rounds = asking.request.k, 0
    open_ = [name for name, ranking in rankings.items() if len(ranking) >= asking.k]
    while len(fused) < k and open_:
        rounds += 1
        more = (k - len(fused)) << rounds
        # Masking takes long over very many items, so it has a lane and a limit too.
        calls = {CAPS: partial(asking.beyond, fused, caps, held, more)}
        made = yield Step(calls, {CAPS: asking.config.channel_timeout_ms / 1000})
        if CAPS not in made:
            break
        beyond: Asking = made[CAPS]
        found = yield from _candidates(beyond, open_, held)
        later = yield from _staged(beyond, (yield from _fused(beyond, found, None)))
        fused += admitted([_ranked_on(one, rankings) for one in later.order], k - len(fused), caps)
        staged = staged.and_later(later)
        rankings |= {name: rankings[name] + ranking for name, ranking in found.items()}
        open_ = [name for name, ranking in found.items() if len(ranking) >= more]
    return Chosen(rankings, staged, fused, caps, held)


def _ranked_on(one: Fused, before: Mapping[str, Sequence[object]]) -> Fused:
    """An item with its ranks behind what its channels gave before."""
    found = [Found(by.channel, by.score, len(before[by.channel]) + by.rank) for by in one.found]
    return Fused(one.key, one.value, tuple(found), one.features)
