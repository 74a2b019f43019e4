"""Fit a pre-rank network to what users took next: softmax cross-entropy of the target among its candidates.

The same rows as the blend's (models/blend_fit.py), cut to what the blend puts first: those that a pre-rank
stage will see. N candidates of a target, D inputs, H hidden units.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from models.arrays import Float32Array
from models.blend import Blend
from models.blend_fit import BlendRows, padded
from models.prerank import HIDDEN, Judgement, Prerank, prerank_inputs

CANDIDATES = 200
"""Of the fused list; as many as a stage looks at where nothing else is said."""
HELD_OUT = 0.2
"""Share of the newest targets that a fit is judged by."""
_PASSES_FIRST, _PASSES, _BATCH, _LR, _DECAY = 8, 2, 32, 2e-3, 1e-4


def fit_prerank(prerank: Prerank | None, blend: Blend, rows: BlendRows, seed: int) -> Prerank | None:
    """The network after a few passes of Adam over the rows in seeded order, from its weights on.

    rows: with signals. A network of other channels or signals starts anew, as None does: w2 = 0, so that it
    first says what the blend says, and with the scales of these rows, which then stay. Targets that the blend
    does not put among the first CANDIDATES teach nothing. Without rows the network as it is. A pure function
    of its arguments, for one thread count.
    """
    inputs, place = _inputs(blend, rows)
    if not inputs:
        return prerank
    first = prerank is None or (prerank.channels, prerank.signals) != (rows.channels, rows.named)
    if prerank is None or first:
        prerank = _fresh(rows, inputs, seed)
    weights = [torch.tensor(part, requires_grad=True) for part in (prerank.w1, prerank.b1, prerank.w2)]
    adam = torch.optim.Adam(weights, lr=_LR, weight_decay=_DECAY)
    scaled = [prerank.scaled(part) for part in inputs]
    offset = [part[:, :1] for part in inputs]
    order = np.random.default_rng(seed)
    for _ in range(_PASSES_FIRST if first else _PASSES):
        shuffled = order.permutation(len(inputs))
        for begin in range(0, len(inputs), _BATCH):
            chosen = shuffled[begin : begin + _BATCH]
            scaled_BLD, absent_BL, place_B = padded(scaled, place, chosen)
            offset_BL = padded(offset, place, chosen)[0][..., 0]
            logits_BL = offset_BL + _corrections(scaled_BLD, weights)
            adam.zero_grad()
            loss = cross_entropy(logits_BL.masked_fill(absent_BL, float("-inf")), place_B)
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
    w1, b1, w2 = (part.detach().numpy().copy() for part in weights)
    return replace(prerank, w1=w1, b1=b1, w2=w2)


def judged_fit(prerank: Prerank | None, blend: Blend, rows: BlendRows, seed: int) -> Judgement | None:
    """Judge fit_prerank() of the older rows by the newer ones (HELD_OUT of them); None for too few rows.

    rows: by time.
    """
    cut = round((1 - HELD_OUT) * len(rows))
    fitted = fit_prerank(prerank, blend, rows.take(range(cut)), seed)
    inputs, places = _inputs(blend, rows.take(range(cut, len(rows))))
    if fitted is None or not inputs:
        return None
    losses = [
        (_log_loss(fitted.values(one), place), _log_loss(one[:, 0], place))
        for one, place in zip(inputs, places, strict=True)
    ]
    own, of_blend = np.mean(losses, axis=0).tolist()
    return Judgement(len(losses), own, of_blend)


def _log_loss(values: Float32Array, place: int) -> float:
    """-log softmax(values)[place]."""
    return float(np.logaddexp.reduce(values.astype(np.float64)) - values[place])


def _corrections(scaled_BLD: Tensor, weights: list[Tensor]) -> Tensor:
    w1, b1, w2 = weights
    return torch.relu(scaled_BLD @ w1.T + b1) @ w2


def _inputs(blend: Blend, rows: BlendRows) -> tuple[list[Float32Array], list[int]]:
    """Inputs of each target's first candidates, and the target's place among them."""
    inputs, places = [], []
    for features, signals, place in zip(rows.features, rows.signals, rows.place, strict=True):
        values: Float32Array = features @ blend.weights
        first = np.argsort(-values, kind="stable")[:CANDIDATES]
        found = np.flatnonzero(first == place)
        if len(found):
            inputs.append(prerank_inputs(values[first], features[first], signals[first]))
            places.append(int(found[0]))
    return inputs, places


def _fresh(rows: BlendRows, inputs: list[Float32Array], seed: int) -> Prerank:
    every = np.concatenate(inputs)
    mean, deviation = every.mean(0), every.std(0)
    deviation[deviation < 1e-3] = 1.0
    width = every.shape[1]
    bound = 1 / np.sqrt(width)
    drawn = np.random.default_rng(seed).uniform(-bound, bound, (HIDDEN, width + 1)).astype(np.float32)
    nothing = np.zeros(HIDDEN, np.float32)
    w1, b1 = drawn[:, 1:].copy(), drawn[:, 0].copy()
    return Prerank(rows.channels, rows.named, mean, deviation, w1, b1, nothing)
