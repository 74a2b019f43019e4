"""Where a new item's row begins in a model without an item tower: at the mean of its most similar items.

Similar items hold the same feature values (categories, several values, tokens, crosses); a shared value
counts its inverse document frequency, idf = log(1 + M / holders) among M trained items. A row is trained from
its first gradient on (Adagrad momentum above 0), and is left alone from then on.

Shapes: N new items, M trained items, C slots of item features, E width of an item row.
"""

from __future__ import annotations

import numpy as np

from models.arrays import Float32Array, Float64Array, Index, Int32Array, Int64Array
from models.features import FeatureColumns
from models.item_store import ItemStore
from models.native import compiled
from models.tables import Tables

SIMILAR = 20
"""Most similar items whose rows are averaged; more where several are as similar as the last of them."""
_COMMON = 10_000
"""Values with more holders find no further items where rarer ones found enough: that bounds the time."""


@compiled
def _counted(trained_MC: Int64Array, last: Int64Array, holding: Int64Array) -> None:
    """holding[value] = items that hold it; last: -1 by value, scratch."""
    for item in range(trained_MC.shape[0]):
        for value in trained_MC[item]:
            if value >= 0 and last[value] != item:
                last[value] = item
                holding[value] += 1


@compiled
def _listed(trained_MC: Int64Array, number: Int64Array, offsets: Int64Array, holders: Int64Array) -> None:
    """Items by the number of each value, each once, ascending; the list of number c begins at offsets[c]."""
    end = offsets.copy()
    for item in range(trained_MC.shape[0]):
        for value in trained_MC[item]:
            code = number[value]
            if code >= 0 and (end[code] == offsets[code] or holders[end[code] - 1] != item):
                holders[end[code]] = item
                end[code] += 1


@compiled
def _means(
    codes_NC: Int64Array,
    offsets: Int64Array,
    holders: Int64Array,
    idf: Float64Array,
    rows_ME: Float32Array,
    most: Index,
    means_NE: Float64Array,
    similar: Int64Array,
) -> None:
    score = np.zeros(len(rows_ME), np.float64)
    touched = np.empty(len(rows_ME), np.int64)
    for n in range(len(codes_NC)):
        found = 0
        for code in codes_NC[n]:  # rarest first
            if code < 0:
                continue
            if found >= most and offsets[code + 1] - offsets[code] > _COMMON:
                break
            for item in holders[offsets[code] : offsets[code + 1]]:
                if score[item] == 0.0:
                    touched[found] = item
                    found += 1
                score[item] += idf[code]
        if found == 0:
            continue
        least = 0.0
        if found > most:
            least = np.partition(score[touched[:found]], found - most)[found - most] * (1.0 - 1e-9)
        for item in touched[:found]:
            if score[item] >= least:
                similar[n] += 1
                for e in range(rows_ME.shape[1]):
                    means_NE[n, e] += rows_ME[item, e]
            score[item] = 0.0
        means_NE[n] /= similar[n]


def similar_means(
    new_NC: Int64Array, trained_MC: Int64Array, rows_ME: Float32Array, most: int = SIMILAR
) -> tuple[Float32Array, Int64Array]:
    """(means float32[N, E] of the rows of the `most` most similar trained items, how many they are int64[N]).

    new_NC, trained_MC: values of the items' features as numbers from 0, no number twice for two features;
    -1 = none, and a value that an item holds twice counts once. rows_ME: float32[M, E]. Items that are as
    similar as the last of the `most` are all taken; an item that shares no value has none, and a mean of 0.
    """
    m, values = len(trained_MC), int(max(new_NC.max(initial=-1), trained_MC.max(initial=-1))) + 1
    holding = np.zeros(values, np.int64)
    _counted(trained_MC, np.full(values, -1, np.int64), holding)
    shared = np.unique(new_NC)
    shared = shared[shared >= 0]
    shared = shared[holding[shared] > 0]
    rarest = shared[np.argsort(holding[shared], kind="stable")]
    number = np.full(values + 1, -1, np.int64)  # the last place is that of -1
    number[rarest] = np.arange(len(rarest))
    offsets = np.concatenate([[0], np.cumsum(holding[rarest])])
    holders = np.empty(offsets[-1], np.int64)
    _listed(trained_MC, number, offsets, holders)
    codes_NC = np.sort(number[new_NC], axis=1)
    codes_NC[:, 1:][codes_NC[:, 1:] == codes_NC[:, :-1]] = -1
    # Items that differ in nothing that a trained item has are one.
    distinct, place = np.unique(codes_NC, axis=0, return_inverse=True)
    means = np.zeros((len(distinct), rows_ME.shape[1]), np.float64)
    similar = np.zeros(len(distinct), np.int64)
    _means(distinct, offsets, holders, np.log1p(m / holding[rarest]), rows_ME, most, means, similar)
    place = place.reshape(-1)
    return means[place].astype(np.float32), similar[place]


def start_new_items(tables: Tables, features: FeatureColumns, items: ItemStore, spread: bool) -> Int64Array:
    """Move rows of "item" that were never trained from the cold row to the mean of their most similar items;
    returns these rows, int64[n]. Items that share no feature value with a trained one stay.

    spread: all of them, which Tables.spread() has just put around the cold row, and each keeps its distance;
    else those that still are the cold row, to the bit: new since the last training, and not moved before.
    """
    if not features.slots:
        return np.empty(0, np.int64)
    ids, embedding = tables.ids["item"], tables.rows["item"]
    entries = ids.live_entries()
    entries = entries[ids.entry_rows[entries] > 0]
    rows = ids.rows(entries)
    weights = embedding.weights.numpy()
    trained = embedding.momentum.numpy()[rows] > 0
    fresh = np.flatnonzero(~trained)
    if not spread:
        fresh = fresh[(weights[rows[fresh]] == weights[0]).all(axis=1)]
    if not len(fresh) or not trained.any():
        return np.empty(0, np.int64)
    codes = _codes(features, items.categories, tables)
    means, similar = similar_means(codes[entries[fresh]], codes[entries[trained]], weights[rows[trained]])
    moved = rows[fresh[similar > 0]]
    weights[moved] += means[similar > 0] - weights[0]
    return moved


def _codes(features: FeatureColumns, categories: Int32Array, tables: Tables) -> Int64Array:
    """int64[entries, C]: the entries of all feature tables as one range of numbers, -1 = none."""
    start_C = np.empty(features.slots, np.int64)
    start = 0
    for feature in features.categories:
        start_C[features.layout[feature.table]] = start
        start += tables.ids[feature.table].entry_capacity
    return np.where(categories >= 0, categories + start_C, -1)
