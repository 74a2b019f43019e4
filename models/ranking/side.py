"""One side of a ranker's inputs, the request's or the candidates': the one path of training and serving.

Slots of a side, in order: its ID, its category features (models/features.py), a bin of every number (none
with `bins` 0). Numbers,
in order: the declared features, then what is counted of the side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from models.arrays import Float32Array, Int32Array, Int64Array, Tensors
from models.feature_config import FeatureConfig
from models.features import Columns, FeatureColumns, Lookup
from models.key_bytes import key_array
from models.ranking.counts import Counts
from models.ranking.number_encoding import NumberEncoding
from models.ranking.rank_config import RankConfig
from models.ranking.row_space import RowSpace

SCENE = "context.scene"
"""Table of the scene, which every ranker reads."""


def with_scene(features: Sequence[FeatureConfig]) -> tuple[FeatureConfig, ...]:
    """The features and, where it is not declared, the scene as a category of the context."""
    declared = any(one.table == SCENE and one.kind == "category" for one in features)
    added = () if declared else (FeatureConfig(name="scene", source="context"),)
    return (*features, *added)


@dataclass(frozen=True)
class SideRows:
    """A side of N rows as a network reads it: rows int64[N, S] of a RowSpace with factors float32[N, S],
    numbers float32[N, M] scaled.
    """

    rows: Int64Array
    factors: Float32Array
    numbers: Float32Array


class RankSide:
    """id: field of its ID rows ("user" or "item"); counted: the tables that are counted on this side.

    fields: names of its F fields; starts: int64[F + 1], which of its S slots belong to which field.
    """

    def __init__(
        self,
        config: RankConfig,
        features: Sequence[FeatureConfig],
        sources: Sequence[str],
        id_field: str,
        counted: Sequence[str],
    ) -> None:
        self.id = id_field
        self.counted = tuple(counted)
        self.features = FeatureColumns(features, sources, config.day_timezone)
        self.declared = len(self.features.numbers)
        of_counts = [None] * (len(self.counted) * (1 + len(config.tasks)))
        self.encoding = NumberEncoding([*self.features.numbers, *of_counts], config.bins, config.scaling)
        self.keyed = (id_field, *(feature.table for feature in self.features.categories))
        binned = self.encoding.numbers if config.bins else 0
        bins = [f"bin.{id_field}.{place}" for place in range(binned)]
        self.fields = (*self.keyed, *bins)
        sizes = [1, *(feature.slots for feature in self.features.categories), *(1 for _ in bins)]
        self.starts = np.cumsum([0, *sizes], dtype=np.int64)
        self.first_bin = 0
        """Row of the first bin of this side; the learner places it."""

    @property
    def bin_rows(self) -> int:
        """Rows of all bins."""
        return self.encoding.numbers * self.encoding.rows_each

    def slot(self, table: str) -> int:
        """First slot of a keyed field."""
        return int(self.starts[self.keyed.index(table)])

    def number_places(self, counted: str) -> range:
        """Places, among this side's numbers, of what is counted by `counted`."""
        each = (self.encoding.numbers - self.declared) // len(self.counted)
        first = self.declared + self.counted.index(counted) * each
        return range(first, first + each)

    def entries(self, keys: pa.Array, columns: Columns, ts_ms: Int64Array, lookup: Lookup) -> Int32Array:
        """int32[N, slots of keyed fields] entries that `lookup` gives for the IDs and the features' keys."""
        own = lookup(self.id, key_array(keys), ts_ms).astype(np.int32)
        features: Int32Array = self.features.entries(columns, ts_ms, lookup)
        return np.concatenate([own[:, None], features], axis=1)

    def raw(
        self, declared: Float32Array, counts: Counts, entries_of: Callable[[str], Int32Array]
    ) -> Float32Array:
        """float32[N, numbers]: declared numbers float32[N, declared], then the counts as they are now.
        entries_of(counted table) -> int32[N].
        """
        counted = [counts.read(name, entries_of(name)) for name in self.counted]
        return np.concatenate([declared, *counted], axis=1)

    def rows(self, space: RowSpace, entries: Int32Array, raw: Float32Array) -> SideRows:
        """What the network reads of entries int32[N, keyed slots] and raw numbers float32[N, numbers]."""
        n, keyed = entries.shape
        rows = np.empty((n, int(self.starts[-1])), np.int64)
        factors = np.ones(rows.shape, np.float32)
        for place, field in enumerate(self.keyed):
            slots = slice(int(self.starts[place]), int(self.starts[place + 1]))
            rows[:, slots], factors[:, slots] = space.rows_of(field, entries[:, slots])
        if self.encoding.rows_each:
            firsts = self.first_bin + self.encoding.rows_each * np.arange(self.encoding.numbers)
            rows[:, keyed:] = firsts + self.encoding.binned(raw)
        return SideRows(rows, factors, self.encoding.scaled(raw))

    def state(self) -> Tensors:
        """The fitted numbers."""
        return self.encoding.state()

    def restore(self, state: Tensors) -> None:
        """Take the fitted numbers of state()."""
        self.encoding.restore(state)
