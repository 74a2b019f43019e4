"""A model's input of one request: of the live history, the newest entries of each of its histories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from models.moments import Moments, one_moment
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
    entries: dict[tuple[object, str], int] = {}
    for place, entry in enumerate(history):
        if entry.kind in kinds and entry.item_id and entry.ts_ms <= ts_ms:
            entries.setdefault((entry.request_id or place, entry.item_id), entry.ts_ms)
    return [(item, at) for (_, item), at in entries.items()][-length:]
