"""Day boundaries of the data: local midnights, floored to the archive's intervals."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo


def last_midnight_ms(now_ms: int, day_timezone: str) -> int:
    """Return the latest local midnight at or before `now_ms` (both ms since the epoch, UTC).

    A midnight that daylight saving skips is the first moment that exists after it.
    """
    zone = ZoneInfo(day_timezone)
    local = datetime.fromtimestamp(now_ms / 1000, zone)
    midnight_ms = _midnight_ms(local, zone)
    if midnight_ms > now_ms:  # only where a skipped midnight moved forward past now
        midnight_ms = _midnight_ms(local - timedelta(days=1), zone)
    return midnight_ms


def day_boundary_ms(now_ms: int, day_timezone: str, interval_ms: int) -> int:
    """Return the end of the last whole archive interval at or before the latest local midnight, ms."""
    return last_midnight_ms(now_ms, day_timezone) // interval_ms * interval_ms


def _midnight_ms(local: datetime, zone: ZoneInfo) -> int:
    return int(datetime(local.year, local.month, local.day, tzinfo=zone).timestamp() * 1000)
