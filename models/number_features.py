"""Number features: read from columns, transformed, and standardised by what training has seen."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.arrays import Float32Array, Float64Array, Tensors
from models.feature_config import FeatureConfig

_NUMBER = r"^\s*[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?\s*$"


def number_values(column: pa.Array | None, rows: int) -> Float64Array:
    """float64[rows]; missing, unreadable and non-finite values are nan."""
    if column is None:
        return np.full(rows, np.nan)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        readable = pc.if_else(pc.match_substring_regex(column, _NUMBER), column, pa.scalar(None, column.type))
        column = pc.utf8_trim_whitespace(readable).cast(pa.float64())
    values = np.array(column.cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False))
    values[~np.isfinite(values)] = np.nan
    return values


def transformed(x: Float64Array, transform: str) -> Float64Array:
    """A further form of numbers float64[N]: "log" of 1 + |x| and "sqrt" of |x| with x's sign, or "square"."""
    if transform == "square":
        return x * x
    sized: Float64Array = np.log1p(np.abs(x)) if transform == "log" else np.sqrt(np.abs(x))
    return np.sign(x) * sized


class NumberScaling:
    """Raw numbers float32[N, M] (nan = missing) -> tower inputs float32[N, width].

    Per feature: x, its transforms in the declared order (log: sign(x) log(1 + |x|); square; sqrt:
    sign(x) sqrt|x|), each standardised by the running mean and deviation, and a flag that is 1 where x is
    missing.
    """

    def __init__(self, features: Sequence[FeatureConfig]) -> None:
        self._features = tuple(features)
        sizes = [2 + len(feature.transforms) for feature in self._features]
        self.width = sum(sizes)
        self._flags = np.zeros(self.width, np.bool_)
        self._flags[np.cumsum(sizes, dtype=np.int64) - 1] = True
        self._count = np.zeros(self.width, np.float64)
        self._sum = np.zeros(self.width, np.float64)
        self._square_sum = np.zeros(self.width, np.float64)

    def _expand(self, raw: Float32Array) -> Float64Array:
        """float64[N, width]: per feature x, its transforms, and a missing flag."""
        columns: list[Float64Array] = []
        for place, feature in enumerate(self._features):
            x = raw[:, place].astype(np.float64)
            columns.append(x)
            columns += [transformed(x, transform) for transform in feature.transforms]
            columns.append(np.isnan(x).astype(np.float64))
        return np.stack(columns, axis=1) if columns else np.empty((len(raw), 0))

    def fit(self, raw: Float32Array) -> None:
        """Add rows to the running mean and deviation."""
        expanded = self._expand(raw)
        known = np.isfinite(expanded)
        expanded = np.where(known, expanded, 0.0)
        self._count += known.sum(0)
        self._sum += expanded.sum(0)
        self._square_sum += (expanded * expanded).sum(0)

    def standardised(self, raw: Float32Array) -> Float32Array:
        """float32[N, width]: (x - mean) / deviation, within -10 .. 10; missing = 0; flags as they are."""
        if self.width == 0:
            return np.empty((len(raw), 0), np.float32)
        expanded = self._expand(raw)
        count = np.maximum(self._count, 1.0)
        mean = self._sum / count
        deviation = np.sqrt(np.maximum(self._square_sum / count - mean * mean, 0.0))
        mean[self._flags] = 0.0
        deviation[self._flags | (deviation < 1e-9)] = 1.0
        scaled = (expanded - mean) / deviation
        return np.where(np.isfinite(scaled), np.clip(scaled, -10, 10), 0.0).astype(np.float32)

    def state(self) -> Tensors:
        """The fitted numbers."""
        return {"count": self._count.copy(), "sum": self._sum.copy(), "square_sum": self._square_sum.copy()}

    def restore(self, state: Tensors) -> None:
        """Take the fitted numbers of state()."""
        self._count = np.array(state["count"], np.float64)
        self._sum = np.array(state["sum"], np.float64)
        self._square_sum = np.array(state["square_sum"], np.float64)
