"""From queries to items: exact scores over everything, and the best k through an index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from models.arrays import Float32Array, Int64Array
from models.id_table import IdTable
from models.item_index import ItemIndex
from models.query import Queries


def dense_scores(queries: Queries, keys: pa.Array, vectors: Float32Array) -> Float32Array:
    """Score of every item for every query, float32[N, items], by brute force.

    keys: string[items]; vectors: float32[items, W].
    """
    scores: Float32Array = (queries.flat @ vectors.T).reshape(*queries.vectors.shape[:2], -1).max(1)
    if len(queries.own_id):
        places = IdTable.of_unique(keys).lookup(queries.own_id)
        known = places >= 0
        rows, places = np.repeat(np.arange(len(queries)), np.diff(queries.own_offsets))[known], places[known]
        own = np.einsum("nvw,nw->nv", queries.own_vectors[rows], vectors[places]).max(1)
        scores[rows, places] = own + queries.own_score[known]
    return scores


def scores_of(queries: Queries, items: ItemIndex, positions: Int64Array) -> Float32Array:
    """Scores of items for one query, float32[n]; positions int64[n], -1 (score -inf) = no such item.

    The same numbers as dense_scores, read from the index's own vectors.
    """
    scores = np.full(len(positions), -np.inf, np.float32)
    held = np.flatnonzero(positions >= 0)
    vectors = items.vectors_of(positions[held])
    scores[held] = (vectors @ queries.vectors[0].T).max(1)
    if len(queries.own_id):
        own = items.lookup(queries.own_id)
        order = np.argsort(own)
        place = np.searchsorted(own[order], positions[held])
        place = order[np.minimum(place, len(own) - 1)]
        is_own = own[place] == positions[held]
        own_scores = (vectors[is_own] @ queries.own_vectors[0].T).max(1)
        scores[held[is_own]] = own_scores + queries.own_score[place[is_own]]
    return scores


def retrieve(
    queries: Queries, items: ItemIndex, k: int, excluded: Sequence[Int64Array] | None = None
) -> tuple[Float32Array, Int64Array]:
    """The k best items: scores float32[N, k] and positions int64[N, k], best first; -1 (score -inf) beyond.

    excluded: per query the positions that may not be returned. The same answer as sorting dense_scores,
    with an exact index: own items are left out of the search, scored one by one, and merged in.
    """
    if not len(queries.own_id) and queries.vectors.shape[1] == 1:  # one search does it all
        return items.search(queries.vectors[:, 0], k, excluded)
    found_scores = np.full((len(queries), k), -np.inf, np.float32)
    found = np.full((len(queries), k), -1, np.int64)
    own_places = items.lookup(queries.own_id) if len(queries.own_id) else np.empty(0, np.int64)
    for n in range(len(queries)):
        barred = excluded[n] if excluded is not None else np.empty(0, np.int64)
        part = slice(queries.own_offsets[n], queries.own_offsets[n + 1])
        own, added = own_places[part], queries.own_score[part]
        if len(own):
            allowed = own >= 0
            if len(barred):
                allowed &= ~np.isin(own, barred)
            own, added = own[allowed], added[allowed]
        scores, places = _searched(queries.vectors[n], items, k, np.concatenate([barred, own]))
        if len(own):
            own_scores = (items.vectors_of(own) @ queries.own_vectors[n].T).max(1) + added
            scores = np.concatenate([scores, own_scores.astype(np.float32)])
            places = np.concatenate([places, own])
            order = np.argsort(-scores, kind="stable")[:k]
            scores, places = scores[order], places[order]
        found_scores[n, : len(scores)], found[n, : len(places)] = scores, places
    return found_scores, found


def _searched(
    u_VW: Float32Array, items: ItemIndex, k: int, barred: Int64Array
) -> tuple[Float32Array, Int64Array]:
    """The best k over all vectors, each item at its best score; fewer where there are no more."""
    exclusion = [barred] * len(u_VW) if len(barred) else None
    scores_VK, places_VK = items.search(np.ascontiguousarray(u_VW), k, exclusion)
    if len(u_VW) == 1:
        held = places_VK[0] >= 0
        return scores_VK[0][held], places_VK[0][held]
    scores, places = scores_VK.ravel(), places_VK.ravel()
    order = np.argsort(-scores, kind="stable")
    scores, places = scores[order], places[order]
    _, first = np.unique(places, return_index=True)  # a place's first appearance is its best
    kept = np.sort(first)
    kept = kept[places[kept] >= 0][:k]
    return scores[kept], places[kept]
