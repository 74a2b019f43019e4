"""What was known of items when a target's request began: counts of all events before, and the affinities that
a strategy's version had published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from deploy.backtest.targets import Targets
from models.affinities import MET, Affinities, Askers, Sides
from models.arrays import Float32Array, Int64Array
from models.item_signals import NAMES, ItemSignals
from models.met_items import MetItems
from models.moments import Moments


class MomentSignals:
    """Counts, and what users met, are read as of each moment, so that all events can be taken in at once:
    what comes later is not seen. A request's own events are not before it: neither what it showed nor what
    came of it.
    """

    def __init__(self, events: pa.Table, targets: Targets, positives: Sequence[str], sides: Sides) -> None:
        """sides: of the affinities."""
        self._counts = ItemSignals(tuple(positives))
        self._counts.observe(events)
        self._met = MetItems(events, sides.met)
        self._entries = self._counts.entries(targets.item_keys)
        self._item_keys, self._asked_ms = targets.item_keys, targets.asked_ms
        self._read = Affinities()
        self._places = self._read.places(self._item_keys)
        self.named = (*NAMES, *sides.named)

    def block(self, affinities: Affinities, moments: Moments, rows: Int64Array) -> BlockSignals:
        """Of the targets `rows` int64[n], the first of the moments; affinities: as a version has them."""
        if affinities is not self._read:
            self._read, self._places = affinities, affinities.places(self._item_keys)
        asked_ms = self._asked_ms[rows]
        asking = np.concatenate([asked_ms, moments.ts_ms[len(rows) :]])  # the others fill the block up
        met = self._met.before(moments.user_id, asking)
        askers = affinities.askers(replace(moments, ts_ms=asking, histories={MET: met}))
        return BlockSignals(self, affinities, self._places, askers, asked_ms)

    def counts(self, codes: Int64Array, asked_ms: int) -> Float32Array:
        """float32[N, counts] of the items `codes` int64[N]."""
        return self._counts.values(self._entries[codes], asked_ms)


@dataclass(frozen=True)
class BlockSignals:
    """Those of one block of targets."""

    signals: MomentSignals
    affinities: Affinities
    places: Int64Array
    askers: Askers
    asked_ms: Int64Array

    def of(self, at: int, codes: Int64Array) -> Float32Array:
        """float32[N, S] of the items `codes` when target number `at` of the block was asked for."""
        counts = self.signals.counts(codes, int(self.asked_ms[at]))
        return np.concatenate([counts, self.affinities.of(self.places[codes], self.askers, at)], axis=1)
