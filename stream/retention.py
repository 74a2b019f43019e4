"""How long the archive is kept: sealed files go once they are old enough and everybody has read them.

Age is event time, back from the newest seal. Whoever still needs events says up to where it has read; the
slowest of them decides, however old the events are. Nothing is removed on a guess: a reader that has read
nothing, or cannot be asked, needs everything.
"""

import logging
import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from stream.archive import Archive, ArchiveConfig, Seal
from stream.errors import Unreachable
from stream.seals import Positions, from_text

log = logging.getLogger(__name__)
DAY_MS = 86_400_000
POLL_S = 60.0
"""Pause between two looks: nothing grows fast enough for more."""

ReadThrough = Callable[[], int | None]
"""End of the last interval that a reader will not ask for again, event time in ms; None: needs everything."""


@dataclass
class ArchiveSize:
    """What the archive holds and who keeps it from shrinking; written by the retention, read by metrics.

    files, file_bytes: sealed ones; removed: files that this process removed; held_ms: reader -> event time
    that is kept beyond archive.keep_days because of it.
    """

    files: int = 0
    file_bytes: int = 0
    removed: int = 0
    held_ms: dict[str, int] = field(default_factory=dict)


class Retention:
    """Belongs to the process that writes the archive."""

    def __init__(self, archive: Archive, config: ArchiveConfig, readers: Mapping[str, ReadThrough]) -> None:
        """readers: everybody who will still ask, by a name for logs and metrics."""
        self.size = ArchiveSize()
        self._archive, self._keep_ms = archive, round(config.keep_days * DAY_MS)
        self._readers = readers
        self._told: frozenset[str] = frozenset()

    def run(self, stop: threading.Event) -> None:
        """Look from time to time until `stop` is set. An error is logged: it stops nothing else."""
        while not stop.is_set():
            try:
                self.apply()
            except Unreachable as error:
                log.warning("%s: what is old stays meanwhile: %s", self._archive.root, error)
            except Exception:
                log.exception("%s: what is old could not be removed; trying again", self._archive.root)
            stop.wait(POLL_S)

    def apply(self) -> int:
        """Remove what may go by now; returns the number of files. Raises what a reader raises."""
        seals = self._archive.seals()
        removed = 0
        if self._keep_ms and seals:
            removed = self._archive.remove(self._removable_ms(seals))
            if removed:
                log.info("%s: removed %d sealed files for their age", self._archive.root, removed)
        self.size.removed += removed
        sizes = [path.stat().st_size for path in (self._archive.root / "sealed").glob("*.parquet")]
        self.size.files, self.size.file_bytes = len(sizes), sum(sizes)
        return removed

    def _removable_ms(self, seals: Sequence[Seal]) -> int:
        """What is old, less what somebody still needs."""
        old_ms, begin_ms = seals[-1].interval_end_ms - self._keep_ms, seals[0].interval_end_ms - 1
        read_ms = {name: max(begin_ms, read() or begin_ms) for name, read in self._readers.items()}
        self.size.held_ms = {name: max(0, old_ms - through_ms) for name, through_ms in read_ms.items()}
        slow = frozenset(name for name, through_ms in read_ms.items() if through_ms < old_ms)
        if slow - self._told:
            log.warning(
                "%s: events older than archive.keep_days stay, for %s did not read them yet",
                self._archive.root,
                ", ".join(sorted(slow)),
            )
        self._told = slow
        return min([old_ms, *read_ms.values()])


def applied_through_ms(seals: Sequence[Seal], done: Positions) -> int | None:
    """End of the last of the seals (ascending) whose events all lie before the positions `done`."""

    def lacking(seal: Seal) -> bool:
        return any(done.get(place, 0) < offset for place, offset in from_text(seal.positions).items())

    place = bisect_left(seals, True, key=lacking)
    return seals[place - 1].interval_end_ms if place else None
