"""Columns of the request's side, for models/features.py: of events with a catalogue, and of moments."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from models.catalogue_columns import CatalogueColumns, user_columns
from models.features import Columns, FeatureColumns
from models.key_bytes import key_array
from models.moments import Moments


def columns_of_events(features: FeatureColumns, events: pa.Table, catalogue: CatalogueColumns) -> Columns:
    """What the features read of N events (columns user_id, scene, context of EVENT_SCHEMA)."""
    columns: dict[tuple[str, str], pa.Array] = {}
    for name in features.reads("context"):
        if name == "scene" and "scene" in events.column_names:
            columns["context", name] = key_array(events["scene"])
        elif "context" in events.column_names:
            columns["context", name] = pc.map_lookup(events["context"].combine_chunks(), name, "last")
    if features.reads("user"):
        positions = catalogue.user_positions(events["user_id"])
        columns |= user_columns(features, catalogue.users, positions)
    return columns


def columns_of_moments(moments: Moments) -> Columns:
    """Everything that N moments say of the request and the user."""
    columns: dict[tuple[str, str], pa.Array] = {
        ("context", name): column for name, column in moments.context.items()
    }
    return columns | {("user", name): column for name, column in moments.user_attributes.items()}
