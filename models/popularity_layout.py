"""Where popularity counts stand in published vectors (apart from their declaration, which needs no torch)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from models.arrays import Int64Array
from models.popularity_config import PopularityConfig


class PopularityLayout:
    """Where the counts stand in a published vector."""

    def __init__(self, counts: Sequence[PopularityConfig]) -> None:
        self.counts = tuple(counts)
        self.starts: list[int] = []
        self.width = 0
        for count in self.counts:
            self.starts.append(self.width)
            self.width += count.width

    def spread(self, weights_BC: Tensor, codes: Mapping[str, Int64Array]) -> Tensor:
        """float32[B, width] of a user's vector from its weights [B, C].

        codes: `by` -> int64[B], the value's number, -1 = none that is counted.
        """
        spread = weights_BC.new_zeros(len(weights_BC), self.width)
        for place, (count, start) in enumerate(zip(self.counts, self.starts, strict=True)):
            if not count.by:
                spread[:, start] = weights_BC[:, place]
                continue
            code = torch.from_numpy(codes[count.by])
            rows = torch.nonzero((code >= 0) & (code < count.values)).flatten()
            spread[rows, start + code[rows]] = weights_BC[rows, place]
        return spread
