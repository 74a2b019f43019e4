"""The serving side of a ranker: immutable, from the files of a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from models.architecture import ModelFiles
from models.arrays import Float32Array, Int64Array, Tensors
from models.artifact import pack_keys, unpack_keys
from models.frozen_rows import FrozenRows
from models.moments import Value
from models.ranking.assembly import RankerParts, described, load_parts
from models.ranking.inputs import RankInputs
from models.ranking.rank_config import RankConfig


@dataclass(frozen=True)
class RankItems:
    """Candidates as the network reads them: rows [n, F, D], linear [n, H], numbers [n, M]. Good for as long
    as ranker and attributes are the same, so that a server may make one of all items and take() from it.
    """

    rows: Tensor
    linear: Tensor
    numbers: Tensor

    def __len__(self) -> int:
        return len(self.linear)

    def take(self, positions: Int64Array) -> RankItems:
        """The candidates at positions int64[n]."""
        index = torch.from_numpy(positions)
        return RankItems(self.rows[index], self.linear[index], self.numbers[index])


ITEMS = "items"
"""Part of a bundle that holds encoded items."""


def item_tensors(keys: pa.Array, items: RankItems) -> Tensors:
    """As a bundle holds them; keys string[n]."""
    parts = {"rows": items.rows, "linear": items.linear, "numbers": items.numbers}
    return pack_keys(keys, "keys.") | {name: tensor.detach().numpy().copy() for name, tensor in parts.items()}


def items_of(tensors: Tensors) -> tuple[pa.Array, RankItems]:
    """The inverse of item_tensors(). ValueError where the parts do not fit together."""
    keys = unpack_keys(tensors, "keys.")
    items = RankItems(*(torch.from_numpy(np.array(tensors[name])) for name in ("rows", "linear", "numbers")))
    if not len(keys) == len(items.rows) == len(items.linear) == len(items.numbers):
        raise ValueError(
            f"ranker's items: expected {len(keys)} of each part, got {len(items.rows)} rows, "
            f"{len(items.linear)} linear, {len(items.numbers)} numbers"
        )
    return keys, items


class PublishedRanker:
    """Scores candidates of one request. Nothing in here ever changes; thread-safe."""

    def __init__(self, parts: RankerParts) -> None:
        """Use load()."""
        self._parts = parts

    @classmethod
    def load(cls, files: ModelFiles, name: str) -> PublishedRanker:
        """The ranker `name` of a bundle, without what only training needs."""
        config, features = described(files.manifest, name)
        parts = RankerParts(config, features, FrozenRows(config.dim) if config.has_rows else None)
        parts.restore(load_parts(files, name, parts.part_names()))
        parts.network.requires_grad_(False)
        return cls(parts)

    @property
    def config(self) -> RankConfig:
        """The configuration that it was trained with."""
        return self._parts.config

    def reads(self) -> dict[str, list[str]]:
        """Names of the attributes and context keys that scores() reads: "user", "context", "item"."""
        request = self._parts.request.features
        return {
            "user": request.reads("user"),
            "context": request.reads("context"),
            "item": self._parts.item.features.reads("item"),
        }

    def items(self, keys: pa.Array, attributes: Mapping[str, pa.Array]) -> RankItems:
        """Candidates from their keys string[n] and attribute columns [n]; unknown keys and missing columns
        are fine. ValueError for columns of another length.
        """
        for name, column in attributes.items():
            if len(column) != len(keys):
                raise ValueError(
                    f"candidates: attribute {name!r}: expected {len(keys)} values, got {len(column)}"
                )
        columns = {("item", name): column for name, column in attributes.items()}
        side = self._parts.item_rows(keys, columns)
        return RankItems(*self._parts.embedded(side, self._parts.item.starts))

    def scores_of(
        self,
        user_id: str,
        items: RankItems,
        context: Mapping[str, Value],
        user_attributes: Mapping[str, Value],
        ts_ms: int,
    ) -> dict[str, Float32Array]:
        """Task -> probability float32[n], "watch_s" where the ranker has a watch head, and "score", the blend
        to order by. user_id "": nobody known. context["scene"] is the scene.
        """
        parts = self._parts
        columns = {("context", name): pa.array([value]) for name, value in context.items()}
        columns |= {("user", name): pa.array([value]) for name, value in user_attributes.items()}
        side = parts.request_rows(pa.array([user_id], pa.string()), columns, np.array([ts_ms], np.int64))
        rows, linear, numbers = parts.embedded(side, parts.request.starts)
        n = len(items)
        inputs = RankInputs(
            torch.cat([rows.expand(n, -1, -1), items.rows], dim=1),
            linear + items.linear,
            torch.cat([numbers.expand(n, -1), items.numbers], dim=1),
        )
        return parts.scores(inputs)

    def scores(
        self,
        user_id: str,
        item_keys: pa.Array,
        context: Mapping[str, Value],
        user_attributes: Mapping[str, Value],
        item_attributes: Mapping[str, pa.Array],
        ts_ms: int,
    ) -> dict[str, Float32Array]:
        """scores_of() candidates given as keys string[n] and attribute columns [n]; equal to
        RankLearner.predict() of the same state.
        """
        items = self.items(item_keys, item_attributes)
        return self.scores_of(user_id, items, context, user_attributes, ts_ms)
