"""A learned blend of channels: one linear score of what every channel says about every candidate.

Candidates of one request are the best of each channel together; every channel scores all of them. A
channel's scores become two features that compare between requests: standardised over the candidates, and
minus the log of the rank among them. The weights are fitted so that what the user took next comes first
(models/blend_fit.py).

How often each candidate was taken and shown of late (models/item_signals.py) can be weighed like what the
channels say: the counts of every half-life are further channels, named as there, which bring up no
candidates.

Shapes: N candidates of one request, C channels, F = 2C features: C standardised scores, then C ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.arrays import Float32Array, Tensors, UInt8Array
from models.count_names import NAMES, SIGNALS

POPULARITY = "popularity"
"""Name of the popularity channel, by which its weight is fitted and served."""
_COUNTS = frozenset(NAMES)
_LOWEST, _HIGHEST = -5.0, 8.0  # of a standardised score: a lone peak must not outvote every other channel


def with_counts(scores_CN: Float32Array, signals_NS: Float32Array) -> Float32Array:
    """float32[C + SIGNALS, N]: scores of C channels, and the candidates' live counts as channels NAMES.

    signals_NS: float32[N, S], the counts first; what stands behind them is not read.
    """
    return np.concatenate([scores_CN, signals_NS[:, :SIGNALS].T])


def blend_features(scores_CN: Float32Array) -> Float32Array:
    """float32[N, 2C] of scores float32[C, N], -inf where a channel does not know an item.

    What it does not know counts like its worst candidate. A channel that says nothing, or the same of all,
    is 0 throughout: it moves nobody. Ranks of equal scores are in the order of the candidates.
    """
    c, n = scores_CN.shape
    features = np.zeros((2 * c, n), np.float32)
    for channel in range(c):
        scores = scores_CN[channel].astype(np.float64)
        known = np.isfinite(scores)
        if not known.any():
            continue
        scores[~known] = scores[known].min()
        deviation = scores.std()
        if deviation <= 1e-12 * float(np.abs(scores).max()):  # of its own scale, however small
            continue
        features[channel] = np.clip((scores - scores.mean()) / deviation, _LOWEST, _HIGHEST)
        rank = np.empty(n, np.int64)
        rank[np.argsort(-scores, kind="stable")] = np.arange(n)
        features[c + channel] = -np.log1p(rank)
    return np.ascontiguousarray(features.T)


@dataclass(frozen=True, eq=False)
class Blend:
    """weights: float32[2C] for `channels`, in the order of blend_features."""

    channels: tuple[str, ...]
    weights: Float32Array

    @property
    def reads_counts(self) -> bool:
        """Whether live counts are among its channels."""
        return not _COUNTS.isdisjoint(self.channels)

    @classmethod
    def fresh(cls, channels: Sequence[str]) -> Blend:
        """The mean of the standardised scores."""
        c = len(channels)
        weights = np.zeros(2 * c, np.float32)
        weights[:c] = 1.0 / max(c, 1)
        return cls(tuple(channels), weights)

    def over(self, channels: Sequence[str]) -> Blend:
        """The same weights for the channels that stay, 0 for those that came."""
        if tuple(channels) == self.channels:
            return self
        weights = np.zeros((2, len(channels)), np.float32)
        held = self.weights.reshape(2, len(self.channels))
        for place, name in enumerate(channels):
            if name in self.channels:
                weights[:, place] = held[:, self.channels.index(name)]
        return Blend(tuple(channels), weights.ravel())

    def values(self, scores_CN: Float32Array) -> Float32Array:
        """What candidates are ordered by, float32[N]; scores float32[C, N] in the order of `channels`."""
        values: Float32Array = blend_features(scores_CN) @ self.weights
        return values

    def tensors(self) -> Tensors:
        """Everything from_tensors() needs."""
        names = "\n".join(self.channels).encode()
        return {"weights": self.weights.copy(), "channels": np.frombuffer(names, np.uint8).copy()}

    @classmethod
    def from_tensors(cls, tensors: Tensors) -> Blend:
        """What tensors() described. ValueError where the parts do not fit together."""
        names: UInt8Array = np.asarray(tensors["channels"], np.uint8)
        channels = tuple(names.tobytes().decode().split("\n")) if len(names) else ()
        weights = np.asarray(tensors["weights"], np.float32)
        if weights.shape != (2 * len(channels),) or not np.isfinite(weights).all():
            raise ValueError(
                f"blend: expected {2 * len(channels)} finite weights for {len(channels)} channels, got "
                f"{list(weights.shape)}"
            )
        return cls(channels, weights)
