"""Numbers as a ranker reads them: scaled, and discretised, each bin with a row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.arrays import Float32Array, Float64Array, Int64Array, Tensors
from models.feature_config import FeatureConfig
from models.number_features import transformed
from models.ranking.rank_config import NumberScale

_WITHIN = 5.0


class NumberEncoding:
    """M raw numbers (nan = missing) -> scaled inputs float32[N, width] and bins int64[N, M].

    Scaled: x and its declared transforms, over what training has seen: "minmax" (x - min) / (max - min),
    within 0 .. 1, or "standard" (x - mean) / deviation, within -5 .. 5; missing = 0. Bins: 0 = missing, then
    quantiles of the first training, which are kept: a bin's row goes on meaning the same. (Guo et al.,
    DeepFM, IJCAI 2017: dense fields as values or discretised.)
    """

    def __init__(
        self, features: Sequence[FeatureConfig | None], bins: int, scaling: NumberScale = "standard"
    ) -> None:
        """features: of each number, None for one without transforms."""
        self._transforms = [() if feature is None else feature.transforms for feature in features]
        self._bins = bins
        self._standard = scaling == "standard"
        self.numbers = len(self._transforms)
        self.starts = np.cumsum([0] + [1 + len(names) for names in self._transforms])
        self.width = int(self.starts[-1])
        self._low = np.full(self.width, np.inf)
        self._high = np.full(self.width, -np.inf)
        self._count = np.zeros(self.width)
        self._sum = np.zeros(self.width)
        self._square_sum = np.zeros(self.width)
        self._edges = np.full((self.numbers, max(bins - 1, 0)), np.inf)
        self._fitted = False

    @property
    def rows_each(self) -> int:
        """Bins of one number, the missing one included; 0 where numbers are only scaled."""
        return self._bins + 1 if self._bins else 0

    def _expand(self, raw: Float32Array) -> Float64Array:
        columns: list[Float64Array] = []
        for place, names in enumerate(self._transforms):
            x = raw[:, place].astype(np.float64)
            columns.append(x)
            columns += [transformed(x, name) for name in names]
        return np.stack(columns, axis=1) if columns else np.empty((len(raw), 0))

    def fit(self, raw: Float32Array) -> None:
        """Add raw float32[N, M] to ranges and moments; the first call with rows also places the bins."""
        if not len(raw):
            return
        expanded = self._expand(raw)
        known = np.isfinite(expanded)
        self._low = np.minimum(self._low, np.where(known, expanded, np.inf).min(0))
        self._high = np.maximum(self._high, np.where(known, expanded, -np.inf).max(0))
        expanded = np.where(known, expanded, 0.0)
        self._count += known.sum(0)
        self._sum += expanded.sum(0)
        self._square_sum += (expanded * expanded).sum(0)
        if not self._fitted:
            self._fitted = True
            shares = np.arange(1, self._bins) / max(self._bins, 1)
            for place in range(self.numbers):
                values = raw[:, place][np.isfinite(raw[:, place])]
                if len(values):
                    edges = np.unique(np.quantile(values.astype(np.float64), shares))
                    self._edges[place, : len(edges)] = edges

    def scaled(self, raw: Float32Array) -> Float32Array:
        """float32[N, width]: within 0 .. 1, or -5 .. 5."""
        with np.errstate(invalid="ignore", over="ignore"):
            if self._standard:
                low, high = -_WITHIN, _WITHIN
                count = np.maximum(self._count, 1.0)
                offset = self._sum / count
                span = np.sqrt(np.maximum(self._square_sum / count - offset * offset, 0.0))
            else:
                low, high, offset, span = 0.0, 1.0, self._low, self._high - self._low
            values = (self._expand(raw) - offset) / np.where(span > 1e-9, span, 1.0)
        known = np.isfinite(values) & (self._count > 0)
        return np.where(known, np.clip(values, low, high), 0.0).astype(np.float32)

    def binned(self, raw: Float32Array) -> Int64Array:
        """int64[N, M] in 0 .. bins."""
        places = np.zeros(raw.shape, np.int64)
        for place in range(self.numbers):
            x = raw[:, place].astype(np.float64)
            found = 1 + np.searchsorted(self._edges[place], x, "right")
            places[:, place] = np.where(np.isfinite(x), np.minimum(found, self._bins), 0)
        return places

    def state(self) -> Tensors:
        """Everything restore() needs."""
        return {
            "low": self._low.copy(),
            "high": self._high.copy(),
            "count": self._count.copy(),
            "sum": self._sum.copy(),
            "square_sum": self._square_sum.copy(),
            "edges": self._edges.copy(),
            "fitted": np.array([self._fitted], np.int64),
        }

    def restore(self, state: Tensors) -> None:
        """Take what state() described."""
        self._low = np.array(state["low"], np.float64)
        self._high = np.array(state["high"], np.float64)
        self._count = np.array(state["count"], np.float64)
        self._sum = np.array(state["sum"], np.float64)
        self._square_sum = np.array(state["square_sum"], np.float64)
        self._edges = np.array(state["edges"], np.float64)
        self._fitted = bool(state["fitted"][0])
