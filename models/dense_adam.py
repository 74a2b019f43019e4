"""Adam over a model's dense weights (Kingma and Ba, ICLR 2015), with torch's fused kernel.

The kernel is called without torch.optim around it, which goes through all modules and options again at every
step, and loads torch's compiler at the first optimizer (two seconds).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from models.arrays import Tensors

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class DenseAdam:
    """torch.optim.Adam (fused, its defaults) whose state is saved and restored as named tensors."""

    def __init__(self, model: nn.Module, lr: float) -> None:
        self._parameters = dict(model.named_parameters())
        self._moments: dict[str, list[Tensor]] = {}
        self._lr = lr

    def set_lr(self, lr: float) -> None:
        """Step size of the following steps."""
        self._lr = lr

    def zero_grad(self) -> None:
        """Forget the gradients of the last step."""
        for parameter in self._parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move the weights that have gradients along them."""
        moving = {name: one for name, one in self._parameters.items() if one.grad is not None}
        if not moving:
            return
        for name, parameter in moving.items():
            if name not in self._moments:
                self._moments[name] = [torch.zeros(()), *torch.zeros(2, *parameter.shape)]
        steps, means, squares = map(list, zip(*(self._moments[name] for name in moving), strict=True))
        torch._foreach_add_(steps, 1)
        torch._fused_adam_(
            list(moving.values()), [one.grad for one in moving.values() if one.grad is not None],
            means, squares, [], steps, lr=self._lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0,
            amsgrad=False, maximize=False,
        )  # fmt: skip

    def state(self) -> Tensors:
        """Tensors "adam.<moment>.<parameter>" of every parameter that has been stepped."""
        return {
            f"adam.{moment}.{name}": np.array(value.numpy())
            for name, moments in self._moments.items()
            for moment, value in zip(_MOMENTS, moments, strict=True)
        }

    def restore(self, tensors: Tensors) -> None:
        """Take what state() gave; other tensors are left alone."""
        self._moments = {
            name: [torch.from_numpy(np.array(tensors[f"adam.{moment}.{name}"])) for moment in _MOMENTS]
            for name in self._parameters
            if f"adam.step.{name}" in tensors
        }
