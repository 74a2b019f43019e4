"""What users met, item after item, as of any moment: of past events, to learn from.

A server reads the same from the user's profile (serving/stages.py).
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.affinities import HISTORY
from models.arrays import Int64Array
from models.key_bytes import hash_keys, key_array
from models.meetings import LATELY_MS
from models.moments import HistoryLists


class MetItems:
    """An item counts once per request, at the first event by which the user met it there.

    COLUMNS of EVENT_SCHEMA are read; kinds: those by which a user meets an item.
    """

    COLUMNS = ("ts_ms", "user_id", "item_id", "kind", "request_id")

    def __init__(self, events: pa.Table, kinds: tuple[str, ...]) -> None:
        """events: in any order; without kinds they are not read."""
        self._user: Int64Array = np.empty(0, np.int64)
        self._ts_ms: Int64Array = np.empty(0, np.int64)
        self._item = pa.array([], pa.string())
        if not kinds:
            return
        known = pc.and_(pc.not_equal(events["user_id"], ""), pc.not_equal(events["item_id"], ""))
        chosen = pc.and_(known, pc.is_in(events["kind"], pa.array(kinds, pa.string())))
        met = events.filter(chosen).sort_by([("ts_ms", "ascending")])
        keys = [key_array(met[name]) for name in ("user_id", "request_id", "item_id")]
        alone = np.flatnonzero(pc.equal(keys[1], "").to_numpy(zero_copy_only=False))
        user, request, item = (hash_keys(one) for one in keys)
        request[alone] = -1 - alone  # one without a request is a request of its own
        _, first = np.unique(np.stack([user, request, item]), axis=1, return_index=True)
        first = np.sort(first)
        first = first[np.argsort(user[first], kind="stable")]
        self._user, self._item = user[first], keys[2].take(pa.array(first))
        self._ts_ms = np.array(met["ts_ms"], np.int64)[first]

    def before(self, users: pa.Array, as_of_ms: Int64Array) -> HistoryLists:
        """What users string[n] met before moments int64[n]: the newest HISTORY of LATELY_MS, oldest first."""
        user = hash_keys(users)
        begin, end = (np.searchsorted(self._user, user, side) for side in ("left", "right"))
        places = []
        for first, last, now_ms in zip(begin.tolist(), end.tolist(), as_of_ms.tolist(), strict=True):
            bounds = np.searchsorted(self._ts_ms[first:last], [now_ms - LATELY_MS, now_ms])
            since, until = (bounds + first).tolist()
            places.append(np.arange(max(since, until - HISTORY), until))
        flat = np.concatenate([*places, np.empty(0, np.int64)]).astype(np.int64)
        offsets = np.zeros(len(places) + 1, np.int64)
        np.cumsum([len(one) for one in places], out=offsets[1:])
        return HistoryLists(self._item.take(pa.array(flat)), offsets, self._ts_ms[flat])
