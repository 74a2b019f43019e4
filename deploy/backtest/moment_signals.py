"""What was known of items when a target's request began: counts of all events before."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from deploy.backtest.targets import Targets
from models.arrays import Float32Array, Int64Array
from models.item_signals import ItemSignals


class MomentSignals:
    """Read as of each moment, so that all events can be counted at once: what comes later is not seen.

    A request's own events are not before it: neither what it showed nor what came of it.
    """

    def __init__(self, events: pa.Table, targets: Targets, positives: Sequence[str]) -> None:
        self._signals = ItemSignals(tuple(positives))
        self._signals.observe(events)
        self._entries = self._signals.entries(targets.item_keys)
        self._asked_ms = targets.asked_ms

    def of(self, row: int, codes: Int64Array) -> Float32Array:
        """float32[N, S] of the items `codes` when target number `row` was asked for."""
        return self._signals.values(self._entries[codes], int(self._asked_ms[row]))
