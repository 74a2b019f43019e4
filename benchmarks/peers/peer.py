"""What a peer has to do, and what the replay promises it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.positives import Int64Array, Moments, Positives

UNSCORED = np.float32(-np.inf)


@dataclass(frozen=True)
class Known:
    """What a refit may read: positives before `upto`, of which the rows of `samples` are trained on."""

    positives: Positives
    upto: int
    newest: int
    """At most so many of the newest positives are trained on; 0: all. Histories reach further back."""

    @property
    def rows(self) -> Int64Array:
        """Rows to train on, oldest first."""
        return np.arange(max(0, self.upto - self.newest) if self.newest else 0, self.upto, dtype=np.int64)

    @property
    def candidates(self) -> Int64Array:
        """Codes of all items seen before the refit, ascending."""
        return np.unique(self.positives.item[: self.upto]).astype(np.int64)


class Fitted(Protocol):
    """One model of one refit."""

    def train(self, epochs: int) -> None:
        """So many epochs more, with the peer's own trainer."""

    def scores(self, moments: Moments) -> NDArray[np.float32]:
        """float32[n, items], UNSCORED for items that are no candidates; a moment about which the peer knows
        nothing is UNSCORED as a whole and gets the list of the popularity peer.
        """


class Peer(Protocol):
    """One model of another project. The first entry of the grid is its documented example."""

    name: str
    packages: tuple[str, ...]
    grid: tuple[Mapping[str, Any], ...]
    epochs: tuple[int, ...]
    """Ascending: how often to stop and look while tuning; the documented number is among them."""

    def start(self, known: Known, knobs: Mapping[str, Any], seed: int) -> Fitted:
        """An untrained model of what is known."""
