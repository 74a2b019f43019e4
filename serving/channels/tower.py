"""Candidates of a recall model: the user tower's vectors against its item index."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from models.retrieve import retrieve
from serving.channels.contract import Ask, Ranking, ranking_of
from serving.channels.moment import moment_of
from serving.snapshot import Channel


@dataclass(frozen=True)
class TowerSource:
    """One recall model of the snapshot."""

    channel: Channel

    def candidates(self, ask: Ask, k: int) -> Ranking:
        """The k items of the highest scores."""
        items, profile = self.channel.items, ask.profile
        moment = moment_of(
            self.channel.config, ask.user, ask.ts_ms, profile.history, ask.context, profile.attributes
        )
        excluded = None if ask.excluded_keys is None else [items.lookup(ask.excluded_keys)]
        with torch.inference_mode():  # of this thread
            queries = self.channel.tower.queries(moment)
        return ranking_of(retrieve(queries, items, k, excluded), items)
