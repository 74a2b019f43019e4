"""The limit of a training step made of torch's operations: its row gathers and its matrix products, and
nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from benchmarks import data


class Roofline:
    """Every row of the history, the target and the shared negatives is read once and written once; every
    layer, and the scores of the negatives, is one product forward and two backward (one for layers that stay
    as they are). No loss, no optimizer, no bookkeeping: nobody can train this shape faster at that precision
    out of these operations. (Kernels of one's own can be faster than they are.)

    item_tower: distinct items go through layers like the user's; dense: the layers learn; half: all products,
    those of the scores too, in bfloat16.
    """

    def __init__(self, rows: int, hidden: Sequence[int], item_tower: bool, dense: bool, half: bool) -> None:
        self._table = torch.zeros(rows, data.WIDTH)
        self._factor = torch.bfloat16 if half else torch.float32
        widths = (data.WIDTH, *hidden, data.WIDTH)
        self._user = [torch.zeros(*pair, dtype=self._factor) for pair in pairwise(widths)]
        self._item = [weight.clone() for weight in self._user] if item_tower else []
        self._dense = dense

    def step(self, history_BL: Tensor, target_B: Tensor, negatives_K: Tensor) -> None:
        """One step's worth of memory traffic and arithmetic."""
        b, k = len(target_B), len(negatives_K)
        asked = torch.cat([history_BL.ravel(), target_B, negatives_K])
        read = self._table.index_select(0, asked)
        u_BD = self._through(read[:b].to(self._factor), self._user)
        v_KD = read[-k:].to(self._factor)
        scores_BK = u_BD @ v_KD.T
        scores_BK @ v_KD
        scores_BK.T @ u_BD
        if self._item:
            distinct = len(asked[-b - k :].unique())
            self._through(read[-distinct:].to(self._factor), self._item)
        self._table.index_copy_(0, asked, read)

    def _through(self, inputs: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """Forward and backward; what the products are of makes no difference to what they cost."""
        layers = [inputs]
        for weight in weights:
            layers.append(layers[-1] @ weight)
        back = layers[-1]
        for layer, weight in zip(reversed(layers[:-1]), reversed(weights), strict=True):
            if self._dense:
                layer.T @ back
            back = back @ weight.T
        return layers[-1]
