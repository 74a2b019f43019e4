"""From a request, a profile and one snapshot to an answer.

Who is asked: serving/asking.py; in which steps: serving/answering.py. All is pure: no clock, no I/O, no
state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from models.items_json import items_json
from serving.answering import Chosen, run, steps
from serving.asking import NOT_FOLLOWED, Asking, Live, ask
from serving.channels.contract import Ranking, ranking_of
from serving.channels.editorial import Lists
from serving.channels.names import POPULAR_NOW, POPULARITY
from serving.channels.tower import TowerSource
from serving.config import ServingConfig
from serving.explain import explained
from serving.fusion import Found, Fused
from serving.gather import Joint
from serving.profile import Profile
from serving.schema import Explanation, RecallAnswer, RecalledItem, RecallRequest
from serving.snapshot import Snapshot
from serving.stages import Rejected
from stream.keys import decode_ids

_CONFIG = ServingConfig()
_TOGETHER = 4
"""Answers of one search: the first waits for the last, and all for the time limit of each."""


def recall(
    snapshot: Snapshot,
    request: RecallRequest,
    profile: Profile,
    ts_ms: int,
    request_id: str,
    degraded: Sequence[str] = (),
    config: ServingConfig = _CONFIG,
    editorial: Lists | None = None,
    live: Live = NOT_FOLLOWED,
) -> RecallAnswer:
    """Answer one request from one snapshot, the channels one after another.

    ts_ms: moment of the request. Raises BadRequest for an ID that is none.
    """
    asking = ask(snapshot, request, profile, ts_ms, config, editorial, live, request_id)
    return answered(asking, request_id, degraded)[0]


def answered(
    asking: Asking, request_id: str, degraded: Sequence[str] = ()
) -> tuple[RecallAnswer, list[Rejected]]:
    """The answer, the channels and stages asked one after another, and what the stages turned down."""
    chosen = run(steps(asking))
    return answer(asking, chosen, request_id, degraded), chosen.turned_down


def answer(asking: Asking, chosen: Chosen, request_id: str, degraded: Sequence[str] = ()) -> RecallAnswer:
    """What was chosen, filled up with what is popular where the channels fall short."""
    fused = list(chosen.fused)
    if len(fused) < asking.request.k:
        fused += _popular(asking, fused, chosen)
    ids, firsts = decode_ids([one.key for one in fused]), [one.found[0] for one in fused]
    items = [RecalledItem(id_, by.score, by.channel) for id_, by in zip(ids, firsts, strict=True)]
    explanation = explained(asking, chosen, fused, items) if asking.request.explain else None
    return _answer(asking, items, request_id, degraded, explanation)


def answer_of_one(
    asking: Asking, ranking: Ranking, request_id: str, degraded: Sequence[str] = ()
) -> RecallAnswer:
    """What answer() gives where one channel's ranking, of at least k, is all there is to it (asking.only)."""
    name, best = asking.only, ranking[: asking.request.k]
    ids = decode_ids([key for key, _ in best])
    items = [RecalledItem(id_, score, name) for id_, (_, score) in zip(ids, best, strict=True)]
    return _answer(asking, items, request_id, degraded, None)


def only_call(asking: Asking) -> Callable[[], bytes | Ranking]:
    """The call of the one channel whose ranking is all there is to an answer (asking.only)."""
    source = asking.sources[asking.only]
    if isinstance(source, TowerSource):
        return OnlyTower(asking, source)
    return partial(source.candidates, asking.ask, asking.k)


class OnlyTower(Joint[bytes | Ranking]):
    """Where that channel is a model's: the items of answer_of_one() as JSON (serving/written.py), or its
    ranking, where it has too few or their IDs need escapes.
    """

    def __init__(self, asking: Asking, source: TowerSource) -> None:
        self.asking, self.source = asking, source
        self.most = min(source.together, _TOGETHER)
        # The source is of one snapshot. Those with items to leave out are searched for one by one.
        self.like = (id(source), asking.k, asking.request.k, bool(asking.ask.excluded))

    def of_each(self, calls: Sequence[OnlyTower]) -> list[bytes | Ranking]:
        """As Joint says."""
        items, k = self.source.channel.items, self.asking.request.k
        scores, positions = self.source.found([one.asking.ask for one in calls], self.asking.k)
        written = [b""] * len(calls)
        if all(last >= 0 for last in positions[:, k - 1].tolist()):
            written = items_json(items, positions[:, :k], scores[:, :k], self.asking.only)
        return [
            content or ranking_of((scores[n : n + 1], positions[n : n + 1]), items)
            for n, content in enumerate(written)
        ]


def _answer(
    asking: Asking,
    items: list[RecalledItem],
    request_id: str,
    degraded: Sequence[str],
    explanation: Explanation | None,
) -> RecallAnswer:
    snapshot = asking.snapshot
    return RecallAnswer(
        items,
        snapshot.bundle,
        snapshot.delta,
        snapshot.watermark_ms,
        snapshot.catalogue,
        asking.ask.profile.position,
        request_id,
        [*degraded, *asking.degraded],
        explanation,
    )


def answer_of_written(asking: Asking, request_id: str, degraded: Sequence[str] = ()) -> RecallAnswer:
    """As answer_of_one(), for items that are written already: it holds none."""
    return _answer(asking, [], request_id, degraded, None)


def _popular(asking: Asking, fused: Sequence[Fused], chosen: Chosen) -> list[Fused]:
    """The most popular items that are not there yet, by the live lists and then by the snapshot's, as many as
    are missing.
    """
    k, snapshot = asking.request.k - len(fused), asking.snapshot
    lists = [(POPULAR_NOW, one.items, one.rates) for one in asking.popular]
    lists.append((POPULARITY, snapshot.popular_keys, snapshot.popular_scores))
    caps, taken = chosen.caps, {one.key for one in fused}
    if chosen.held:
        taken |= chosen.held.among([key for _, keys, _ in lists for key in keys])
    said: dict[str, tuple[str, float]] = {}
    for name, keys, scores in lists:
        for key, score in zip(keys, scores, strict=True):
            if len(said) == k and not caps.most:
                break
            if key not in taken and key not in said and asking.ask.allows(key):
                said[key] = (name, score)
    admitted = caps.admit(said, k)
    return [Fused(key, 0.0, (Found(*said[key], rank),)) for rank, key in enumerate(admitted)]
