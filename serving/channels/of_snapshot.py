"""All channels of one snapshot, by name, in the order of their importance."""

from __future__ import annotations

from collections.abc import Mapping

from serving.channels.contract import Source
from serving.channels.editorial import EditorialSource, Lists
from serving.channels.fresh import FreshSource
from serving.channels.names import EDITORIAL, FRESH, OWN_ITEMS, POPULAR_NOW, POPULARITY, SAME
from serving.channels.neighbours import NeighbourSource
from serving.channels.own import OwnItemsSource
from serving.channels.popular import PopularSource
from serving.channels.same import SameSource, by_value
from serving.channels.tower import TowerSource
from serving.config import ServingConfig
from serving.eligible import Eligible
from serving.popular_now import PopularItems


def sources_of(
    items: Eligible, config: ServingConfig, editorial: Lists, popular: PopularItems | None = None
) -> Mapping[str, Source]:
    """The snapshot's models and item-to-item channels in its order, then the built-in ones, and those of
    shared attributes; over the items that may be answered.

    popular: the list of what is popular now; without it, the snapshot's list stands in.
    """
    snapshot = items.snapshot
    sources: dict[str, Source] = {
        name: TowerSource(snapshot.channels[name])
        if name in snapshot.channels
        else NeighbourSource(snapshot.neighbours[name])
        for name in snapshot.names
    }
    keys, scores = snapshot.popular_keys, snapshot.popular_scores
    sources[POPULARITY] = PopularSource(keys, scores)
    sources[POPULAR_NOW] = PopularSource(popular.items, popular.rates) if popular else sources[POPULARITY]
    sources[OWN_ITEMS] = OwnItemsSource(config.own_items)
    sources[EDITORIAL] = EditorialSource(editorial)
    sources[FRESH] = FreshSource(snapshot.fresh)
    attributes = snapshot.attributes
    for name, same in config.same.items():
        if name in attributes.columns:
            index = by_value(snapshot.by_value, attributes, name, keys, scores, same.order)
            sources[SAME + name] = SameSource(same, attributes, name, index, items.out)
    return sources
