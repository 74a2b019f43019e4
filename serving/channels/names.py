"""Names of the built-in channels."""

from models.blend import POPULARITY

__all__ = ["BUILT_IN", "EDITORIAL", "EXPLORE", "FRESH", "OWN_ITEMS", "POPULARITY", "POPULAR_NOW", "SAME"]

POPULAR_NOW, OWN_ITEMS, EDITORIAL, FRESH = "popular_now", "own_items", "editorial", "fresh"
EXPLORE = "explore"
BUILT_IN = (POPULARITY, POPULAR_NOW, OWN_ITEMS, EDITORIAL, FRESH, EXPLORE)
"""Channels that every snapshot has, whatever its bundle was trained with."""
SAME = "same_"
"""How the names of channels by item attribute begin; the attribute follows."""
