"""The limit of a training step on this machine: its row gathers and its matrix products, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from benchmarks import data


class Roofline:
    """Every row of the history, the target and the shared negatives is read once and written once; every
    layer, and the scores of the negatives, is one product forward and two backward. No loss, no optimizer, no
    bookkeeping: nobody can train this shape faster in fp32.
    """

    def __init__(self, rows: int, hidden: Sequence[int]) -> None:
        self._table = torch.zeros(rows, data.WIDTH)
        self._widths = (data.WIDTH, *hidden, data.WIDTH)
        self._weights = [torch.zeros(*widths) for widths in pairwise(self._widths)]

    def step(self, history_BL: Tensor, target_B: Tensor, negatives_K: Tensor) -> None:
        """One step's worth of memory traffic and arithmetic."""
        b, k = len(target_B), len(negatives_K)
        asked = torch.cat([history_BL.ravel(), target_B, negatives_K])
        read = self._table.index_select(0, asked)
        layers = [torch.empty(b, width) for width in self._widths]
        layers[0] = read[:b]
        for place, weight in enumerate(self._weights):
            torch.mm(layers[place], weight, out=layers[place + 1])
        v_KD = read[-k:]
        scores_BK = layers[-1] @ v_KD.T
        back = scores_BK @ v_KD
        scores_BK.T @ layers[-1]
        for layer, weight in zip(reversed(layers[:-1]), reversed(self._weights), strict=True):
            layer.T @ back
            back = back @ weight.T
        self._table.index_copy_(0, asked, read)
