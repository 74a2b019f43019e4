"""Candidates of an item-to-item channel (ItemCF, Swing): neighbours of the newest of the user's history."""

from __future__ import annotations

from dataclasses import dataclass

from serving.channels.contract import Ask, Ranking, ranking_of
from serving.channels.moment import moment_of
from serving.snapshot import NeighbourChannel


@dataclass(frozen=True)
class NeighbourSource:
    """One item-to-item channel of the snapshot."""

    channel: NeighbourChannel

    def candidates(self, ask: Ask, k: int) -> Ranking:
        """The k items with the greatest sum of similarities to the history."""
        items, profile = self.channel.items, ask.profile
        moment = moment_of(
            self.channel.config, ask.user, ask.ts_ms, profile.history, ask.context, profile.attributes
        )
        excluded = None if ask.excluded_keys is None else [items.lookup(ask.excluded_keys)]
        return ranking_of(items.search(moment, k, excluded), items)
