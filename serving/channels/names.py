"""Names of the built-in channels."""

POPULARITY, OWN_ITEMS, EDITORIAL, FRESH = "popularity", "own_items", "editorial", "fresh"
BUILT_IN = (POPULARITY, OWN_ITEMS, EDITORIAL, FRESH)
"""Channels that every snapshot has, whatever its bundle was trained with."""
