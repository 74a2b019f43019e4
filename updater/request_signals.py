"""What was known of items when a request began, for targets of a stretch that is about to be trained on."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from models.arrays import Float32Array, Int64Array
from models.item_signals import ItemSignals
from models.key_bytes import hash_keys

HORIZON_MS = 14 * 86_400_000
"""How far back events are counted: two of the longest half-lives."""
COLUMNS = ("ts_ms", "item_id", "kind", "request_id")


class RequestSignals:
    """Signals as of the first event of a target's request: what it showed itself is not known yet, as it was
    not when its candidates were found.
    """

    def __init__(self, events: pa.Table, positives: tuple[str, ...]) -> None:
        """events: COLUMNS of EVENT_SCHEMA, from HORIZON_MS before the stretch to its end."""
        self._signals = ItemSignals(positives)
        self._signals.observe(events)
        requests, places = np.unique(hash_keys(events["request_id"]), return_inverse=True)
        self._requests: Int64Array = requests
        self._begin_ms = np.full(len(requests), np.iinfo(np.int64).max)
        np.minimum.at(self._begin_ms, places, np.array(events["ts_ms"], np.int64))

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

    def entries(self, keys: pa.Array) -> Int64Array:
        """int64[K] of items string[K], for of()."""
        return self._signals.entries(keys)

    def of(self, entries: Int64Array, asked_ms: int) -> Float32Array:
        """float32[N, S] of the items `entries` int64[N] at a moment."""
        return self._signals.values(entries, asked_ms)
