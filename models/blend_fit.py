"""Fit a blend to what users took next: softmax cross-entropy of the target among its candidates.

N candidates of a target, F features, B targets of a step, L candidates of the longest of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from models.arrays import Float32Array, Int64Array
from models.blend import Blend, blend_features

_PASSES, _BATCH, _LR = 4, 64, 0.01


@dataclass
class BlendRows:
    """Targets with their candidates, collected one by one. lost: targets that no channel had brought up.

    features: float32[N, 2C] of each; signals: float32[N, S] of its items, where they were given; named: what
    they are.
    """

    channels: tuple[str, ...]
    named: tuple[str, ...] = ()
    features: list[Float32Array] = field(default_factory=list)
    signals: list[Float32Array] = field(default_factory=list)
    place: list[int] = field(default_factory=list)
    lost: int = 0

    def add(self, scores_CN: Float32Array, place: int, signals: Float32Array | None = None) -> None:
        """A target: its candidates' scores float32[C, N] and its place among them, -1 = it is none."""
        if place < 0:
            self.lost += 1
            return
        self.features.append(blend_features(scores_CN))
        self.place.append(place)
        if signals is not None:
            self.signals.append(signals)

    def take(self, rows: Sequence[int] | Int64Array) -> BlendRows:
        """Some of the rows, in this order."""
        features, place = [self.features[row] for row in rows], [self.place[row] for row in rows]
        signals = [self.signals[row] for row in rows] if self.signals else []
        return BlendRows(self.channels, self.named, features, signals, place)

    def __len__(self) -> int:
        return len(self.place)


def fit_blend(blend: Blend, rows: BlendRows, seed: int) -> Blend:
    """The blend after four passes of Adam over the rows in seeded order, from its weights on.

    The weights before are the prior: a day's rows move them, they do not start anew. A pure function of its
    arguments, for one thread count. Without rows the blend as it is.
    """
    blend = blend.over(rows.channels)
    if not len(rows):
        return blend
    weights = torch.tensor(blend.weights, requires_grad=True)
    adam = torch.optim.Adam([weights], lr=_LR)
    order = np.random.default_rng(seed)
    for _ in range(_PASSES):
        shuffled = order.permutation(len(rows))
        for begin in range(0, len(rows), _BATCH):
            chosen = shuffled[begin : begin + _BATCH]
            features_BLF, absent_BL, place_B = padded(rows.features, rows.place, chosen)
            logits_BL = (features_BLF @ weights).masked_fill(absent_BL, float("-inf"))
            adam.zero_grad()
            cross_entropy(logits_BL, place_B).backward()  # type: ignore[no-untyped-call]
            adam.step()
    return Blend(blend.channels, weights.detach().numpy().copy())


def padded(
    features: Sequence[Float32Array], place: Sequence[int], chosen: Int64Array
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features [B, L, F], bool [B, L] where there is no candidate, places [B] of the chosen targets."""
    parts = [features[at] for at in chosen]
    longest = max(len(part) for part in parts)
    features_BLF = np.zeros((len(parts), longest, parts[0].shape[1]), np.float32)
    absent_BL = np.ones((len(parts), longest), np.bool_)
    for at, part in enumerate(parts):
        features_BLF[at, : len(part)] = part
        absent_BL[at, : len(part)] = False
    places = torch.tensor([place[at] for at in chosen])
    return torch.from_numpy(features_BLF), torch.from_numpy(absent_BL), places
