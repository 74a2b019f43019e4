"""Fit the channels' blend anew: what would the parent's channels have said to the targets of the stretch?

The full retrain asks before it trains: item vectors, neighbours and popularity are the parent's as published,
histories are as of each target's moment, weights are yesterday's. So nobody is asked about what they learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.arrays import BoolArray, Float32Array, Int64Array
from models.artifact import Artifact
from models.blend import POPULARITY, Blend, with_counts
from models.blend_candidates import Said, candidates
from models.blend_fit import BlendRows, fit_blend
from models.bundle import BLEND_FILE, POPULARITY_FILE, PRERANK_FILE, neighbours_file
from models.delta import PopularityList
from models.index import load_items
from models.item_signals import NAMES
from models.item_to_item import ItemToItemConfig
from models.learner import Learner, Samples
from models.moments import Moments, newest_places
from models.neighbour_rows import NeighbourRows
from models.neighbours import Neighbours
from models.prerank import Judgement, Prerank
from models.prerank_fit import fit_prerank, judged_fit
from models.query import Queries
from models.retrieve import dense_scores
from models.samplers import uniform_by_key
from updater.request_signals import RequestSignals

_BLOCK = 64
"""Targets asked at once: a block's scores are float32[64, items] per channel."""


@dataclass(frozen=True)
class Fitted:
    """What a bundle gets; None = nothing yet. gate: what the network was judged by, None = nothing could be
    asked.
    """

    blend: Blend | None
    prerank: Prerank | None
    gate: Judgement | None = None


class BlendRefit:
    """Asks the models one by one, in the retrain's own time between preparing samples and training on them.

    Only models whose positives are the recipe's are asked: they make the same samples of the same events.
    """

    def __init__(
        self, parent: Artifact, positives: tuple[str, ...], channels: Mapping[str, ItemToItemConfig],
        targets: int, seed: int, signals: RequestSignals | None = None,
        counts: bool = False, prerank: bool = True,
    ) -> None:  # fmt: skip
        """targets: how many are asked at most; seed: which ones, and the order of the fit. signals: what is
        known of items; None: the next two are off. counts: the blend reads their counts; prerank: fit a
        network that reads all of them.
        """
        self._parent, self._positives, self._targets, self._seed = parent, positives, targets, seed
        self._signals = signals
        self._counts, self._ranks = counts and signals is not None, prerank and signals is not None
        self._channels = {
            name: config
            for name, config in channels.items()
            if set(config.positives) == set(positives) and parent.has(neighbours_file(name))
        }
        self._said: dict[str, _Model] = {}
        self._asked: _Asked | None = None

    def ask(self, name: str, learner: Learner, samples: Samples) -> None:
        """Hear what model `name` says to a sample of the targets, as of their moments."""
        known = set(learner.config.positives) == set(self._positives)
        if not known or name not in self._parent.manifest["models"] or not len(samples):
            return
        places = self._chosen(samples)
        chosen = samples.take(places)
        asked_ms = chosen.ts_ms
        if self._signals:
            asked_ms = self._signals.asked_ms(chosen.request, chosen.ts_ms)
            order = np.argsort(asked_ms, kind="stable")
            places, asked_ms, chosen = places[order], asked_ms[order], chosen.take(order)
        moments = learner.moments(samples, places)
        if self._asked is None:
            self._asked = _Asked(moments, learner.target_keys(chosen), asked_ms, places)
        items = load_items(self._parent, name)
        vectors = np.asarray(items.base.vectors, np.float32)
        self._said[name] = _Model(learner.queries(moments), items.keys, vectors)

    def fitted(self) -> Fitted:
        """Blend and pre-rank network after this stretch; the parent's where nothing could be asked."""
        before = self._of_the_parent()
        if self._asked is None:
            return before
        channels = self._channels_of(self._asked)
        named = (*channels, *NAMES) if self._counts else tuple(channels)
        rows = BlendRows(named, self._signals.named if self._signals else ())
        every = pc.unique(pa.concat_arrays([channel.keys for channel in channels.values()]))
        codes_of = {name: _Codes.of(channel.keys, every) for name, channel in channels.items()}
        if self._signals:
            self._signals.ask(every, self._asked.moments, self._asked.asked_ms)
        target = pc.fill_null(pc.index_in(self._asked.targets, every), -1).to_numpy(zero_copy_only=False)
        kept: list[int] = []
        for begin in range(0, len(target), _BLOCK):
            part = slice(begin, min(begin + _BLOCK, len(target)))
            said = [codes_of[name].said(*channel.scores(part)) for name, channel in channels.items()]
            for row in range(part.stop - part.start):
                codes, scores_CN = candidates(said, row)
                place = np.flatnonzero(codes == target[begin + row])
                signals = None
                if self._signals:
                    signals = self._signals.of(codes, begin + row, int(self._asked.asked_ms[begin + row]))
                    scores_CN = with_counts(scores_CN, signals) if self._counts else scores_CN
                rows.add(scores_CN, int(place[0]) if len(place) else -1, signals)
                if len(place):
                    kept.append(int(self._asked.places[begin + row]))
        rows = rows.take(np.argsort(kept))
        # The first weights are of channels; counts begin at 0, as all that joins a blend.
        blend = fit_blend(before.blend or Blend.fresh(tuple(channels)), rows, self._seed)
        if not self._ranks:
            return Fitted(blend, None)
        gate = judged_fit(before.prerank, blend, rows, self._seed)
        return Fitted(blend, fit_prerank(before.prerank, blend, rows, self._seed), gate)

    def _of_the_parent(self) -> Fitted:
        blend = prerank = None
        if self._parent.has(BLEND_FILE):
            blend = Blend.from_tensors(self._parent.tensors(BLEND_FILE))
        if self._ranks and self._parent.has(PRERANK_FILE):
            prerank = Prerank.from_tensors(self._parent.tensors(PRERANK_FILE))
        return Fitted(blend, prerank)

    def _channels_of(self, asked: _Asked) -> dict[str, _Channel]:
        channels: dict[str, _Channel] = dict(self._said)
        for name, config in self._channels.items():
            rows = NeighbourRows.from_tensors(self._parent.tensors(neighbours_file(name)))
            neighbours = Neighbours.over(rows, config.recency_half_life_h * 3_600_000)
            channels[name] = _Neighbours(neighbours, asked.moments, config.read_length, pc.unique(rows.items))
        if self._parent.has(POPULARITY_FILE):
            listed = PopularityList.from_tensors(self._parent.tensors(POPULARITY_FILE))
            channels[POPULARITY] = _Popular(listed.keys, np.log1p(listed.scores).astype(np.float32))
        return channels

    def _chosen(self, samples: Samples) -> Int64Array:
        """Places of the asked samples: those of the smallest random numbers, ascending."""
        if len(samples) <= self._targets:
            return np.arange(len(samples))
        drawn = uniform_by_key(np.arange(len(samples), dtype=np.int64), self._seed)
        return np.sort(np.argsort(drawn, kind="stable")[: self._targets])


@dataclass(frozen=True)
class _Asked:
    """The moments of the targets, in the order in which they are asked, the keys string[n] of what was taken,
    when their requests began, int64[n] ms, and their places among the samples, int64[n].
    """

    moments: Moments
    targets: pa.Array
    asked_ms: Int64Array
    places: Int64Array


class _Channel(Protocol):
    """One channel of the parent."""

    @property
    def keys(self) -> pa.Array:
        """Items it may bring up, string[K], distinct."""
        ...

    def scores(self, part: slice) -> tuple[Float32Array, BoolArray | None]:
        """float32[n, K] for some of the moments, and what it brings up by itself (None = all)."""
        ...


@dataclass(frozen=True)
class _Model:
    queries: Queries
    keys: pa.Array
    vectors: Float32Array

    def scores(self, part: slice) -> tuple[Float32Array, BoolArray | None]:
        return dense_scores(self.queries.part(part), self.keys, self.vectors), None


@dataclass(frozen=True)
class _Neighbours:
    neighbours: Neighbours
    moments: Moments
    length: int
    keys: pa.Array

    def scores(self, part: slice) -> tuple[Float32Array, BoolArray | None]:
        scores = self.neighbours.dense_scores(newest(self.moments, part, self.length), self.keys)
        return scores, scores > 0


@dataclass(frozen=True)
class _Popular:
    keys: pa.Array
    counts: Float32Array

    def scores(self, part: slice) -> tuple[Float32Array, BoolArray | None]:
        return np.repeat(self.counts[None], part.stop - part.start, axis=0), None


@dataclass(frozen=True)
class _Codes:
    """A channel's items by the numbers that all channels share: codes ascending, order: their columns."""

    codes: Int64Array
    order: Int64Array

    @classmethod
    def of(cls, keys: pa.Array, every: pa.Array) -> _Codes:
        codes = pc.index_in(keys, every).to_numpy(zero_copy_only=False).astype(np.int64)
        order = np.argsort(codes)
        return cls(codes[order], order)

    def said(self, scores: Float32Array, known: BoolArray | None) -> Said:
        columns = self.order
        return Said(self.codes, scores[:, columns], None if known is None else known[:, columns])


def newest(moments: Moments, part: slice, length: int) -> Moments:
    """Some of the moments with the newest `length` entries of their main histories, and nothing else."""
    places, offsets = newest_places(moments.history_offsets[part.start : part.stop + 1], length)
    return Moments(
        user_id=moments.user_id.slice(part.start, len(offsets) - 1),
        ts_ms=moments.ts_ms[part],
        history_id=moments.history_id.take(pa.array(places)),
        history_offsets=offsets,
        history_ts_ms=np.asarray(moments.history_ts_ms)[places],
    )
