"""A model's input of one request: of the live history, the newest entries of each of its histories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from models.moments import Moments, moment_of_columns, one_moment
from serving.packed_history import PackedHistory
from serving.profile import HistoryEntry
from serving.tower_contract import TowerConfig


def moment_of(
    config: TowerConfig,
    user: str,
    ts_ms: int,
    history: Sequence[HistoryEntry],
    context: Mapping[str, str],
    attributes: Mapping[str, str],
) -> Moments:
    """The input of a model or item-to-item channel. What happened after the moment is not yet history."""
    if isinstance(history, PackedHistory):
        main = history.newest(config.positives, config.read_length, ts_ms)
        further = {name: history.newest(of.kinds, of.length, ts_ms) for name, of in config.histories.items()}
        return moment_of_columns(user, ts_ms, main, context, attributes, further)
    return one_moment(
        user,
        ts_ms,
        newest(history, config.positives, config.read_length, ts_ms),
        context,
        attributes,
        {name: newest(history, of.kinds, of.length, ts_ms) for name, of in config.histories.items()},
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
