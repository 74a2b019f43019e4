"""From moments and items, given as keys, to tower inputs: the one path of serving, evaluation and
encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from models.architecture import RecallModel
from models.arrays import Float32Array, Int32Array, Int64Array
from models.features import Columns, FeatureColumns
from models.id_table import IdTable
from models.key_bytes import key_array
from models.model_config import ModelConfig
from models.moments import HistoryLists, Moments
from models.own_items import own_features, own_of_moments
from models.pooling import ages_s, history_bags, newest_positions
from models.popularity_layout import PopularityLayout
from models.query import Queries
from models.request_columns import columns_of_moments
from models.samples import Samples
from models.towers import HistorySequence, ItemInputs, UserInputs, sequence_inputs

if TYPE_CHECKING:  # only training has them: a server does not load what fills histories
    from models.history import HistoryTable

RowsOf = Callable[[str, pa.StringArray], Tensor]
"""(table, keys string[n]) -> rows float32[n, E]; the cold row for unknown keys. Never mutates."""

EntriesOf = Callable[[str, pa.StringArray], Int64Array]
"""(table, keys string[n]) -> entries int64[n], -1 = unknown. Never mutates."""


def user_inputs(
    config: ModelConfig, features: FeatureColumns, model: RecallModel, moments: Moments, rows_of: RowsOf
) -> UserInputs:
    """Tower inputs of N moments."""
    n = len(moments)
    main = HistoryLists(moments.history_id, moments.history_offsets, moments.history_ts_ms)
    pooled, size, sequence = torch.zeros(n, config.id_dim), torch.zeros(n), None
    if config.use_history:
        length = config.history_length
        if model.towers.needs_sequence:
            pooled, size, sequence = _sequence(config, main, length, moments.ts_ms, rows_of)
        else:
            pooled, size = _pooled(config, main, length, moments.ts_ms, rows_of)
    columns = columns_of_moments(moments)
    known = rows_of("user", key_array(moments.user_id)) if config.user_row else torch.zeros(n, config.id_dim)
    return UserInputs(
        user=known,
        history=pooled,
        history_size=size,
        categories=_categories(features, columns, moments.ts_ms, rows_of),
        numbers=torch.from_numpy(features.standardised(features.raw_numbers(columns, moments.ts_ms))),
        pooled={
            name: _pooled(config, moments.history_named(name), kinds.length, moments.ts_ms, rows_of)[0]
            for name, kinds in config.histories.items()
        },
        sequence=sequence,
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


def _newest(history: HistoryLists, length: int, ts_ms: Int64Array) -> tuple[Int32Array, Int32Array]:
    """Places of the newest `length` entries in the flat lists, int32[N, L] (-1 = none), and their ages."""
    positions = newest_positions(history.offsets, length)
    known_times = history.ts_ms if len(history.ts_ms) else np.zeros(1, np.int64)
    return positions, ages_s(ts_ms, known_times[np.maximum(positions, 0)])


def _history_rows(config: ModelConfig, history: HistoryLists, flat: Int64Array, rows_of: RowsOf) -> Tensor:
    keys = key_array(history.id)
    if len(flat) < len(keys):  # else every one of them is read, in order
        keys = keys.take(pa.array(flat))
    return rows_of("item" if config.shared_items else "history_item", keys)


def _pooled(
    config: ModelConfig, history: HistoryLists, length: int, ts_ms: Int64Array, rows_of: RowsOf
) -> tuple[Tensor, Tensor]:
    """(pooled rows [N, E], entries pooled [N])."""
    positions, age_s = _newest(history, length, ts_ms)
    flat, offsets, weights = history_bags(positions, age_s, config.history_half_life_days)
    vectors = torch.nn.functional.embedding_bag(
        torch.from_numpy(np.arange(len(flat))),
        _history_rows(config, history, flat, rows_of),
        torch.from_numpy(offsets),
        mode="sum",
        per_sample_weights=torch.from_numpy(weights),
        include_last_offset=True,
    )
    return vectors, torch.from_numpy((offsets[1:] - offsets[:-1]).astype(np.float32))


def _sequence(
    config: ModelConfig, history: HistoryLists, length: int, ts_ms: Int64Array, rows_of: RowsOf
) -> tuple[Tensor, Tensor, HistorySequence]:
    positions, age_s = _newest(history, length, ts_ms)
    mask = positions >= 0
    rows = _history_rows(config, history, positions[mask].astype(np.int64), rows_of)
    return sequence_inputs(rows, mask, age_s)


def _categories(
    features: FeatureColumns, columns: Columns, ts_ms: np.ndarray, rows_of: RowsOf
) -> list[Tensor]:
    """Per feature the mean of its keys' rows, [N, e]."""
    values = []
    for feature, bags in zip(features.categories, features.keys(columns, ts_ms), strict=True):
        rows = rows_of(feature.table, bags.keys)
        if bags.offsets is not None:
            counts = np.diff(bags.offsets)
            weights = np.repeat(1.0 / counts, counts).astype(np.float32)
            rows = torch.nn.functional.embedding_bag(
                torch.arange(len(rows)),
                rows,
                torch.from_numpy(bags.offsets),
                mode="sum",
                per_sample_weights=torch.from_numpy(weights),
                include_last_offset=True,
            )
        values.append(rows)
    return values


def encode_queries(
    config: ModelConfig,
    features: FeatureColumns,
    model: RecallModel,
    moments: Moments,
    rows_of: RowsOf,
    entries_of: EntriesOf,
) -> Queries:
    """Queries of N moments."""
    with torch.no_grad():
        inputs = user_inputs(config, features, model, moments, rows_of)
        u_BVD = model.towers.user_vectors(inputs)
        side = inputs.side(config.history_length)
        layout, values = (
            PopularityLayout(config.popularity),
            popularity_codes(config, features, moments, entries_of),
        )

        def beside(similarity_BVD: Tensor, w_BC: Tensor) -> Float32Array:
            w_BP = layout.spread(config.tau * w_BC, values)[:, None].expand(-1, similarity_BVD.shape[1], -1)
            joined: Float32Array = torch.cat([similarity_BVD, w_BP], dim=2).numpy()
            return joined

        vectors = beside(u_BVD, model.head.popularity_weights(side))
        if not config.own_items:
            return Queries.plain(vectors)
        own_vectors = beside(model.head.own_similarity * u_BVD, model.head.own_popularity_weights(side))
        own, keys = own_of_moments(moments, config.own_items)
        scores = config.tau * model.head.own_scores(torch.from_numpy(own_features(own)))
        return Queries(vectors, own_vectors, own.offsets, keys, scores.numpy())


def popularity_codes(
    config: ModelConfig, features: FeatureColumns, moments: Moments, entries_of: EntriesOf
) -> dict[str, Int64Array]:
    """The moments' values of the features that popularity is counted by."""
    tables = {count.by: features.named(count.by).table for count in config.popularity if count.by}
    if not tables:
        return {}
    part = features.part(list(tables.values()))
    bags = part.keys(columns_of_moments(moments), moments.ts_ms)
    keys = {feature.table: bag.keys for feature, bag in zip(part.categories, bags, strict=True)}
    return {name: entries_of(table, keys[table]) for name, table in tables.items()}


def encode_items(
    features: FeatureColumns,
    model: RecallModel,
    keys: pa.Array,
    attributes: Mapping[str, pa.Array],
    rows_of: RowsOf,
) -> Float32Array:
    """Similarity part float32[N, D] of item vectors from keys and attribute columns."""
    with torch.no_grad():
        inputs = item_inputs(features, key_array(keys), attributes, rows_of)
        vectors: Float32Array = model.towers.item_vectors(inputs).numpy()
    return vectors


def moments_of(
    config: ModelConfig,
    samples: Samples,
    ids: Mapping[str, IdTable],
    features: FeatureColumns,
    history: HistoryTable,
    histories: Mapping[str, HistoryTable],
) -> Moments:
    """The moments of samples with IDs as keys: histories as of each moment (times to the second), features
    as the columns they came from.
    """

    def lists(table: HistoryTable, length: int) -> HistoryLists:
        items, age_s = table.read(samples.user, samples.ts_ms, samples.request, length)
        known = items >= 0
        offsets = np.zeros(len(samples) + 1, np.int64)
        np.cumsum(known.sum(axis=1), out=offsets[1:])
        times = samples.ts_ms[:, None] - age_s.astype(np.int64) * 1000
        return HistoryLists(ids["item"].keys_of(items[known]), offsets, times[known])

    main = lists(history, max(config.history_length, config.own_items))
    columns = features.columns_of(samples.categories, samples.numbers, ids)
    return Moments(
        user_id=ids["user"].keys_of(samples.user),
        ts_ms=samples.ts_ms,
        history_id=main.id,
        history_offsets=main.offsets,
        history_ts_ms=main.ts_ms,
        context={name: column for (source, name), column in columns.items() if source == "context"},
        user_attributes={name: column for (source, name), column in columns.items() if source == "user"},
        histories={
            name: lists(histories[name], further.length) for name, further in config.histories.items()
        },
    )
