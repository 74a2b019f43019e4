"""A light pre-rank: a small network over what the channels say of a candidate and what is known of it now.

It corrects a blend: value = blend's value + w2 . relu(W1 x + b1), fitted listwise to what users took next
(models/prerank_fit.py). Rankers learn from impressions, so they say what is clicked once it is shown; this
one learns from all that recall brings up, so it says what is taken next.

Shapes: N candidates of one request, D = 1 + 2C + S inputs: the blend's value, its features of C channels,
and S signals of the items: how often each was taken and shown of late (models/item_signals.py), and how near
it is to the one who asks (models/affinities.py, with models/meetings.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.arrays import Float32Array, Tensors, UInt8Array

HIDDEN = 32
_SPREAD = 5.0  # of a scaled input: an outlier must not outvote all others
_ARRAYS = ("mean", "deviation", "w1", "b1", "w2")


def prerank_inputs(
    blend_values: Float32Array, features_NF: Float32Array, signals: Float32Array
) -> Float32Array:
    """float32[N, D] of the blend's values [N], its features [N, 2C] and the items' signals [N, S]."""
    return np.concatenate([blend_values[:, None], features_NF, signals], axis=1).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Prerank:
    """channels: those of the blend that it corrects; signals: names of the S signals. mean, deviation:
    float32[D] of the inputs; w1 float32[H, D], b1 float32[H], w2 float32[H].
    """

    channels: tuple[str, ...]
    signals: tuple[str, ...]
    mean: Float32Array
    deviation: Float32Array
    w1: Float32Array
    b1: Float32Array
    w2: Float32Array

    def scaled(self, inputs: Float32Array) -> Float32Array:
        """Inputs float32[N, D] as the network reads them."""
        scaled: Float32Array = np.clip((inputs - self.mean) / self.deviation, -_SPREAD, _SPREAD)
        return scaled

    def values(self, inputs: Float32Array) -> Float32Array:
        """What candidates are ordered by, float32[N]; inputs as prerank_inputs() has them."""
        hidden = np.maximum(self.scaled(inputs) @ self.w1.T + self.b1, 0.0)
        values: Float32Array = inputs[:, 0] + hidden @ self.w2
        return values

    def tensors(self) -> Tensors:
        """Everything from_tensors() needs."""
        named = {"channels": self.channels, "signals": self.signals}
        texts = {name: np.frombuffer("\n".join(all_).encode(), np.uint8) for name, all_ in named.items()}
        return {name: getattr(self, name) for name in _ARRAYS} | {n: t.copy() for n, t in texts.items()}

    @classmethod
    def from_tensors(cls, tensors: Tensors) -> Prerank:
        """What tensors() described. ValueError where the parts do not fit together."""
        channels, signals = (_names(tensors[name]) for name in ("channels", "signals"))
        parts = {name: np.asarray(tensors[name], np.float32) for name in _ARRAYS}
        d, h = 1 + 2 * len(channels) + len(signals), len(parts["b1"])
        expected = {"mean": (d,), "deviation": (d,), "w1": (h, d), "b1": (h,), "w2": (h,)}
        for name, shape in expected.items():
            if parts[name].shape != shape or not np.isfinite(parts[name]).all():
                raise ValueError(
                    f"pre-rank: {name}: expected finite float32{list(shape)}, got {list(parts[name].shape)}"
                )
        return cls(channels, signals, **parts)


@dataclass(frozen=True)
class Judgement:
    """How a network does on targets it has not learned from: mean log losses, its own and the blend's."""

    targets: int
    loss: float
    loss_of_blend: float

    @property
    def passed(self) -> bool:
        """Whether the network is no worse than what it corrects."""
        return self.loss <= self.loss_of_blend


def _names(stored: np.ndarray) -> tuple[str, ...]:
    names: UInt8Array = np.asarray(stored, np.uint8)
    return tuple(names.tobytes().decode().split("\n")) if len(names) else ()
