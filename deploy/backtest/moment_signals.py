"""What was known of items when a target's request began: counts of all events before, and the lifts that a
strategy's version had published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from deploy.backtest.served import Served
from deploy.backtest.targets import Targets
from models.arrays import Float32Array, Int64Array
from models.item_signals import NAMES, ItemSignals
from models.moments import Moments
from models.request_columns import columns_of_moments
from models.segment_lifts import SegmentLifts, named


class MomentSignals:
    """Counts are read as of each moment, so that all events can be counted at once: what comes later is not
    seen. A request's own events are not before it: neither what it showed nor what came of it.
    """

    def __init__(
        self, events: pa.Table, targets: Targets, positives: Sequence[str], fields: Sequence[str]
    ) -> None:
        """fields: of the lifts."""
        self._counts = ItemSignals(tuple(positives))
        self._counts.observe(events)
        self._entries = self._counts.entries(targets.item_keys)
        self._item_keys, self._asked_ms = targets.item_keys, targets.asked_ms
        self._places: dict[str, tuple[SegmentLifts, Int64Array]] = {}
        self.named = (*NAMES, *named(fields))

    def block(self, served: Served, moments: Moments, rows: Int64Array) -> BlockSignals:
        """Of the targets `rows` int64[n], with their moments, as `served` has it."""
        lifts, name = served.lifts, served.strategy.name
        if name not in self._places or self._places[name][0] is not lifts:
            self._places[name] = (lifts, lifts.places(self._item_keys))
        segments = lifts.rows(columns_of_moments(moments), len(moments))
        return BlockSignals(self, lifts, self._places[name][1], segments, self._asked_ms[rows])

    def counts(self, codes: Int64Array, asked_ms: int) -> Float32Array:
        """float32[N, counts] of the items `codes` int64[N]."""
        return self._counts.values(self._entries[codes], asked_ms)


@dataclass(frozen=True)
class BlockSignals:
    """Those of one block of targets."""

    signals: MomentSignals
    lifts: SegmentLifts
    places: Int64Array
    segments: Int64Array
    asked_ms: Int64Array

    def of(self, at: int, codes: Int64Array) -> Float32Array:
        """float32[N, S] of the items `codes` when target number `at` of the block was asked for."""
        counts = self.signals.counts(codes, int(self.asked_ms[at]))
        return np.concatenate([counts, self.lifts.of(self.places[codes], self.segments[at])], axis=1)
