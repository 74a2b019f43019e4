"""Pre-rank and rank: two optional stages over the fused candidates, each by a ranker of the bundle; or the
pre-rank by the network that was fitted to the candidates themselves.

A stage orders what it is given by the ranker's score and keeps the first; with both off the fused order is
the answer. What a stage turns down, it names: hard negatives for the recall models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch

from models.affinities import HISTORY, MET, Affinities
from models.arrays import Float32Array
from models.artifact import Artifact, ArtifactError
from models.bundle import ranker_file
from models.frozen_ids import FrozenIds
from models.item_signals import NAMES
from models.meetings import LATELY_MS
from models.moments import one_moment
from models.prerank import Prerank, prerank_inputs
from models.ranking.rank_published import ITEMS, PublishedRanker, RankItems, items_of
from serving.channels.contract import Ask
from serving.channels.moment import newest
from serving.fusion import Fused
from serving.live_counts import LiveCounts

PRERANK, RANK = "prerank", "rank"


@dataclass(frozen=True)
class ServedRanker:
    """A ranker and the items that the bundle encoded for it."""

    ranker: PublishedRanker
    lookup: FrozenIds
    items: RankItems

    @classmethod
    def load(cls, bundle: Artifact, name: str) -> ServedRanker:
        """The ranker `name` of a bundle. Raises ArtifactError when its parts cannot be used."""
        file = ranker_file(name, ITEMS)
        try:
            keys, items = items_of(bundle.tensors(file))
            return cls(PublishedRanker.load(bundle, name), FrozenIds.of_unique(keys), items)
        except (KeyError, ValueError) as error:
            raise ArtifactError(bundle.path(file), "a ranker and its items", str(error)) from error

    def scores(self, ask: Ask, keys: Sequence[str]) -> Float32Array:
        """Score of every item key, float32[n]; one that the bundle does not know by the cold rows."""
        wanted = pa.array(keys, pa.string())
        places = self.lookup.lookup(wanted)
        known = np.flatnonzero(places >= 0)
        with torch.inference_mode():  # of this thread
            items = self.items.take(places[known])
            if len(known) < len(keys):
                strange = np.flatnonzero(places < 0)
                cold = self.ranker.items(wanted.take(pa.array(strange)), {})
                pairs = ((items.rows, cold.rows), (items.linear, cold.linear), (items.numbers, cold.numbers))
                together = RankItems(*(torch.cat(pair) for pair in pairs))
                items = together.take(np.argsort(np.concatenate([known, strange])))
            profile = ask.profile
            scored = self.ranker.scores_of(ask.user, items, ask.context, profile.attributes, ask.ts_ms)
        return scored["score"]


@dataclass(frozen=True)
class CandidateRanker:
    """The network that was fitted to all candidates, over what the blend read, how items go just now, and how
    near they are to the one who asks. history_kinds: of events that make up a history.
    """

    network: Prerank
    counts: LiveCounts
    affinities: Affinities = field(default_factory=Affinities)
    history_kinds: frozenset[str] = frozenset()

    @property
    def named(self) -> tuple[str, ...]:
        """Names of the signals that there are."""
        return (*NAMES, *self.affinities.named)

    def scores(self, ask: Ask, order: Sequence[Fused]) -> Float32Array:
        """Score of every item of a blend's order, float32[n]."""
        if not order:
            return np.empty(0, np.float32)
        values = np.array([one.value for one in order], np.float32)
        features_NF = np.stack([one.features for one in order if one.features is not None])
        signals = self.signals(ask, [one.key for one in order])
        return self.network.values(prerank_inputs(values, features_NF, signals))

    def signals(self, ask: Ask, keys: Sequence[str]) -> Float32Array:
        """float32[N, S], `named`, of items by key text."""
        history = newest(ask.profile.history, tuple(self.history_kinds), HISTORY, ask.ts_ms)
        met = newest(ask.profile.history, self.affinities.sides.met, HISTORY, ask.ts_ms)
        met = [one for one in met if one[1] >= ask.ts_ms - LATELY_MS]
        who = one_moment(ask.user, ask.ts_ms, history, ask.context, ask.profile.attributes, {MET: met})
        places = self.affinities.places(pa.array(keys, pa.string()))
        near = self.affinities.of(places, self.affinities.askers(who), 0)
        return np.concatenate([self.counts.signals(keys), near], axis=1)


@dataclass(frozen=True, slots=True)
class Rejected:
    """An item that a stage turned down: its rank there (0 = best), its score, and that of the last kept."""

    key: str
    stage: str
    rank: int
    score: float
    cutoff: float


def spread(rejected: Sequence[Rejected], most: int) -> list[Rejected]:
    """At most `most` of every stage's, evenly over its ranks."""
    chosen: list[Rejected] = []
    for stage in dict.fromkeys(one.stage for one in rejected):
        mine = [one for one in rejected if one.stage == stage]
        step = max(len(mine) / most, 1.0) if most else float("inf")
        chosen += [mine[int(at * step)] for at in range(min(most, len(mine)))]
    return chosen


@dataclass(frozen=True)
class Staged:
    """What a stage made of its candidates: all in its order, with the scores by stage. rejected: those it
    turned down; they come only where nothing else is left.
    """

    order: list[Fused]
    scores: Mapping[str, Mapping[str, float]]
    rejected: tuple[Rejected, ...] = ()

    def then(self, stage: str, candidates: int, scores: Float32Array, keep: int) -> Staged:
        """After one more stage over the first `candidates`; scores: float32 of these; keep: how many of them
        it does not turn down.

        What the stage does not look at follows behind what it ordered.
        """
        asked, rest = self.order[:candidates], self.order[candidates:]
        order = np.argsort(-scores, kind="stable")
        ranked = [asked[at] for at in order]
        by_key = {one.key: float(scores[at]) for at, one in enumerate(asked)}
        cutoff = by_key[ranked[min(keep, len(ranked)) - 1].key] if ranked and keep else 0.0
        rejected = tuple(
            Rejected(one.key, stage, rank, by_key[one.key], cutoff)
            for rank, one in enumerate(ranked[keep:], keep)
        )
        return Staged(ranked + rest, {**self.scores, stage: by_key}, self.rejected + rejected)

    def and_later(self, later: Staged) -> Staged:
        """With what the stages made of items that came later: they stand behind, ordered among themselves."""
        stages = dict.fromkeys([*self.scores, *later.scores])
        scores = {name: {**self.scores.get(name, {}), **later.scores.get(name, {})} for name in stages}
        return Staged(self.order + later.order, scores, self.rejected + later.rejected)
