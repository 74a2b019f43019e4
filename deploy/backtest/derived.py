"""Features and model settings read off the tables, where no configuration says them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deploy.backtest.targets import Targets, targets_of
from models.arrays import Float64Array, Int32Array, Int64Array
from models.catalogue_columns import CatalogueColumns
from models.model_config import FeatureConfig
from models.popularity_config import PopularityConfig
from models.reject_events import REJECT

FEW_VALUES = 200
"""A column of no more distinct values is a category, whatever its type."""
HALF_LIVES_H = (12.0, 48.0, 168.0)
APART_H = 24.0
"""Half-life of counts that are kept apart, and of kinds that are no targets."""
MOST_VALUES = 16
MOST_SEGMENTS = 2
MOST_KINDS = 2
_SEVERAL, _TEXT = 0.2, 0.5
_COMMON_KIND = 0.05
_REPEATS = 0.05
_LEARNED, _SEGMENT_HALF_LIFE_MS, _UNSEEN = 0.75, 7 * 86_400_000, 0.1
_BLENDS = (100.0, 1000.0, 10_000.0)


def derived_features(catalogue: CatalogueColumns, scenes: pa.Array) -> tuple[FeatureConfig, ...]:
    """Features from the tables' columns: few values are a category, other numbers a number with its log,
    texts of several values (a|b) categories, texts of words tokens.

    Left out: columns of one value, and those with a value of its own for more than half of the rows (IDs).
    Hour and weekday always; the scene if there is more than one.
    """
    found = []
    for source, table in (("item", catalogue.items), ("user", catalogue.users)):
        for name in table.column_names[1:]:
            column = table[name].drop_null()
            if pa.types.is_list(column.type):
                continue
            distinct = pc.count_distinct(column).as_py()
            numeric = not pa.types.is_string(column.type)
            if distinct < 2:
                continue
            separator = None if numeric else _separator(column)
            if separator:
                found.append(
                    FeatureConfig(name=name, source=source, kind="categories", separator=separator, dim=16)
                )
            elif not numeric and distinct > len(table) // 2 and _share(column, r"\S\s+\S") > _TEXT:
                found.append(FeatureConfig(name=name, source=source, kind="tokens", dim=16))
            elif distinct <= FEW_VALUES or (not numeric and distinct <= len(table) // 2):
                found.append(FeatureConfig(name=name, source=source))
            elif numeric and (pa.types.is_floating(column.type) or distinct <= len(table) // 2):
                found.append(FeatureConfig(name=name, source=source, kind="number", transforms=("log",)))
    if pc.count_distinct(scenes).as_py() > 1:
        found.append(FeatureConfig(name="scene", source="context"))
    found.append(FeatureConfig(name="hour_of_day", source="time"))
    found.append(FeatureConfig(name="day_of_week", source="time"))
    return tuple(found)


def _separator(texts: pa.ChunkedArray) -> str | None:
    """What stands between the values of a column that often has several; a comma before a blank is prose."""
    for separator, several in (("|", r"[^|]\|[^|]"), (",", r"[^\s,],[^\s,]")):
        if _share(texts, several) > _SEVERAL:
            return separator
    return None


def _share(texts: pa.ChunkedArray, pattern: str) -> float:
    return pc.mean(pc.match_substring_regex(texts, pattern)).as_py() or 0.0


def derived_model(
    before: pa.Table,
    positives: Sequence[str],
    catalogue: CatalogueColumns,
    features: Sequence[FeatureConfig],
) -> dict[str, Any]:
    """Fields of ModelConfig that follow from the events before the start.

    Popularity is counted over HALF_LIVES_H; apart by scene (of at most MOST_VALUES) and by the segments of
    users that tell later positives best; and of the most frequent other kinds (exposure is data). Where
    repeats are common, own items reach back over almost everybody's history.
    """
    targets = targets_of(before, positives)
    return {
        "popularity": _counts(before, targets, positives, catalogue, features),
        **_own_items(targets),
    }


def _counts(
    before: pa.Table,
    targets: Targets,
    positives: Sequence[str],
    catalogue: CatalogueColumns,
    features: Sequence[FeatureConfig],
) -> tuple[PopularityConfig, ...]:
    # Each value apart takes a dim of every item vector.
    scene = 2 <= pc.count_distinct(before["scene"]).as_py() <= MOST_VALUES
    by = ["scene"] if scene else []
    by += segments(targets, catalogue, features)
    kinds = _other_kinds(before, positives)
    counts = [PopularityConfig(half_life_h=hours) for hours in HALF_LIVES_H]
    counts += [PopularityConfig(half_life_h=APART_H, by=name, values=MOST_VALUES) for name in by]
    counts += [PopularityConfig(half_life_h=APART_H, kinds=(kind,)) for kind in kinds]
    if scene and kinds:
        counts.append(PopularityConfig(half_life_h=APART_H, by="scene", kinds=kinds[:1], values=MOST_VALUES))
    return tuple(counts)


def _other_kinds(before: pa.Table, positives: Sequence[str]) -> tuple[str, ...]:
    shares = pc.value_counts(before["kind"]).to_pylist()
    least = _COMMON_KIND * len(before)
    # A reject is no sign of interest, and a server cannot count what it will turn down.
    passed = {*positives, REJECT}
    common = [one for one in shares if one["values"] not in passed and one["counts"] >= least]
    common.sort(key=lambda one: (-one["counts"], one["values"]))
    return tuple(one["values"] for one in common[:MOST_KINDS])


def _own_items(targets: Targets) -> dict[str, int]:
    pairs = targets.user.astype(np.int64) * (int(targets.item.max(initial=0)) + 1) + targets.item
    if len(np.unique(pairs)) > (1 - _REPEATS) * len(pairs):
        return {"own_items": 50}
    longest = int(np.quantile(np.bincount(targets.user), 0.99))
    return {"own_items": min(max(longest, 200), 2000), "own_negatives": 16}


def segments(targets: Targets, catalogue: CatalogueColumns, features: Sequence[FeatureConfig]) -> list[str]:
    """User categories of at most MOST_VALUES values by which popularity is worth counting apart, best first.

    Measured on the positives alone: by how much the likelihood of the last quarter rises where the decayed
    item counts of the quarters before are taken of the row's own segment, blended with those of everybody.
    """
    wanted = [feature for feature in features if feature.source == "user" and feature.kind == "category"]
    n = len(targets)
    learned = int(_LEARNED * n)
    if not wanted or learned in (0, n):
        return []
    age_ms = (targets.ts_ms[learned] - targets.ts_ms[:learned]).astype(np.float64)
    weight: Float64Array = np.exp2(-age_ms / _SEGMENT_HALF_LIFE_MS)
    width = int(targets.item.max()) + 1
    counted = np.bincount(targets.item[:learned], weight, width) + _UNSEEN
    everybody: Float64Array = counted / counted.sum()
    place = pc.index_in(targets.user_keys, catalogue.users["user_id"].combine_chunks())
    gains = {}
    for feature in wanted:
        text = catalogue.users[feature.name].combine_chunks().cast(pa.string()).take(place)
        codes = pc.fill_null(text, "").dictionary_encode()
        values = len(codes.dictionary)
        if 2 <= values <= MOST_VALUES:
            code = codes.indices.to_numpy(zero_copy_only=False).astype(np.int64)[targets.user]
            gains[feature.name] = _gain(code, values, targets.item, learned, weight, everybody)
    best = sorted((name for name in gains if gains[name] > 0), key=lambda name: (-gains[name], name))
    return best[:MOST_SEGMENTS]


def _gain(
    code: Int64Array, values: int, item: Int32Array, learned: int, weight: Float64Array,
    everybody: Float64Array,
) -> float:  # fmt: skip
    """Mean log-likelihood of the rows from `learned` on, above that of everybody's shares (nats)."""
    width = len(everybody)
    flat = code[:learned] * width + item[:learned]
    apart = np.bincount(flat, weight, values * width).reshape(values, width)
    own, total = apart[code[learned:], item[learned:]], apart.sum(1)[code[learned:]]
    general = everybody[item[learned:]]
    blended = [np.log((own + blend * general) / (total + blend)).mean() for blend in _BLENDS]
    return float(max(blended) - np.log(general).mean())
