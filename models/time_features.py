"""Hour of the day and day of the week in a zone, as category keys."""

from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from models.arrays import Int64Array

_DAY_MS = 86_400_000
_QUARTER_MS = 900_000  # zone offsets change on quarters of an hour


def local_ms(ts_ms: Int64Array, zone: str) -> Int64Array:
    """Wall-clock milliseconds in `zone`, int64[N]."""
    if zone == "UTC":
        return ts_ms
    quarters, inverse = np.unique(ts_ms // _QUARTER_MS, return_inverse=True)
    info = ZoneInfo(zone)
    offsets = [_offset_ms(int(quarter), info) for quarter in quarters]
    return ts_ms + np.array(offsets, np.int64)[inverse]


def local_midnight_ms(ts_ms: int, zone: str) -> int:
    """The moment at which the clock of `zone` showed midnight last (as it is set at ts_ms)."""
    return ts_ms - int(local_ms(np.array([ts_ms], np.int64), zone)[0]) % _DAY_MS


def _offset_ms(quarter: int, zone: ZoneInfo) -> int:
    offset = datetime.fromtimestamp(quarter * _QUARTER_MS / 1000, zone).utcoffset()
    return 0 if offset is None else int(offset.total_seconds() * 1000)


def time_category(name: str, ts_ms: Int64Array, zone: str) -> pa.StringArray:
    """hour_of_day "0".."23", day_of_week "0" (Monday).."6"; string[N]."""
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
