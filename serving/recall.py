"""From a request, a profile and one snapshot to an answer: who is asked, and how it becomes one list.

`recall` does it in one thread; the server makes the same calls in lanes (serving/gather.py) between `ask`
and `answer`. All is pure: no clock, no I/O, no state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa

from models.arrays import Float32Array
from models.blend import Blend
from serving.channels.contract import Ask, Ranking, Source, ranking_of
from serving.channels.editorial import Lists
from serving.channels.moment import moment_of
from serving.channels.names import POPULARITY
from serving.channels.of_snapshot import sources_of
from serving.config import ServingConfig
from serving.errors import NotFound
from serving.filters import barred
from serving.fusion import Found, Fused, all_keys, blended, fuse, with_guaranteed
from serving.fusion_config import ChannelConfig, FusionConfig, StageConfig
from serving.profile import Profile
from serving.schema import (
    ExplainedItem,
    Explanation,
    FoundBy,
    RecallAnswer,
    RecalledItem,
    RecallRequest,
    SimilarAnswer,
)
from serving.snapshot import NeighbourChannel, Snapshot
from serving.stages import PRERANK, RANK, ServedRanker, Staged
from serving.validation import key_text
from stream.keys import decode_id

_CONFIG = ServingConfig()
_BUILT_IN = {POPULARITY: ChannelConfig(users="cold")}
_NOBODY = ChannelConfig(users="nobody")


@dataclass(frozen=True)
class Asking:
    """One request, ready for the channels.

    sources: those to ask, in the order of their importance; k: how many candidates of each; limits_s: how
    long to wait for each. stages: name, settings and ranker of those that are on and whose ranker is there.
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
) -> RecallAnswer:
    """Answer one request from one snapshot, the channels one after another.

    ts_ms: moment of the request. Raises BadRequest for an ID that is none.
    """
    asking = ask(snapshot, request, profile, ts_ms, config, editorial)
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
) -> Asking:
    """What the channels are asked. Raises BadRequest for an ID that is none."""
    user = key_text(request.user_id, "$.user_id")
    exclude = {key_text(item, f"$.exclude[{at}]") for at, item in enumerate(request.exclude)}
    filters = barred(config.filters, profile, ts_ms, exclude, request.exclude_seen)
    excluded = set().union(*filters.values())
    asked = Ask(user, ts_ms, request.context, profile, excluded, snapshot.fresh.gone)
    cold = not any(
        entry.kind in snapshot.history_kinds and entry.item_id and entry.ts_ms <= ts_ms
        for entry in reversed(profile.history)
    )
    fusion, channels = config.fusion, {**_BUILT_IN, **config.channels}
    if scene := config.scenes.get(request.context.get("scene", "")):
        fusion, channels = scene.fusion or fusion, {**channels, **scene.channels}
    sources = _chosen(snapshot, sources_of(snapshot, config.own_items, editorial or {}), channels, cold)
    given = {name: channels[name].timeout_ms if name in channels else None for name in sources}
    limits_s = {name: (limit or config.channel_timeout_ms) / 1000 for name, limit in given.items()}
    stages = [
        (name, stage, snapshot.rankers[stage.model])
        for name, stage in ((PRERANK, config.prerank), (RANK, config.rank))
        if stage.model in snapshot.rankers
    ]
    asking = Asking(
        snapshot, request, asked, filters, cold, sources, request.k, limits_s, fusion, channels, stages
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
        fused += _popular(snapshot, asking.ask, fused, k - len(fused))
    items = [RecalledItem(decode_id(one.key), one.found[0].score, one.found[0].channel) for one in fused]
    return RecallAnswer(
        items,
        snapshot.bundle,
        snapshot.delta,
        snapshot.watermark_ms,
        snapshot.catalogue,
        asking.ask.profile.position,
        request_id,
        list(degraded),
        _explained(asking, rankings, fused, staged, items) if asking.request.explain else None,
    )


def similar(snapshot: Snapshot, keys: Sequence[str], k: int, model: str = "") -> SimilarAnswer:
    """The k items nearest to the first of `keys` that exists, by the vectors of a recall model or by the
    neighbours of an item-to-item channel; `model` names either ("" = the first).

    Raises NotFound.
    """
    if not snapshot.names or (model and model not in snapshot.names):
        raise NotFound(f"model: expected one of {', '.join(snapshot.names)}, got {model!r}")
    name = model or snapshot.names[0]
    channel = snapshot.channels.get(name) or snapshot.neighbours[name]
    positions = channel.items.lookup(pa.array(keys, pa.string()))
    known = positions[positions >= 0][:1]
    if not len(known):
        raise NotFound(f"item: expected an item of {snapshot.bundle}/{snapshot.delta}, got {keys[0]!r}")
    if isinstance(channel, NeighbourChannel):
        scores, near = channel.items.similar(int(known[0]), k)
        found = ranking_of((scores[None], near[None]), channel.items)
    else:
        items = channel.items
        found = ranking_of(items.search(items.vectors_of(known), k, [known]), items)
    near_items = [RecalledItem(decode_id(key), score, name) for key, score in found]
    return SimilarAnswer(near_items, snapshot.bundle, snapshot.delta, snapshot.watermark_ms)


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


def _history_length(snapshot: Snapshot, asked: Ask) -> int:
    """The longest history that a model or item-to-item channel reads of the user, 0 = nobody known."""
    longest = 0
    for name in snapshot.names:
        config = (snapshot.channels.get(name) or snapshot.neighbours[name]).config
        moment = moment_of(config, asked.user, asked.ts_ms, asked.profile.history, {}, {})
        longest = max(longest, len(moment.history_id))
    return longest


def _popular(snapshot: Snapshot, asked: Ask, fused: Sequence[Fused], k: int) -> list[Fused]:
    """The k most popular items that are not there yet."""
    taken = {one.key for one in fused}
    ranking: Ranking = []
    for key, score in zip(snapshot.popular_keys, snapshot.popular_scores, strict=True):
        if len(ranking) == k:
            break
        if key not in taken and asked.allows(key):
            ranking.append((key, score))
    return [Fused(key, 0.0, (Found(POPULARITY, score, rank),)) for rank, (key, score) in enumerate(ranking)]


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
