"""What was known of items when a request began, for targets of a stretch that is about to be trained on:
counts as of the request, affinities as of the last interval that had ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa

from models.affinities import MET
from models.affinity_counts import AffinityCounts
from models.arrays import Float32Array, Int64Array
from models.catalogue_columns import CatalogueColumns
from models.item_signals import NAMES, ItemSignals
from models.key_bytes import hash_keys
from models.meetings import LATELY_MS
from models.met_items import MetItems
from models.moments import Moments

HORIZON_MS = LATELY_MS
"""How far back events are counted, and what users met is read."""
COLUMNS = MetItems.COLUMNS


class RequestSignals:
    """Signals as of the first event of a target's request: what it showed itself is not known yet, as it was
    not when its candidates were found.
    """

    def __init__(
        self,
        events: pa.Table,
        positives: tuple[str, ...],
        affinities: AffinityCounts,
        stretches: Sequence[tuple[pa.Table, CatalogueColumns]],
    ) -> None:
        """events: COLUMNS of EVENT_SCHEMA, from HORIZON_MS before the stretch to its end. affinities: as
        they were where the stretch begins; they are moved on. stretches: its events, with their catalogues.
        """
        self._signals = ItemSignals(positives)
        self._signals.observe(events)
        requests, places = np.unique(hash_keys(events["request_id"]), return_inverse=True)
        self._requests: Int64Array = requests
        self._begin_ms = np.full(len(requests), np.iinfo(np.int64).max)
        np.minimum.at(self._begin_ms, places, np.array(events["ts_ms"], np.int64))
        self._counted = affinities
        self._intervals = iter(_intervals(stretches) if affinities else ())
        self._next = next(self._intervals, None)
        self._affinities = affinities.published()
        self._met = MetItems(events, affinities.sides.met)
        self.named = (*NAMES, *self._affinities.named)

    def asked_ms(self, request: Int64Array, ts_ms: Int64Array) -> Int64Array:
        """When the requests of samples began, int64[N]; a sample without one asks for itself.

        request, ts_ms: int64[N] of Samples.
        """
        places = np.searchsorted(self._requests, request)
        places[places == len(self._requests)] = 0
        known = self._requests[places] == request if len(self._requests) else np.zeros(len(request), bool)
        asked_ms: Int64Array = ts_ms.copy()
        asked_ms[known] = np.minimum(self._begin_ms[places[known]], ts_ms[known])
        return asked_ms

    def ask(self, every: pa.Array, moments: Moments, asked_ms: Int64Array) -> None:
        """Say which items string[K] and which moments of() is going to be about, and when those were asked
        for, int64[n].
        """
        self._every = every
        self._entries = self._signals.entries(every)
        met = self._met.before(moments.user_id, asked_ms)
        self._moments = replace(moments, ts_ms=asked_ms, histories={MET: met})
        self._read()

    def of(self, items: Int64Array, moment: int, asked_ms: int) -> Float32Array:
        """float32[N, S] of the items `items` int64[N] at a moment, both by their places in ask().

        Moments are asked for in the order of asked_ms.
        """
        counts = self._signals.values(self._entries[items], asked_ms)
        moved = False
        while self._next is not None and self._next[0] <= asked_ms:
            self._counted.observe(*self._next[1:])
            self._next, moved = next(self._intervals, None), True
        if moved:
            self._affinities = self._counted.published()
            self._read()
        near = self._affinities.of(self._places[items], self._askers, moment)
        return np.concatenate([counts, near], axis=1)

    def _read(self) -> None:
        self._places = self._affinities.places(self._every)
        self._askers = self._affinities.askers(self._moments)


def _intervals(
    stretches: Sequence[tuple[pa.Table, CatalogueColumns]],
) -> Iterator[tuple[int, pa.Table, CatalogueColumns]]:
    """(end in ms, events, catalogue) of every interval, in order."""
    for events, catalogue in stretches:
        ends_ms = np.array(events["interval_end_ms"], np.int64)
        cuts = [0, *(np.flatnonzero(np.diff(ends_ms)) + 1).tolist(), len(ends_ms)]
        for begin, end in pairwise(cuts):
            if end > begin:
                yield int(ends_ms[begin]), events.slice(begin, end - begin), catalogue
