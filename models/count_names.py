"""Names of the live counts of an item (models/item_signals.py), for those who only weigh or read them."""

HALF_LIVES_H = (1.0, 6.0, 24.0, 168.0)
PARTS = ("taken", "shown")
"""Positives; and all other events but rejects, exposures mostly."""
NAMES = tuple(f"{part}, {hours:g} h" for part in PARTS for hours in HALF_LIVES_H)
SIGNALS = len(NAMES)
"""S: log(1 + decayed count) by part and half-life."""
