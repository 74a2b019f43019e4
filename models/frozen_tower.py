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

from models.arrays import Float32Array
from models.half_layers import HalfLayers
from models.step_kernels import through_length_one, to_length_one


@dataclass(frozen=True)
class Passed:
    """What a tower made of its inputs, and the way back.

    vectors: float32[N, D]; gradient: float32[N, D] to be filled with theirs, None where nothing moves that
    they were made of; backward: then fills in the `grad` of the inputs that have one (Lookup.read).
    """

    vectors: Float32Array
    gradient: Float32Array | None
    backward: Callable[[], None]

    @classmethod
    def as_it_is(cls, rows: Tensor) -> Passed:
        """Rows that are vectors themselves."""
        return cls(rows.numpy(), None if rows.grad is None else rows.grad.numpy(), lambda: None)


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
        known = (parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)).numpy()
        vectors, read = self._layers.forward(known, side_NS.numpy())
        lengths = np.empty(len(vectors), np.float32)
        if self._shortest is not None:
            to_length_one(vectors, np.float32(self._shortest), lengths)
        wanted = [None if part.grad is None else part.grad.numpy() for part in parts]
        if all(of_part is None for of_part in wanted):
            return Passed(vectors, None, lambda: None)
        gradient = np.empty_like(vectors)

        def backward() -> None:
            if self._shortest is not None:
                through_length_one(vectors, lengths, gradient)
            if len(wanted) == 1:
                self._layers.backward(gradient, read, wanted[0])
                return
            of_known = np.empty_like(known)
            self._layers.backward(gradient, read, of_known)
            _hand_out(of_known, wanted)

        return Passed(vectors, gradient, backward)


def _hand_out(joined_NE: Float32Array, parts: Sequence[Float32Array | None]) -> None:
    """Columns of `joined` to the parts side by side, all equally wide; None: to nobody."""
    width = joined_NE.shape[1] // len(parts)
    for at, part in enumerate(parts):
        if part is not None:
            part[:] = joined_NE[:, at * width : (at + 1) * width]
