"""Reading the store every moment, and how long what was read outlasts a store that is away."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable

_LOG = logging.getLogger(__name__)


class StoreFollower(ABC):
    """Keeps a reading up to date. One thread calls `follow` (or `step` in tests)."""

    def __init__(self, what: str, poll_s: float, stale_s: float, clock_s: Callable[[], float]) -> None:
        """what: is logged when it is lost; stale_s: how long a reading serves that cannot be read again."""
        self._what, self._poll_s, self._stale_s, self._clock_s = what, poll_s, stale_s, clock_s
        self._missing: str | None = None
        self._read_s = clock_s()

    def follow(self, stop: threading.Event) -> None:
        """Read every `poll_s` until `stop`."""
        while not stop.is_set():
            self.step()
            stop.wait(self._poll_s)

    @abstractmethod
    def step(self) -> bool:
        """Read once; True when something changed. Never raises: without the store nothing is known."""

    @abstractmethod
    def _publish_missing(self, why: str) -> None:
        """Serve a reading that says why there is none."""

    def _lost(self, why: str) -> bool:
        lasting = self._missing == "" and self._clock_s() - self._read_s < self._stale_s
        if lasting or self._missing == why:
            return False
        _LOG.warning("%s: %s", self._what, why)
        self._missing = why
        self._publish_missing(why)
        return True
