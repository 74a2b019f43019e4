"""A tower whose weights stay as they are, forward and backward without autograd: the hour's steps move ID
rows only, and between so small products autograd's bookkeeping shows.

N rows, E width of ID rows, S side inputs, D width of the vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.half_layers import HalfLayers
from models.step_kernels import through_length_one, to_length_one


@dataclass(frozen=True)
class Passed:
    """What a tower made of its inputs, and the way back.

    vectors: float32[N, D]; gradient: float32[N, D] to be filled with theirs, None where nothing moves that
    they were made of; backward: then fills in the `grad` of the inputs that have one (Lookup.read).
    """

    vectors: Tensor
    gradient: Tensor | None
    backward: Callable[[], None]

    @classmethod
    def as_it_is(cls, rows: Tensor) -> Passed:
        """Rows that are vectors themselves."""
        return cls(rows, rows.grad, lambda: None)


class FrozenTower:
    """layers over ID rows, of which those before `first` are left out, and side inputs.

    shortest: vectors are divided by their length, or by this where it is more; None: they are not.
    """

    def __init__(self, layers: HalfLayers, first: int, shortest: float | None) -> None:
        self._layers = layers
        self._first = first
        self._shortest = shortest

    def __call__(self, parts: Sequence[Tensor], side_NS: Tensor) -> Passed:
        """Vectors of ID rows float32[N, E] each."""
        parts = parts[self._first :]
        known = parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)
        vectors, read = self._layers.forward(known, side_NS)
        lengths = vectors.new_empty(len(vectors))
        if self._shortest is not None:
            to_length_one(vectors.numpy(), np.float32(self._shortest), lengths.numpy())
        if all(part.grad is None for part in parts):
            return Passed(vectors, None, lambda: None)
        gradient = torch.empty_like(vectors)

        def backward() -> None:
            if self._shortest is not None:
                through_length_one(vectors.numpy(), lengths.numpy(), gradient.numpy())
            if len(parts) == 1:
                self._layers.backward(gradient, read, known.grad)
                return
            of_known = torch.empty_like(known)
            self._layers.backward(gradient, read, of_known)
            widths = [part.shape[1] for part in parts]
            for part, of_part in zip(parts, torch.split(of_known, widths, dim=1), strict=True):
                if part.grad is not None:
                    part.grad.copy_(of_part)

        return Passed(vectors, gradient, backward)
