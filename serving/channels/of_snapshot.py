"""All channels of one snapshot, by name, in the order of their importance."""

from __future__ import annotations

from collections.abc import Mapping

from serving.channels.contract import Source
from serving.channels.editorial import EditorialSource, Lists
from serving.channels.fresh import FreshSource
from serving.channels.names import EDITORIAL, FRESH, OWN_ITEMS, POPULAR_NOW, POPULARITY
from serving.channels.neighbours import NeighbourSource
from serving.channels.own import OwnItemsConfig, OwnItemsSource
from serving.channels.popular import PopularSource
from serving.channels.tower import TowerSource
from serving.popular_now import PopularItems
from serving.snapshot import Snapshot


def sources_of(
    snapshot: Snapshot, own: OwnItemsConfig, editorial: Lists, popular: PopularItems | None = None
) -> Mapping[str, Source]:
    """The snapshot's models and item-to-item channels in its order, then the built-in ones.

    popular: the list of what is popular now; without it, the snapshot's list stands in.
    """
    sources: dict[str, Source] = {
        name: TowerSource(snapshot.channels[name])
        if name in snapshot.channels
        else NeighbourSource(snapshot.neighbours[name])
        for name in snapshot.names
    }
    sources[POPULARITY] = PopularSource(snapshot.popular_keys, snapshot.popular_scores)
    sources[POPULAR_NOW] = PopularSource(popular.items, popular.rates) if popular else sources[POPULARITY]
    sources[OWN_ITEMS] = OwnItemsSource(own)
    sources[EDITORIAL] = EditorialSource(editorial)
    sources[FRESH] = FreshSource(snapshot.fresh)
    return sources
