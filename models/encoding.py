"""From moments and items, given as keys, to tower inputs: the one path of serving, evaluation and
encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from models.arrays import Float32Array
from models.features import Columns, FeatureColumns
from models.id_table import IdTable
from models.key_bytes import key_array
from models.model_config import ModelConfig
from models.moments import Moments
from models.pooling import ages_s, history_bags, newest_positions
from models.samples import Samples
from models.towers import ItemInputs, UserInputs

RowsOf = Callable[[str, pa.StringArray], Tensor]
"""(table, keys string[n]) -> rows float32[n, E]; the cold row for unknown keys. Never mutates."""


def user_inputs(
    config: ModelConfig, features: FeatureColumns, moments: Moments, rows_of: RowsOf
) -> UserInputs:
    """Tower inputs of N moments."""
    positions = newest_positions(moments.history_offsets, config.history_length)
    known_times = moments.history_ts_ms if len(moments.history_ts_ms) else np.zeros(1, np.int64)
    age_s = ages_s(moments.ts_ms, known_times[np.maximum(positions, 0)])
    flat, offsets, weights = history_bags(positions, age_s, config.history_half_life_days)
    history_table = "item" if config.shared_items else "history_item"
    history_id = key_array(moments.history_id)
    if len(flat) < len(history_id):  # else every one of them is pooled, in order
        history_id = history_id.take(pa.array(flat))
    pooled = torch.nn.functional.embedding_bag(
        torch.from_numpy(np.arange(len(flat))),
        rows_of(history_table, history_id),
        torch.from_numpy(offsets),
        mode="sum",
        per_sample_weights=torch.from_numpy(weights),
        include_last_offset=True,
    )
    columns: dict[tuple[str, str], pa.Array] = {
        ("context", name): col for name, col in moments.context.items()
    }
    columns |= {("user", name): column for name, column in moments.user_attributes.items()}
    return UserInputs(
        user=rows_of("user", key_array(moments.user_id)),
        history=pooled,
        history_size=torch.from_numpy((offsets[1:] - offsets[:-1]).astype(np.float32)),
        categories=_categories(features, columns, moments.ts_ms, rows_of),
        numbers=torch.from_numpy(features.standardised(features.raw_numbers(columns, moments.ts_ms))),
    )


def item_inputs(
    features: FeatureColumns, keys: pa.StringArray, attributes: Mapping[str, pa.Array], rows_of: RowsOf
) -> ItemInputs:
    """Tower inputs of N items from their keys and attribute columns."""
    columns: dict[tuple[str, str], pa.Array] = {("item", name): column for name, column in attributes.items()}
    times = np.zeros(len(keys), np.int64)
    return ItemInputs(
        item=rows_of("item", keys),
        categories=_categories(features, columns, times, rows_of),
        numbers=torch.from_numpy(features.standardised(features.raw_numbers(columns, times))),
    )


def _categories(
    features: FeatureColumns, columns: Columns, ts_ms: np.ndarray, rows_of: RowsOf
) -> list[Tensor]:
    return [
        rows_of(feature.table, keys)
        for feature, keys in zip(features.categories, features.keys(columns, ts_ms), strict=True)
    ]


def encode_users(
    config: ModelConfig, features: FeatureColumns, model: nn.Module, moments: Moments, rows_of: RowsOf
) -> Float32Array:
    """User vectors float32[N, D] of N moments."""
    with torch.no_grad():
        inputs = user_inputs(config, features, moments, rows_of)
        vectors: Float32Array = model.user_vectors(inputs).numpy()  # type: ignore[operator]
    return vectors


def encode_items(
    features: FeatureColumns,
    model: nn.Module,
    keys: pa.Array,
    attributes: Mapping[str, pa.Array],
    rows_of: RowsOf,
) -> Float32Array:
    """Item vectors float32[N, D] from keys and attribute columns."""
    with torch.no_grad():
        inputs = item_inputs(features, key_array(keys), attributes, rows_of)
        vectors: Float32Array = model.item_vectors(inputs).numpy()  # type: ignore[operator]
    return vectors


def moments_of(samples: Samples, ids: Mapping[str, IdTable], features: FeatureColumns) -> Moments:
    """The moments of samples with IDs as keys; numbers become the feature columns they came from."""
    rows, places = np.nonzero(samples.history >= 0)
    offsets = np.zeros(len(samples) + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=len(samples)), out=offsets[1:])
    context: dict[str, pa.Array] = {}
    users: dict[str, pa.Array] = {}
    for place, feature in enumerate(features.categories):
        if feature.source != "time":
            column = ids[feature.table].keys_of(samples.categories[:, place])
            (context if feature.source == "context" else users)[feature.name] = column
    for place, feature in enumerate(features.numbers):
        if feature.source != "time":
            column = pa.array(samples.numbers[:, place], from_pandas=True)
            (context if feature.source == "context" else users)[feature.name] = column
    return Moments(
        user_id=ids["user"].keys_of(samples.user),
        ts_ms=samples.ts_ms,
        history_id=ids["item"].keys_of(samples.history[rows, places]),
        history_offsets=offsets,
        history_ts_ms=(samples.ts_ms[:, None] - samples.history_age_s.astype(np.int64) * 1000)[rows, places],
        context=context,
        user_attributes=users,
    )
