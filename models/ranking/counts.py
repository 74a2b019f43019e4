"""How often something was shown, and what followed: counts as of the last finished stretch.

A stretch of training first reads the counts, then adds itself; a bundle holds them as they are after its
last one. So no row sees itself or its future, and serving reads what training would read next.
"""

from __future__ import annotations

import numpy as np

from models.arrays import Float32Array, Float64Array, Int32Array, Int64Array, Tensors

COUNTED = ("user", "user_scene", "context.scene", "item")
"""ID tables whose entries are counted; the first three are of the request, the last of the candidate."""


class Counts:
    """Per ID table of COUNTED: float64[entries, 1 + T], exposures and positives of the tasks."""

    def __init__(self, tasks: int, smoothing: float) -> None:
        self._smoothing = smoothing
        self._of: dict[str, Float64Array] = {name: np.zeros((0, 1 + tasks)) for name in COUNTED}
        self._total = np.zeros(1 + tasks)

    @property
    def width(self) -> int:
        """Numbers of one counted thing: 1 + T."""
        return len(self._total)

    def read(self, name: str, entries: Int32Array | Int64Array) -> Float32Array:
        """float32[N, 1 + T] of entries (-1 = unknown): log(1 + exposures) and, per task, the log-odds of
        (positives + a * p) / (exposures + a), p the overall rate and a the smoothing; nan before anything was
        counted.
        """
        values = np.empty((len(entries), self.width), np.float32)
        if not self._total[0]:
            values.fill(np.nan)
            return values
        held = self._of[name]
        known = (entries >= 0) & (entries < len(held))
        counted = np.zeros((len(entries), self.width))
        counted[known] = held[entries[known]]
        prior = (self._total[1:] + 1.0) / (self._total[0] + 2.0)
        rate = (counted[:, 1:] + self._smoothing * prior) / (counted[:, :1] + self._smoothing)
        values[:, 0] = np.log1p(counted[:, 0])
        values[:, 1:] = np.log(rate) - np.log1p(-rate)
        return values

    def add(self, entries: dict[str, Int32Array], labels: Float32Array) -> None:
        """Count N impressions; entries: table of COUNTED -> int32[N] (-1 = not counted), labels: [N, T]."""
        ones = np.concatenate([np.ones((len(labels), 1)), labels], axis=1)
        for name in COUNTED:
            known = entries[name] >= 0
            rows = entries[name][known]
            held = self._of[name]
            size = int(rows.max(initial=-1)) + 1
            if size > len(held):
                grown = np.zeros((max(size, 2 * len(held)), self.width))
                grown[: len(held)] = held
                self._of[name] = held = grown
            np.add.at(held, rows, ones[known])
        self._total += ones.sum(0)

    def forget(self, name: str, entries: Int64Array) -> None:
        """Entries int64[n] are nobody's any more; the overall rates stay."""
        held = self._of[name]
        held[entries[entries < len(held)]] = 0.0

    def state(self) -> Tensors:
        """Everything restore() needs."""
        return {**{name: self._trimmed(held) for name, held in self._of.items()}, "total": self._total.copy()}

    def restore(self, state: Tensors) -> None:
        """Take what state() described."""
        self._of = {name: np.array(state[name], np.float64) for name in COUNTED}
        self._total = np.array(state["total"], np.float64)

    @staticmethod
    def _trimmed(held: Float64Array) -> Float64Array:
        """Without the room behind the last counted entry: equal counts give equal bytes."""
        used = np.flatnonzero(held[:, 0])
        return held[: int(used[-1]) + 1 if len(used) else 0].copy()
