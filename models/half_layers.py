"""Layers of a perceptron in bfloat16 with a linear way around them, forward and back, compiled where the
processor has the instruction for such products.

B rows, E width of `known`, S side inputs, D width of what is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, pad

from models import half_kernels, half_layer_kernels
from models.arrays import Float32Array, Int16Array
from models.layer_kernels import LANES

_UNWANTED = np.empty((0, 0), np.float32)
Layers = Sequence[tuple[Tensor, Tensor]]
"""(weight float32[out, in], bias float32[out]) each."""


def layers_in_half(layers: Layers, around_DE: Tensor, blank: int = 0) -> HalfLayers:
    """The layers, the last one's outputs D, and the linear way; with the weights as they are now.

    blank: columns that first weights and around_DE have before those of `known`, for inputs that are zero.
    """
    (first, bias), *others = layers
    made = _Compiled if half_kernels.has_instruction() else HalfLayers
    return made([(first[:, blank:], bias), *others], around_DE[:, blank:])


class HalfLayers:
    """MLP([known, side]) + linear(known), ReLU between layers, every product in bfloat16, rounded once.

    Here by torch.
    """

    def __init__(self, layers: Layers, around_DE: Tensor) -> None:
        self.known_width = around_DE.shape[1]
        self.of_side = layers[0][0][:, self.known_width :].bfloat16()
        self._layers = [(weight.bfloat16(), bias.bfloat16()) for weight, bias in layers]
        self._around = around_DE.bfloat16()

    def forward(self, known_BE: Float32Array, side_BS: Float32Array) -> tuple[Float32Array, Any]:
        """float32[B, D], and what inputs() takes."""
        known, side = (torch.from_numpy(given).bfloat16() for given in (known_BE, side_BS))
        read = [torch.cat([known, side], dim=1)]
        *hidden, last = self._layers
        for layer in hidden:
            read.append(linear(read[-1], *layer).relu_())
        return linear(read[-1], *last).float().add_(linear(known, self._around)).numpy(), read

    def backward(self, gradient_BD: Float32Array, read: Any, of_known_BE: Float32Array | None) -> Any:
        """Make of_known float32 the gradient of `known`, where it is wanted; what gradients() takes."""
        made = [torch.from_numpy(gradient_BD).bfloat16()]
        for (weight, _), into in zip(self._layers[:0:-1], read[:0:-1], strict=True):
            made.append(torch.ops.aten.threshold_backward(made[-1] @ weight, into, 0))
        if of_known_BE is not None:
            weight = self._layers[0][0][:, : self.known_width]
            of_known_BE[:] = (made[-1] @ weight).float().add_(made[0] @ self._around).numpy()
        return made

    def inputs(self, of_forward: Any, rows: int) -> list[Tensor]:
        """What every layer read, bfloat16."""
        return list(of_forward)

    def gradients(self, of_backward: Any, rows: int) -> list[Tensor]:
        """The gradients of what every layer made, bias included and before its ReLU, bfloat16."""
        return list(of_backward[::-1])


class _Compiled(HalfLayers):
    def __init__(self, layers: Layers, around_DE: Tensor) -> None:
        self.known_width = around_DE.shape[1]
        weights, around = [_numbers(weight) for weight, _ in layers], _numbers(around_DE)
        self.of_side = torch.from_numpy(weights[0][:, self.known_width :]).bfloat16()
        self._inputs = [weight.shape[1] for weight in weights]
        self._outputs = [len(weight) for weight in weights]
        self._widths = np.array([_even(width) for width in (*self._inputs, len(around))])
        self._width_read, self._width_made = int(self._widths[:-1].sum()), int(self._widths[1:].sum())
        bits, around_bits = [half_kernels.halves(weight) for weight in weights], half_kernels.halves(around)
        self._forward = np.concatenate(
            [half_kernels.packed_turned(weight).ravel() for weight in (*bits, around_bits)]
        )
        of_known = np.ascontiguousarray(bits[0][:, : self.known_width])
        self._backward = np.concatenate(
            [half_kernels.packed(weight).ravel() for weight in (*bits[:0:-1], of_known, around_bits)]
        )
        biases = (bias.bfloat16().float() for _, bias in layers)
        self._biases = torch.cat([pad(bias, (0, -len(bias) % LANES)) for bias in biases]).numpy()

    def forward(self, known_BE: Float32Array, side_BS: Float32Array) -> tuple[Float32Array, Any]:
        rows = len(known_BE)
        read = np.empty(rows * self._width_read, np.int16)
        vectors_BD = np.empty((rows, self._outputs[-1]), np.float32)
        half_layer_kernels.forward(
            known_BE, side_BS, self._forward, self._biases, self._widths, read, vectors_BD
        )
        return vectors_BD, read

    def backward(self, gradient_BD: Float32Array, read: Any, of_known_BE: Float32Array | None) -> Any:
        made = np.empty(len(gradient_BD) * self._width_made, np.int16)
        of_known = _UNWANTED if of_known_BE is None else of_known_BE
        half_layer_kernels.backward(gradient_BD, self._backward, self._widths, read, made, of_known)
        return made

    def inputs(self, of_forward: Any, rows: int) -> list[Tensor]:
        return _parts(of_forward, rows, self._inputs)

    def gradients(self, of_backward: Any, rows: int) -> list[Tensor]:
        return _parts(of_backward, rows, self._outputs[::-1])[::-1]


def _parts(flat: Int16Array, rows: int, widths: Sequence[int]) -> list[Tensor]:
    """Matrices of bfloat16 that lie one after the other, each an even number of columns wide."""
    half, parts, at = torch.from_numpy(flat).view(torch.bfloat16), [], 0
    for width in widths:
        end = at + rows * _even(width)
        parts.append(half[at:end].view(rows, _even(width))[:, :width])
        at = end
    return parts


def _even(width: int) -> int:
    return width + width % 2


def _numbers(weight: Tensor) -> Float32Array:
    numbers: Float32Array = weight.detach().contiguous().numpy()
    return numbers


def half_layers(
    known_BE: Tensor, side_BS: Tensor, layers: Layers, around_DE: Tensor, blank: int = 0
) -> Tensor:
    """layers_in_half() over `known` and `side`, float32[B, D], with gradients of all of them.

    One step of autograd for all, backward written out: between so small products its bookkeeping shows.
    """
    call: Any = _HalfLayers.apply  # untyped
    flat = [part for layer in layers for part in layer]
    return cast(Tensor, call(known_BE, side_BS, blank, around_DE, *flat))


class _HalfLayers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, known: Tensor, side: Tensor, blank: int, around: Tensor, *layers: Tensor) -> Tensor:
        pairs = list(zip(layers[::2], layers[1::2], strict=True))
        ctx.blank, ctx.layers = blank, layers_in_half(pairs, around, blank)
        out, ctx.read = ctx.layers.forward(known.contiguous().numpy(), side.contiguous().numpy())
        return torch.from_numpy(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, width = len(gradient), ctx.layers.known_width
        of_known, of_side, _, of_around, *of_layers = ctx.needs_input_grad
        known = np.empty((rows, width), np.float32) if of_known else None
        made = ctx.layers.gradients(ctx.layers.backward(gradient.contiguous().numpy(), ctx.read, known), rows)
        read = ctx.layers.inputs(ctx.read, rows)
        around = _of_weight(made[-1], read[0][:, :width], ctx.blank) if of_around else None
        layers: list[Tensor | None] = [None] * len(of_layers)
        for number, (of_made, inputs) in enumerate(zip(made, read, strict=True)):
            if of_layers[2 * number]:
                layers[2 * number] = _of_weight(of_made, inputs, 0 if number else ctx.blank)
            if of_layers[2 * number + 1]:
                layers[2 * number + 1] = of_made.sum(0, dtype=torch.float32)
        side = (made[0] @ ctx.layers.of_side).to(gradient.dtype) if of_side else None
        return None if known is None else torch.from_numpy(known), side, None, around, *layers


def _of_weight(half: Tensor, inputs: Tensor, blank: int) -> Tensor:
    """Gradient of a weight, float32[out, blank + in], from those of what it made and from what it read."""
    product = (half.T @ inputs).float()
    return pad(product, (blank, 0)) if blank else product
