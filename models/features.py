"""Features declared once: the same columns, in the same order, for a training row and for a serving
request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.arrays import Float32Array, Float64Array, Int64Array, Tensors
from models.key_bytes import key_array
from models.model_config import FeatureConfig

_DAY_MS = 86_400_000
_QUARTER_MS = 900_000  # zone offsets change on quarters of an hour
_NUMBER = r"^\s*[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?\s*$"
_TIME_NAMES = ("hour_of_day", "day_of_week", "example_age")

_NO_KEY = pa.array([""], pa.string())

Columns = Mapping[tuple[str, str], pa.Array]
"""(source, name) -> array[N]."""


def local_ms(ts_ms: Int64Array, zone: str) -> Int64Array:
    """Wall-clock milliseconds in `zone`, int64[N]."""
    if zone == "UTC":
        return ts_ms
    quarters, inverse = np.unique(ts_ms // _QUARTER_MS, return_inverse=True)
    info = ZoneInfo(zone)
    offsets = [_offset_ms(int(quarter), info) for quarter in quarters]
    return ts_ms + np.array(offsets, np.int64)[inverse]


def _offset_ms(quarter: int, zone: ZoneInfo) -> int:
    from datetime import datetime

    offset = datetime.fromtimestamp(quarter * _QUARTER_MS / 1000, zone).utcoffset()
    return 0 if offset is None else int(offset.total_seconds() * 1000)


def time_category(name: str, ts_ms: Int64Array, zone: str) -> pa.StringArray:
    """hour_of_day "0".."23", day_of_week "0" (Monday).."6"."""
    if len(ts_ms) == 1:
        return _in_quarter(name, int(ts_ms[0]) // _QUARTER_MS, zone)
    return _time_categories(name, ts_ms, zone)


@lru_cache(maxsize=1024)
def _in_quarter(name: str, quarter: int, zone: str) -> pa.StringArray:
    """time_category of one moment: that of its quarter of an hour, which many requests share."""
    return _time_categories(name, np.array([quarter * _QUARTER_MS]), zone)


def _time_categories(name: str, ts_ms: Int64Array, zone: str) -> pa.StringArray:
    local = local_ms(ts_ms, zone)
    values = (local // 3_600_000) % 24 if name == "hour_of_day" else (local // _DAY_MS + 3) % 7
    return pa.array(values).cast(pa.string())


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


def category_keys(column: pa.Array | None, rows: int) -> pa.StringArray:
    """string[rows] keys of a category; "" = missing."""
    if column is None:
        return _NO_KEY if rows == 1 else pa.nulls(rows, pa.string()).fill_null("")
    if not isinstance(column, pa.StringArray | pa.DictionaryArray):
        column = column.cast(pa.string())
    return key_array(column)


class FeatureColumns:
    """The features of one side (request: user, context, time; or item) and the fitted numbers that scale
    them.
    """

    def __init__(self, features: Sequence[FeatureConfig], sources: Sequence[str], zone: str) -> None:
        chosen = [feature for feature in features if feature.source in sources]
        for feature in chosen:
            if feature.source == "time" and feature.name not in _TIME_NAMES:
                raise ValueError(
                    f"features: unknown time feature {feature.name!r}; known: {', '.join(_TIME_NAMES)}"
                )
            kind = "number" if feature.name == "example_age" else "category"
            if feature.source == "time" and feature.kind != kind:
                raise ValueError(
                    f"features: {feature.name}: expected kind {kind!r}, got {feature.kind!r}; "
                    "any other would be read as another feature"
                )
        self.zone = zone
        self.categories = tuple(feature for feature in chosen if feature.kind == "category")
        self.numbers = tuple(feature for feature in chosen if feature.kind == "number")
        self.width = sum(2 + len(feature.transforms) for feature in self.numbers)
        self._count = np.zeros(self.width, np.float64)
        self._sum = np.zeros(self.width, np.float64)
        self._square_sum = np.zeros(self.width, np.float64)

    @property
    def side_width(self) -> int:
        """Width of all these features as tower inputs."""
        return sum(feature.dim for feature in self.categories) + self.width

    def keys(self, columns: Columns, ts_ms: Int64Array) -> list[pa.StringArray]:
        """One string[N] of keys per category feature."""
        return [
            time_category(feature.name, ts_ms, self.zone)
            if feature.source == "time"
            else category_keys(columns.get((feature.source, feature.name)), len(ts_ms))
            for feature in self.categories
        ]

    def raw_numbers(self, columns: Columns, ts_ms: Int64Array) -> Float32Array:
        """float32[N, number features], nan = missing; example_age is 0 here, as it is in serving."""
        raw = np.zeros((len(ts_ms), len(self.numbers)), np.float32)
        for place, feature in enumerate(self.numbers):
            if feature.source != "time":
                raw[:, place] = number_values(columns.get((feature.source, feature.name)), len(ts_ms))
        return raw

    def with_age(self, raw: Float32Array, age_ms: Int64Array) -> Float32Array:
        """Raw with example_age (days) filled in, for training."""
        for place, feature in enumerate(self.numbers):
            if feature.source == "time":
                raw = raw.copy()
                raw[:, place] = age_ms / _DAY_MS
        return raw

    def _expand(self, raw: Float32Array) -> Float64Array:
        """float64[N, width]: per feature x, its transforms, and a missing flag."""
        columns: list[Float64Array] = []
        for place, feature in enumerate(self.numbers):
            x = raw[:, place].astype(np.float64)
            columns.append(x)
            for transform in feature.transforms:
                if transform == "log":
                    columns.append(np.sign(x) * np.log1p(np.abs(x)))
                elif transform == "square":
                    columns.append(x * x)
                else:
                    columns.append(np.sign(x) * np.sqrt(np.abs(x)))
            columns.append(np.isnan(x).astype(np.float64))
        return np.stack(columns, axis=1) if columns else np.empty((len(raw), 0))

    def fit(self, raw: Float32Array) -> None:
        """Add rows to the running mean and deviation that standardise the numbers."""
        expanded = self._expand(raw)
        known = np.isfinite(expanded)
        expanded = np.where(known, expanded, 0.0)
        self._count += known.sum(0)
        self._sum += expanded.sum(0)
        self._square_sum += (expanded * expanded).sum(0)

    def standardised(self, raw: Float32Array) -> Float32Array:
        """float32[N, width]: (x - mean) / deviation; missing = 0; flags as they are."""
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

    @property
    def _flags(self) -> np.ndarray:
        flags = np.zeros(self.width, np.bool_)
        flags[np.cumsum([2 + len(feature.transforms) for feature in self.numbers], dtype=np.int64) - 1] = True
        return flags

    def state(self) -> Tensors:
        """The fitted numbers."""
        return {"count": self._count.copy(), "sum": self._sum.copy(), "square_sum": self._square_sum.copy()}

    def restore(self, state: Tensors) -> None:
        """Take the fitted numbers of state()."""
        self._count = np.array(state["count"], np.float64)
        self._sum = np.array(state["sum"], np.float64)
        self._square_sum = np.array(state["square_sum"], np.float64)
