"""From a request, a profile and one snapshot to an answer: who is asked, and how it becomes one list.

`recall` does it in one thread; the server makes the same calls in lanes (serving/gather.py) between `ask`
and `answer`. All is pure: no clock, no I/O, no state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from models.arrays import Float32Array
from models.blend import Blend
from serving.channels.contract import Ask, Ranking, Source
from serving.channels.editorial import Lists
from serving.channels.moment import moment_of
from serving.channels.names import POPULAR_NOW, POPULARITY
from serving.channels.of_snapshot import sources_of
from serving.config import ServingConfig
from serving.filters import barred
from serving.fusion import Found, Fused, all_keys, blended, fuse, with_guaranteed
from serving.fusion_config import ChannelConfig, FusionConfig, StageConfig
from serving.popular_now import PopularItems, PopularNow
from serving.profile import Profile
from serving.schema import (
    ExplainedItem,
    Explanation,
    FoundBy,
    RecallAnswer,
    RecalledItem,
    RecallRequest,
)
from serving.snapshot import Snapshot
from serving.stages import PRERANK, RANK, ServedRanker, Staged
from serving.validation import key_text
from stream.keys import decode_id

_CONFIG = ServingConfig()
_COLD = ChannelConfig(users="cold")
_NOBODY = ChannelConfig(users="nobody")


@dataclass(frozen=True)
class Asking:
    """One request, ready for the channels.

    sources: those to ask, in the order of their importance; k: how many candidates of each; limits_s: how
    long to wait for each. stages: name, settings and ranker of those that are on and whose ranker is there.
    popular: the live lists of what is popular that fit the request, the best one first; popular_missing: why
    the channel popular_now does with the snapshot's, "" = it need not.
    """

    snapshot: Snapshot
    request: RecallRequest
    ask: Ask
    filters: Mapping[str, set[str]]
    cold: bool
    sources: Mapping[str, Source]
    k: int
    limits_s: Mapping[str, float]
    fusion: FusionConfig
    channels: Mapping[str, ChannelConfig]
    stages: Sequence[tuple[str, StageConfig, ServedRanker]] = ()
    popular: Sequence[PopularItems] = ()
    popular_missing: str = ""

    @property
    def depth(self) -> int:
        """How many items of the fused list are wanted."""
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
    def degraded(self) -> list[str]:
        """What had to be done without before any channel was asked."""
        instead = f"channel {POPULAR_NOW}: the version's popularity instead: {self.popular_missing}"
        return [instead] if self.popular_missing else []

    def candidate_calls(self) -> dict[str, Callable[[], Ranking]]:
        """What is asked of every channel first."""
        return {name: partial(one.candidates, self.ask, self.k) for name, one in self.sources.items()}

    def stage_call(self, place: int, staged: Staged) -> Callable[[], Float32Array]:
        """What the ranker of a stage is asked."""
        _, stage, ranker = self.stages[place]
        return partial(ranker.scores, self.ask, [one.key for one in staged.kept[: stage.candidates]])

    def score_calls(self, keys: Sequence[str]) -> dict[str, Callable[[], Float32Array]]:
        """What a blend asks every channel then: what it says of all candidates."""
        return {name: partial(one.scores, self.ask, keys) for name, one in self.sources.items()}


def recall(
    snapshot: Snapshot,
    request: RecallRequest,
    profile: Profile,
    ts_ms: int,
    request_id: str,
    degraded: Sequence[str] = (),
    config: ServingConfig = _CONFIG,
    editorial: Lists | None = None,
    popular: PopularNow | None = None,
) -> RecallAnswer:
    """Answer one request from one snapshot, the channels one after another.

    ts_ms: moment of the request. Raises BadRequest for an ID that is none.
    """
    asking = ask(snapshot, request, profile, ts_ms, config, editorial, popular)
    rankings = {name: call() for name, call in asking.candidate_calls().items()}
    keys, scores = [], {}
    if asking.blend:
        keys = all_keys(rankings)
        scores = {name: call() for name, call in asking.score_calls(keys).items()}
    staged = merged(asking, rankings, keys, scores)
    for place, (name, stage, _) in enumerate(asking.stages):
        ranked = asking.stage_call(place, staged)()
        staged = staged.then(name, stage.candidates, ranked, asking.keep(place))
    return answer(asking, rankings, staged, request_id, degraded)


def ask(
    snapshot: Snapshot,
    request: RecallRequest,
    profile: Profile,
    ts_ms: int,
    config: ServingConfig = _CONFIG,
    editorial: Lists | None = None,
    popular: PopularNow | None = None,
) -> Asking:
    """What the channels are asked. popular: a reading, None where what is popular now is not followed.

    Raises BadRequest for an ID that is none.
    """
    user = key_text(request.user_id, "$.user_id")
    exclude = {key_text(item, f"$.exclude[{at}]") for at, item in enumerate(request.exclude)}
    filters = barred(config.filters, profile, ts_ms, exclude, request.exclude_seen)
    excluded = set().union(*filters.values())
    asked = Ask(user, ts_ms, request.context, profile, excluded, snapshot.fresh.gone)
    cold = not any(
        entry.kind in snapshot.history_kinds and entry.item_id and entry.ts_ms <= ts_ms
        for entry in reversed(profile.history)
    )
    fusion, channels = config.fusion, config.channels
    if scene := config.scenes.get(request.context.get("scene", "")):
        fusion, channels = scene.fusion or fusion, {**channels, **scene.channels}
    channels = {**_for_newcomers(snapshot, fusion, popular), **channels}
    lists = popular.of(request.context) if popular else []
    every = sources_of(snapshot, config.own_items, editorial or {}, lists[0] if lists else None)
    sources = _chosen(snapshot, every, channels, cold)
    given = {name: channels[name].timeout_ms if name in channels else None for name in sources}
    limits_s = {name: (limit or config.channel_timeout_ms) / 1000 for name, limit in given.items()}
    stages = [
        (name, stage, snapshot.rankers[stage.model])
        for name, stage in ((PRERANK, config.prerank), (RANK, config.rank))
        if stage.model in snapshot.rankers
    ]
    missing = popular.missing if popular and POPULAR_NOW in sources else ""
    asking = Asking(
        snapshot,
        request,
        asked,
        filters,
        cold,
        sources,
        request.k,
        limits_s,
        fusion,
        channels,
        stages,
        lists,
        missing,
    )
    deep = asking.blend is not None or fusion.method in ("rrf", "weighted")
    return replace(asking, k=max(asking.depth, fusion.depth if deep else 0))


def merged(
    asking: Asking,
    rankings: Mapping[str, Ranking],
    keys: Sequence[str] = (),
    scores: Mapping[str, Float32Array] | None = None,
) -> Staged:
    """The channels' candidates as one list, as long as the first stage wants it.

    keys, scores: for a blend, all_keys(rankings) and what the channels said of them.
    """
    if asking.blend is None:
        return Staged(fuse(asking.fusion, asking.channels, rankings, asking.depth), {})
    return Staged(blended(asking.blend, rankings, keys, scores or {}, asking.depth), {})


def answer(
    asking: Asking,
    rankings: Mapping[str, Ranking],
    staged: Staged,
    request_id: str,
    degraded: Sequence[str] = (),
) -> RecallAnswer:
    """What the stages kept, filled up with what is popular where the channels fall short."""
    snapshot, k = asking.snapshot, asking.request.k
    fused = with_guaranteed(staged.kept[:k], asking.channels, rankings, k)
    if len(fused) < k:
        fused += _popular(asking, fused, k - len(fused))
    items = [RecalledItem(decode_id(one.key), one.found[0].score, one.found[0].channel) for one in fused]
    return RecallAnswer(
        items,
        snapshot.bundle,
        snapshot.delta,
        snapshot.watermark_ms,
        snapshot.catalogue,
        asking.ask.profile.position,
        request_id,
        [*degraded, *asking.degraded],
        _explained(asking, rankings, fused, staged, items) if asking.request.explain else None,
    )


def _chosen(
    snapshot: Snapshot, sources: Mapping[str, Source], channels: Mapping[str, ChannelConfig], cold: bool
) -> dict[str, Source]:
    """Those that this user gets; what only newcomers get comes first for them."""
    asked: dict[str, Source] = {}
    for wanted in ("cold", "all") if cold else ("all",):
        for name, source in sources.items():
            default = ChannelConfig() if name in snapshot.names else _NOBODY
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


def _history_length(snapshot: Snapshot, asked: Ask) -> int:
    """The longest history that a model or item-to-item channel reads of the user, 0 = nobody known."""
    longest = 0
    for name in snapshot.names:
        config = (snapshot.channels.get(name) or snapshot.neighbours[name]).config
        moment = moment_of(config, asked.user, asked.ts_ms, asked.profile.history, {}, {})
        longest = max(longest, len(moment.history_id))
    return longest


def _popular(asking: Asking, fused: Sequence[Fused], k: int) -> list[Fused]:
    """The k most popular items that are not there yet, by the live lists and then by the snapshot's."""
    snapshot = asking.snapshot
    lists = [(POPULAR_NOW, one.items, one.rates) for one in asking.popular]
    lists.append((POPULARITY, snapshot.popular_keys, snapshot.popular_scores))
    taken = {one.key for one in fused}
    added: list[Fused] = []
    for name, keys, scores in lists:
        for key, score in zip(keys, scores, strict=True):
            if len(added) == k:
                return added
            if key not in taken and asking.ask.allows(key):
                taken.add(key)
                added.append(Fused(key, 0.0, (Found(name, score, len(added)),)))
    return added


def _explained(
    asking: Asking,
    rankings: Mapping[str, Ranking],
    fused: Sequence[Fused],
    staged: Staged,
    items: Sequence[RecalledItem],
) -> Explanation:
    counts: dict[str, int] = {}
    for item in items:
        counts[item.channel] = counts.get(item.channel, 0) + 1
    explained = [
        ExplainedItem(
            item.id,
            one.value,
            [FoundBy(by.channel, by.score, by.rank) for by in one.found],
            {stage: scores[one.key] for stage, scores in staged.scores.items() if one.key in scores},
        )
        for item, one in zip(items, fused, strict=True)
    ]
    return Explanation(
        asking.ask.ts_ms,
        asking.cold,
        _history_length(asking.snapshot, asking.ask),
        len(asking.ask.excluded),
        counts,
        "snake" if asking.fusion.method == "blend" and asking.blend is None else asking.fusion.method,
        {name: len(keys) for name, keys in asking.filters.items()},
        {name: len(ranking) for name, ranking in rankings.items()},
        explained,
    )
