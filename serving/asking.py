"""From a request, a profile and one snapshot to the questions: who is asked, for how much, for how long."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from models.arrays import Float32Array
from models.blend import Blend
from serving.caps import Caps
from serving.channels.contract import Ask, Ranking, Source
from serving.channels.editorial import Lists
from serving.channels.names import POPULARITY, SAME
from serving.channels.of_snapshot import sources_of
from serving.config import ServingConfig
from serving.eligible import Eligible, eligible
from serving.filters import barred
from serving.fusion import Fused
from serving.fusion_config import ChannelConfig, FusionConfig, SceneConfig, StageConfig
from serving.profile import Profile
from serving.schema import RecallRequest
from serving.snapshot import Snapshot
from serving.stages import PRERANK, RANK, ServedRanker
from serving.validation import key_text

_CONFIG = ServingConfig()
_BUILT_IN = {POPULARITY: ChannelConfig(users="cold")}
_NO_SCENE = SceneConfig()
_EVERYBODY, _NOBODY = ChannelConfig(), ChannelConfig(users="nobody")


@dataclass(frozen=True)
class Asking:
    """One request, ready for the channels.

    items: what may be answered, of one snapshot; sources: channels to ask, in the order of their importance;
    k: how many candidates of each; limits_s: how long to wait for each. stages: name, settings and ranker of
    those that are on and whose ranker is there; missing: what is wanted and not there.
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
    stages: Sequence[tuple[str, StageConfig, ServedRanker]] = ()
    missing: Sequence[str] = ()

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot, of which channels find only what may be answered."""
        return self.items.snapshot

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
        """The fitted weights, None where they are not wanted, not there, or there is nothing to weigh."""
        wanted = self.fusion.method == "blend" and len(self.sources) > 1
        return self.snapshot.blend if wanted else None

    @property
    def caps(self) -> Caps:
        """The caps of an answer that is still empty."""
        return Caps(self.most, self.snapshot.attributes)

    def candidate_calls(self) -> dict[str, Callable[[], Ranking]]:
        """What is asked of every channel first."""
        return {name: partial(one.candidates, self.ask, self.k) for name, one in self.sources.items()}

    def stage_call(self, place: int, order: Sequence[Fused]) -> Callable[[], Float32Array]:
        """What the ranker of a stage is asked."""
        _, stage, ranker = self.stages[place]
        return partial(ranker.scores, self.ask, [one.key for one in order[: stage.candidates]])

    def score_calls(self, keys: Sequence[str]) -> dict[str, Callable[[], Float32Array]]:
        """What a blend asks every channel then: what it says of all candidates."""
        return {name: partial(one.scores, self.ask, keys) for name, one in self.sources.items()}

    def beyond(self, fused: Sequence[Fused], caps: Caps, names: Sequence[str], k: int) -> Asking:
        """The same request for what could still join an answer: k more of each of some channels, none whose
        value has no place left.
        """
        items = self.items.without(caps.closed())
        asked = replace(self.ask, excluded=self.ask.excluded | {one.key for one in fused}, gone=items.gone)
        had = [one.found[0].channel for one in fused]
        channels = {
            name: one.model_copy(update={"quota": max(one.quota - had.count(name), 0)})
            if one.quota is not None
            else one
            for name, one in self.channels.items()
        }
        every = sources_of(items, self.config, self.editorial)
        sources = {name: every[name] for name in names}
        return replace(self, items=items, ask=asked, sources=sources, channels=channels, k=k, stages=())


def ask(
    snapshot: Snapshot,
    request: RecallRequest,
    profile: Profile,
    ts_ms: int,
    config: ServingConfig = _CONFIG,
    editorial: Lists | None = None,
) -> Asking:
    """What the channels are asked. Raises BadRequest for an ID that is none."""
    user = key_text(request.user_id, "$.user_id")
    exclude = {key_text(item, f"$.exclude[{at}]") for at, item in enumerate(request.exclude)}
    filters = barred(config.filters, profile, ts_ms, exclude, request.exclude_seen)
    excluded = set().union(*filters.values())
    named = request.context.get("scene", "")
    items, lists = eligible(snapshot, config.rules(named)), editorial or {}
    asked = Ask(user, ts_ms, request.context, profile, excluded, items.gone)
    cold = not any(
        entry.kind in snapshot.history_kinds and entry.item_id and entry.ts_ms <= ts_ms
        for entry in reversed(profile.history)
    )
    scene = config.scenes.get(named, _NO_SCENE)
    channels = {**_BUILT_IN, **config.channels, **scene.channels}
    sources = _chosen(snapshot, sources_of(items, config, lists), channels, cold)
    given = {name: channels[name].timeout_ms if name in channels else None for name in sources}
    limits_s = {name: (limit or config.channel_timeout_ms) / 1000 for name, limit in given.items()}
    wanted = [
        (name, stage) for name, stage in ((PRERANK, config.prerank), (RANK, config.rank)) if stage.model
    ]
    asking = Asking(
        items,
        request,
        asked,
        filters,
        cold,
        config,
        lists,
        sources,
        request.k,
        limits_s,
        scene.fusion or config.fusion,
        channels,
        {**config.caps, **scene.caps},
        [
            (name, stage, snapshot.rankers[stage.model])
            for name, stage in wanted
            if stage.model in snapshot.rankers
        ],
        [
            f"stage {name}: bundle {snapshot.bundle} has no ranker {stage.model!r}"
            for name, stage in wanted
            if stage.model not in snapshot.rankers
        ],
    )
    deep = asking.blend is not None or asking.fusion.method in ("rrf", "weighted")
    spare = 2 if asking.caps.most else 1  # caps turn some away; more are asked for where that is too few
    return replace(asking, k=max(spare * asking.depth, asking.fusion.depth if deep else 0))


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
