"""From a request, a profile and one snapshot to the questions: who is asked, for how much, for how long."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from models.arrays import Float32Array
from models.blend import Blend
from serving.caps import Caps
from serving.channels.contract import Ask, Ranking, Source
from serving.channels.editorial import Lists
from serving.channels.explore import ExploreSource
from serving.channels.names import EXPLORE, POPULAR_NOW, POPULARITY, SAME
from serving.channels.of_snapshot import sources_of
from serving.config import ServingConfig
from serving.eligible import Eligible, eligible
from serving.filters import HeldBack, barred
from serving.fusion import Fused
from serving.fusion_config import CANDIDATES, ChannelConfig, FusionConfig, SceneConfig, StageConfig
from serving.live_counts import LiveCounts
from serving.popular_now import PopularItems, PopularNow
from serving.profile import NO_PROFILE, Profile
from serving.schema import RecallRequest
from serving.snapshot import Snapshot
from serving.stages import PRERANK, RANK, CandidateRanker, ServedRanker
from serving.validation import key_text
from stream.seen import BloomSeen

_CONFIG = ServingConfig()
_NO_SCENE = SceneConfig()
_NO_LISTS: Lists = {}
_EVERYBODY, _COLD, _NOBODY = ChannelConfig(), ChannelConfig(users="cold"), ChannelConfig(users="nobody")


@dataclass(frozen=True)
class Live:
    """Readings of the store, beside the snapshot; None where they are not followed."""

    popular: PopularNow | None = None
    counts: LiveCounts | None = None


NOT_FOLLOWED = Live()


@dataclass(frozen=True)
class Asking:
    """One request, ready for the channels.

    items: what may be answered, of one snapshot; sources: channels to ask, in the order of their importance;
    k: how many candidates of each; limits_s: how long to wait for each. stages: name, settings and ranker of
    those that are on and whose ranker is there; missing: what is wanted and not there. popular: the live
    lists of what is popular that fit the request, the best one first; popular_missing: why the channel
    popular_now does with the snapshot's, "" = it need not.
    """

    items: Eligible
    request: RecallRequest
    ask: Ask
    filters: Mapping[str, set[str]]
    cold: bool
    config: ServingConfig
    editorial: Lists
    sources: Mapping[str, Source]
    k: int
    limits_s: Mapping[str, float]
    fusion: FusionConfig
    channels: Mapping[str, ChannelConfig]
    most: Mapping[str, int]
    """Caps: item attribute -> most items of the same value, 0 = any."""
    stages: Sequence[tuple[str, StageConfig, ServedRanker | CandidateRanker]] = ()
    missing: Sequence[str] = ()
    popular: Sequence[PopularItems] = ()
    popular_missing: str = ""
    seen: Sequence[BloomSeen] = ()
    """Filters that candidates are tested against."""
    explore: ExploreSource | None = None
    """Draws the items that are explored, for users with little history."""
    counts: LiveCounts | None = None
    """How often items were taken and shown of late, None where it is not followed."""

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot, of which channels find only what may be answered."""
        return self.items.snapshot

    @property
    def only(self) -> str:
        """The one channel whose best k are the answer, "" where anything else has a say in it."""
        others = self.stages or self.most or self.seen or self.explore or self.request.explain
        return "" if others or len(self.sources) > 1 else next(iter(self.sources), "")

    @property
    def depth(self) -> int:
        """How many items of the fused list are wanted, where no caps turn any away."""
        return max([self.request.k, *(stage.candidates for _, stage, _ in self.stages[:1])])

    def keep(self, place: int) -> int:
        """How many items stage `place` hands on: what the next one looks at, or the answer."""
        following = self.stages[place + 1 : place + 2]
        return max([self.request.k, *(stage.candidates for _, stage, _ in following)])

    @property
    def blend(self) -> Blend | None:
        """As blend_of()."""
        return blend_of(self.snapshot, self.fusion, self.sources)

    @property
    def degraded(self) -> list[str]:
        """What had to be done without before any channel was asked."""
        instead = f"channel {POPULAR_NOW}: the version's popularity instead: {self.popular_missing}"
        drawn = f"channel {EXPLORE}: drawn from new items alone: no counts of items: "
        return [
            *self.missing,
            *([instead] if self.popular_missing else []),
            *([drawn + self.explore.missing] if self.explore and self.explore.missing else []),
        ]

    @property
    def caps(self) -> Caps:
        """The caps of an answer that is still empty."""
        return Caps(self.most, self.snapshot.attributes)

    @property
    def held_back(self) -> HeldBack:
        """What the filters hold back, of an answer that is still empty."""
        return HeldBack(self.seen, self.ask.ts_ms)

    def candidate_calls(
        self, wanted: Mapping[str, int], hidden: Mapping[str, Set[str]]
    ) -> dict[str, Callable[[], Ranking]]:
        """Channels asked for so many candidates each; hidden: items that a channel must leave out."""
        return {
            name: partial(
                self.sources[name].candidates,
                self.ask.without(hidden[name]) if name in hidden else self.ask,
                k,
            )
            for name, k in wanted.items()
        }

    def explore_call(self, source: ExploreSource, k: int) -> dict[str, Callable[[], Ranking]]:
        """What is asked of the channel explore."""
        return {EXPLORE: partial(source.candidates, self.ask, k)}

    def stage_call(self, place: int, order: Sequence[Fused]) -> Callable[[], Float32Array]:
        """What the ranker of a stage is asked."""
        _, stage, ranker = self.stages[place]
        if isinstance(ranker, CandidateRanker):
            return partial(ranker.scores, self.ask, order[: stage.candidates])
        return partial(ranker.scores, self.ask, [one.key for one in order[: stage.candidates]])

    def score_calls(self, keys: Sequence[str]) -> dict[str, Callable[[], Float32Array]]:
        """What a blend asks every channel then: what it says of all candidates."""
        return {name: partial(one.scores, self.ask, keys) for name, one in self.sources.items()}

    def counted(self, keys: Sequence[str]) -> dict[str, Float32Array]:
        """What a blend reads of the live counts, float32[n] by name; empty where it does not or there are
        none.
        """
        reads = self.blend is not None and self.blend.reads_counts
        return self.counts.scores(keys) if reads and self.counts else {}

    def beyond(self, fused: Sequence[Fused], caps: Caps, held: HeldBack, k: int) -> Asking:
        """The same request for what could still join an answer: k more of a channel, none whose value has no
        place left or that is held back.
        """
        items = self.items.without(caps.closed())
        asked = replace(self.ask.without({one.key for one in fused} | held.keys), gone=items.gone)
        had = [one.found[0].channel for one in fused]
        channels = {
            name: one.model_copy(update={"quota": max(one.quota - had.count(name), 0)})
            if one.quota is not None
            else one
            for name, one in self.channels.items()
        }
        every = sources_of(items, self.config, self.editorial, self.popular[0] if self.popular else None)
        sources = {name: every[name] for name in self.sources}  # a blend asks all of them about the new items
        return replace(self, items=items, ask=asked, sources=sources, channels=channels, k=k)


def ask(
    snapshot: Snapshot,
    request: RecallRequest,
    profile: Profile,
    ts_ms: int,
    config: ServingConfig = _CONFIG,
    editorial: Lists | None = None,
    live: Live = NOT_FOLLOWED,
    request_id: str = "",
) -> Asking:
    """What the channels are asked. request_id: what is drawn depends on it. Raises BadRequest for an ID that
    is none.
    """
    user = key_text(request.user_id, "$.user_id")
    exclude = {key_text(item, f"$.exclude[{at}]") for at, item in enumerate(request.exclude)}
    filters = barred(config.filters, profile, ts_ms, exclude, request.exclude_seen)
    excluded = set().union(*filters.values())
    named = request.context.get("scene", "")
    items, lists = eligible(snapshot, config.rules(named)), editorial or _NO_LISTS
    cold = not any(
        entry.kind in snapshot.history_kinds and entry.item_id and entry.ts_ms <= ts_ms
        for entry in reversed(profile.history)
    )
    popular = live.popular.of(request.context) if live.popular else []
    of = _PlanOf(config, lists, live.popular, live.counts, popular[0] if popular else None)
    plan = _plan(items, of, named, cold)
    explore = None
    if profile is not NO_PROFILE and _is_new(profile, ts_ms, config.exploration.below_events):
        fresh = items.snapshot.fresh
        explore = ExploreSource(config.exploration, fresh, live.counts, request_id, ts_ms)
    depth = max([request.k, *(stage.candidates for _, stage, _ in plan.stages[:1])])
    return Asking(
        items=items,
        request=request,
        ask=Ask(user, ts_ms, request.context, profile, excluded, items.gone),
        filters=filters,
        cold=cold,
        config=config,
        editorial=lists,
        sources=plan.sources,
        # Caps turn some away; more are asked for where that is too few.
        k=max(2 * depth if plan.capped else depth, plan.least),
        limits_s=plan.limits_s,
        fusion=plan.fusion,
        channels=plan.channels,
        most=plan.most,
        stages=plan.stages,
        missing=plan.missing,
        popular=popular,
        popular_missing=live.popular.missing if live.popular and POPULAR_NOW in plan.sources else "",
        seen=[one for one in profile.seen if isinstance(one, BloomSeen) and one.generations],
        explore=explore,
        counts=live.counts,
    )


@dataclass(frozen=True)
class Plan:
    """What is alike for all requests of a scene, for users with a history and without, while nothing is
    published: as in Asking. least: candidates of a channel at least; capped: whether caps turn any away.
    """

    sources: Mapping[str, Source]
    limits_s: Mapping[str, float]
    fusion: FusionConfig
    channels: Mapping[str, ChannelConfig]
    most: Mapping[str, int]
    stages: Sequence[tuple[str, StageConfig, ServedRanker | CandidateRanker]]
    missing: Sequence[str]
    least: int
    capped: bool


class _PlanOf(NamedTuple):
    """What a plan is made of, beside the items; each is replaced when it changes."""

    config: ServingConfig
    lists: Lists
    now: PopularNow | None
    counts: LiveCounts | None
    popular: PopularItems | None


def _plan(items: Eligible, of: _PlanOf, named: str, cold: bool) -> Plan:
    """Made once for what it is made of, then remembered with the items."""
    name = (named if named in of.config.scenes else "", cold)  # of what a client names, nothing is kept
    held = items.plans.get(name)
    if held is None or any(one is not other for one, other in zip(held[0], of, strict=True)):
        held = items.plans[name] = (of, _made_plan(items, of, name[0], cold))
    plan: Plan = held[1]
    return plan


def _made_plan(items: Eligible, of: _PlanOf, named: str, cold: bool) -> Plan:
    snapshot, config = items.snapshot, of.config
    scene = config.scenes.get(named, _NO_SCENE)
    fusion = scene.fusion or config.fusion
    channels = {**_for_newcomers(snapshot, fusion, of.now), **config.channels, **scene.channels}
    sources = _chosen(snapshot, sources_of(items, config, of.lists, of.popular), channels, cold)
    given = {name: channels[name].timeout_ms if name in channels else None for name in (*sources, EXPLORE)}
    blends = blend_of(snapshot, fusion, sources) is not None
    stages, missing = _stages(snapshot, config, blends, of.counts)
    if blends and snapshot.blend and snapshot.blend.reads_counts and (why := _uncounted(of.counts)):
        missing.append(f"blend: {why}")
    most = config.caps_in(named)
    deep = blends or fusion.method in ("rrf", "weighted")
    return Plan(
        sources,
        {name: (limit or config.channel_timeout_ms) / 1000 for name, limit in given.items()},
        fusion,
        channels,
        most,
        stages,
        missing,
        fusion.depth if deep else 0,
        bool(Caps(most, snapshot.attributes).most),
    )


def blend_of(snapshot: Snapshot, fusion: FusionConfig, sources: Mapping[str, Source]) -> Blend | None:
    """The fitted weights, None where they are not wanted, not there, or there is nothing to weigh."""
    return snapshot.blend if fusion.method == "blend" and len(sources) > 1 else None


def _is_new(profile: Profile, ts_ms: int, below_events: int) -> bool:
    return below_events > 0 and sum(entry.ts_ms <= ts_ms for entry in profile.history) < below_events


def _stages(
    snapshot: Snapshot, config: ServingConfig, blends: bool, counts: LiveCounts | None
) -> tuple[list[tuple[str, StageConfig, ServedRanker | CandidateRanker]], list[str]]:
    """The stages that are on, and why some that are wanted are not."""
    stages: list[tuple[str, StageConfig, ServedRanker | CandidateRanker]] = []
    missing = []
    for name, stage in ((PRERANK, config.prerank), (RANK, config.rank)):
        if stage.model == CANDIDATES:
            found = _network(snapshot, blends, counts)
            if isinstance(found, str):
                missing.append(f"stage {name}: {found}")
            else:
                stages.append((name, stage, found))
        elif stage.model in snapshot.rankers:
            stages.append((name, stage, snapshot.rankers[stage.model]))
        elif stage.model:
            missing.append(f"stage {name}: bundle {snapshot.bundle} has no ranker {stage.model!r}")
    return stages, missing


def _uncounted(counts: LiveCounts | None) -> str:
    """Why there are no counts of items, "" = there are."""
    why = "they are not followed" if counts is None else counts.missing
    return f"no counts of items: {why}" if why else ""


def _network(snapshot: Snapshot, blends: bool, counts: LiveCounts | None) -> CandidateRanker | str:
    """The network over candidates, or why it cannot order this answer."""
    if snapshot.prerank is None:
        return f"bundle {snapshot.bundle} has no network that did better than the blend (update.prerank)"
    if not blends:
        return "it orders what a blend of several channels fused, and nothing was blended"
    if counts is None or counts.missing:
        return _uncounted(counts)
    ranker = CandidateRanker(snapshot.prerank, counts, snapshot.affinities, snapshot.history_kinds)
    if ranker.named != snapshot.prerank.signals:
        return (
            f"bundle {snapshot.bundle}: the network reads {', '.join(snapshot.prerank.signals)}; there are "
            f"{', '.join(ranker.named)}; the next full retrain fits it anew"
        )
    return ranker


def _chosen(
    snapshot: Snapshot, sources: Mapping[str, Source], channels: Mapping[str, ChannelConfig], cold: bool
) -> dict[str, Source]:
    """Those that this user gets; what only newcomers get comes first for them."""
    asked: dict[str, Source] = {}
    for wanted in ("cold", "all") if cold else ("all",):
        for name, source in sources.items():
            default = _EVERYBODY if name in snapshot.names or name.startswith(SAME) else _NOBODY
            if channels.get(name, default).users == wanted:
                asked[name] = source
    return asked


def _for_newcomers(
    snapshot: Snapshot, fusion: FusionConfig, popular: PopularNow | None
) -> dict[str, ChannelConfig]:
    """Channels that users without a history get unless told otherwise: what is popular now where it is
    followed, and the snapshot's popularity, where it is not or a blend has weights for it.
    """
    fitted = fusion.method == "blend" and snapshot.blend is not None
    if popular is None:
        return {POPULARITY: _COLD}
    return {POPULARITY: _COLD, POPULAR_NOW: _COLD} if fitted else {POPULAR_NOW: _COLD}
