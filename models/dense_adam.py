"""Adam over a model's dense weights, made when it is first needed.

torch.optim loads torch's compiler at the first optimizer (two seconds), and most processes that hold a
learner only move ID rows: they carry the optimizer's state along untouched.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from models.arrays import Tensors

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class DenseAdam:
    """torch.optim.Adam (fused) whose state is saved and restored as named tensors."""

    def __init__(self, model: nn.Module, lr: float) -> None:
        self._model = model
        self._lr = lr
        self._restored: Tensors = {}
        self._adam: torch.optim.Adam | None = None

    def set_lr(self, lr: float) -> None:
        """Step size of the following steps."""
        self._lr = lr

    def zero_grad(self) -> None:
        """Forget the gradients of the last step."""
        self._model.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Move the weights along their gradients."""
        adam = self._made()
        for group in adam.param_groups:
            group["lr"] = self._lr
        adam.step()

    def state(self) -> Tensors:
        """Tensors "adam.<moment>.<parameter>" of every parameter that has been stepped."""
        if self._adam is None:
            return dict(self._restored)
        return {
            f"adam.{moment}.{name}": np.array(value.numpy())
            for name, parameter in self._model.named_parameters()
            for moment, value in self._adam.state.get(parameter, {}).items()
        }

    def restore(self, tensors: Tensors) -> None:
        """Take what state() gave; other tensors are left alone."""
        self._restored = {
            name: np.array(value) for name, value in tensors.items() if name.startswith("adam.")
        }
        self._adam = None

    def _made(self) -> torch.optim.Adam:
        if self._adam is None:
            self._adam = torch.optim.Adam(self._model.parameters(), lr=self._lr, fused=True)
            for name, parameter in self._model.named_parameters():
                if f"adam.step.{name}" in self._restored:
                    self._adam.state[parameter] = {
                        moment: torch.from_numpy(self._restored[f"adam.{moment}.{name}"])
                        for moment in _MOMENTS
                    }
        return self._adam
