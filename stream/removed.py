"""What the archive no longer holds: one small file, written before any sealed file goes.

    root/removed.json   {"through_ms": end of the last interval whose events are removed}

Removal goes from the oldest file on, so one number says it all. Readers go by that number and not by which
files are still there: they see the same before and after a crash in between.
"""

from pathlib import Path

import msgspec

from stream.errors import CorruptLog
from stream.segment import write_file


class Removed(msgspec.Struct, frozen=True):
    """The content of the file."""

    through_ms: int


def read_removed(root: Path) -> int | None:
    """End of the last interval that was removed, event time in ms; None: everything is kept.

    Raises CorruptLog.
    """
    path = root / "removed.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Removed).through_ms
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise CorruptLog(
            f"{path}: expected the end of the last removed interval, got something else ({error}); restore "
            "it from a copy"
        ) from error


def write_removed(root: Path, through_ms: int) -> None:
    """Decide, durably, that the intervals up to `through_ms` are gone."""
    write_file(root / "removed.json", msgspec.json.encode(Removed(through_ms)))
