"""The watermark: up to which event time the stream is complete.

Minimum over the partitions of the greatest event time seen, leaving out idle ones: a partition that had
nothing to read for `idle_s` (wall time) no longer holds the others back. It never goes back.
"""

from collections.abc import Iterable, Mapping


class Watermark:
    """Of one topic incarnation. Fed by the intake, in the order of arrival."""

    def __init__(self, idle_s: float) -> None:
        self.idle_s = idle_s
        self._partitions: tuple[int, ...] = ()
        self._newest_ms: dict[int, int] = {}
        self._value: int | None = None

    def restart(self, partitions: Iterable[int], newest_ms: Mapping[int, int]) -> None:
        """Watch these partitions from now on, starting from what the archive holds of them."""
        self._partitions = tuple(partitions)
        self._newest_ms = {p: newest_ms[p] for p in self._partitions if p in newest_ms}

    def observe(self, partition: int, newest_ms: int) -> None:
        """An event of that time was taken in."""
        self._newest_ms[partition] = max(newest_ms, self._newest_ms.get(partition, 0))

    def value(self, quiet_s: Mapping[int, float]) -> int | None:
        """The watermark in ms, or None while a partition was neither seen nor idle.

        `quiet_s`: for how long each partition has had nothing to read.
        """
        awake = [p for p in self._partitions if quiet_s.get(p, 0.0) < self.idle_s]
        if all(p in self._newest_ms for p in awake) and self._newest_ms:
            # With every partition idle, the stream ends where its newest event is.
            times = [self._newest_ms[p] for p in awake]
            now = min(times) if times else max(self._newest_ms.values())
            self._value = now if self._value is None else max(now, self._value)
        return self._value
