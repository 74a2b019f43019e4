"""A model's input of requests: of the live histories, the newest entries that each of its histories reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from models.key_bytes import string_array
from models.moments import HistoryLists, Moments
from serving.packed_history import PackedHistory, newest_of_each
from serving.profile import HistoryEntry
from serving.tower_contract import TowerConfig


class Asked(NamedTuple):
    """Who asks: key text, moment, history and what is known of the request and the user."""

    user: str
    ts_ms: int
    history: Sequence[HistoryEntry]
    context: Mapping[str, str]
    attributes: Mapping[str, str]


def moment_of(
    config: TowerConfig,
    user: str,
    ts_ms: int,
    history: Sequence[HistoryEntry],
    context: Mapping[str, str],
    attributes: Mapping[str, str],
) -> Moments:
    """The input of a model or item-to-item channel. What happened after the moment is not yet history."""
    return moments_of(config, [Asked(user, ts_ms, history, context, attributes)])


def moments_of(config: TowerConfig, asked: Sequence[Asked]) -> Moments:
    """The same of several requests."""
    main = _newest(asked, config.positives, config.read_length)
    return Moments(
        string_array([one.user for one in asked]),
        np.array([one.ts_ms for one in asked], np.int64),
        main.id,
        main.offsets,
        main.ts_ms,
        _columns([one.context for one in asked]),
        _columns([one.attributes for one in asked]),
        {name: _newest(asked, of.kinds, of.length) for name, of in config.histories.items()},
    )


def _columns(values: Sequence[Mapping[str, str]]) -> dict[str, pa.Array]:
    names = dict.fromkeys(name for one in values for name in one)
    return {name: pa.array([one.get(name) for one in values], pa.string()) for name in names}


def _newest(asked: Sequence[Asked], kinds: Sequence[str], length: int) -> HistoryLists:
    packed = [one.history for one in asked if isinstance(one.history, PackedHistory)]
    if len(packed) == len(asked):
        return newest_of_each(packed, kinds, length, [one.ts_ms for one in asked])
    lists = [newest(one.history, kinds, length, one.ts_ms) for one in asked]
    return HistoryLists(
        string_array([key for entries in lists for key, _ in entries]),
        np.fromiter(accumulate(map(len, lists), initial=0), np.int64, len(lists) + 1),
        np.array([ts_ms for entries in lists for _, ts_ms in entries], np.int64),
    )


def newest(
    history: Sequence[HistoryEntry], kinds: Sequence[str], length: int, ts_ms: int
) -> list[tuple[str, int]]:
    """(item key, ts_ms) of the newest entries of some kinds, oldest first.

    An item counts once per request, at its first such kind, as in training.
    """
    entries: list[tuple[str, int]] = []
    met: set[tuple[str, str]] = set()
    for entry in history:
        item = entry.item_id
        if item and entry.ts_ms <= ts_ms and entry.kind in kinds:
            if request := entry.request_id:
                if (request, item) in met:
                    continue
                met.add((request, item))
            entries.append((item, entry.ts_ms))
    return entries[-length:]
