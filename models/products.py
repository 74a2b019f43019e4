"""Matrix products of training steps in bfloat16: a processor with instructions for them is several times
faster at them than in float32.

Weights, gradients of weights, rows and optimizers stay float32. A product takes factors rounded to bfloat16
(8 bits of mantissa, the range of float32), adds up in float32 and is rounded once. Mixed precision as in
Micikevicius et al., ICLR 2018; bfloat16 needs no scaling of the loss (Kalamkar et al., 2019).

B rows, N columns or candidates, D width.
"""

from collections.abc import Sequence
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, pad

from models.arrays import Int16Array
from models.model_config import Precision
from models.native import compiled

BLOCK = 64
Element = TypeVar("Element", bound=np.generic)


def in_bfloat16(precision: Precision) -> bool:
    """Whether steps multiply in bfloat16; auto: where this processor has instructions for it."""
    if precision == "auto":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return precision == "bfloat16"


def in_blocks(of_items: npt.NDArray[Element]) -> npt.NDArray[Element]:
    """[N, ...] rows of items, the last of them again up to a multiple of BLOCK.

    For every number of rows that it has not just seen oneDNN writes other code for its products, and that
    takes twice as long as the products of a step.
    """
    missing = -len(of_items) % BLOCK
    return np.concatenate([of_items, np.repeat(of_items[-1:], missing, axis=0)])


class HalfLayers:
    """MLP([known, side]) + linear(known), ReLU between layers, every product in bfloat16; the weights as they
    are now, rounded once.

    layers: (weight float32[out, in], bias float32[out]), the last one's of D; around_DE: the linear way.
    blank: columns that first weights and around_DE have before those of `known`, for inputs that are zero.
    """

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]], around_DE: Tensor, blank: int = 0) -> None:
        (first, _), *others = layers
        self.around = around_DE[:, blank:].bfloat16()
        self.weights = [first[:, blank:].bfloat16(), *(weight.bfloat16() for weight, _ in others)]
        self.biases = [bias.bfloat16() for _, bias in layers]

    def forward(self, known_BE: Tensor, side_BS: Tensor) -> tuple[Tensor, list[Tensor]]:
        """float32[B, D], and what every layer read, bfloat16 (with `known` in front of it)."""
        known = known_BE.bfloat16()
        read = [known, torch.cat([known, side_BS.bfloat16()], dim=1) if side_BS.shape[1] else known]
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            read.append(linear(read[-1], weight, bias))
            read[-1].view(torch.int16).clamp_min_(0)  # relu_() takes bfloat16 for what it is, which is slower
        out = linear(read[-1], self.weights[-1], self.biases[-1])
        return out.to(known_BE.dtype).add_(linear(known, self.around)), read

    def backward(self, gradient_BD: Tensor, read: Sequence[Tensor]) -> list[Tensor]:
        """The gradients of what every layer made, bias included and before its ReLU, bfloat16, the first
        layer's first. read: what forward() gave beside its answer.
        """
        made = [gradient_BD.bfloat16()]
        for weight, into in zip(self.weights[:0:-1], read[:1:-1], strict=True):
            made.append(made[-1] @ weight)
            _leave_positive(made[-1].view(torch.int16).numpy(), into.view(torch.int16).numpy())
        return made[::-1]

    def of_known(self, made: Sequence[Tensor], into_BE: Tensor) -> Tensor:
        """into_BE float32[B, E]: the gradient of `known`, from what backward() gave."""
        into_BE.copy_(made[0] @ self.weights[0][:, : self.around.shape[1]])
        return into_BE.add_(made[-1] @ self.around)


def half_layers(
    known_BE: Tensor,
    side_BS: Tensor,
    layers: Sequence[tuple[Tensor, Tensor]],
    around_DE: Tensor,
    blank: int = 0,
) -> Tensor:
    """HalfLayers of these weights over `known` and `side`, float32[B, D], with gradients of all of them.

    One step of autograd for all, backward written out: between so small products its bookkeeping shows.
    """
    call: Any = _HalfLayers.apply  # untyped
    flat = [part for layer in layers for part in layer]
    return cast(Tensor, call(known_BE, side_BS, blank, around_DE, *flat))


def scores_of(u_BD: Tensor, v_ND: Tensor) -> Tensor:
    """Inner products float32[B, N].

    They are not rounded: a loss takes exponents of them, and bfloat16 is good for 0.06 at 20.
    """
    # Leaves the choice to oneDNN, which may round the factors, never the product: where its kernels for
    # float32 are the faster ones, as on AMD, it takes these.
    products = cast(Any, torch.backends.mkldnn).matmul
    before, products.fp32_precision = products.fp32_precision, "bf16"
    try:
        return u_BD @ v_ND.T
    finally:
        products.fp32_precision = before


def similarities(u_BD: Tensor, v_ND: Tensor) -> Tensor:
    """scores_of(), with gradients that are products in bfloat16."""
    call: Any = _Similarities.apply  # untyped
    return cast(Tensor, call(u_BD, v_ND))


class _HalfLayers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, known: Tensor, side: Tensor, blank: int, around: Tensor, *layers: Tensor) -> Tensor:
        pairs = list(zip(layers[::2], layers[1::2], strict=True))
        ctx.blank, ctx.layers = blank, HalfLayers(pairs, around, blank)
        out, read = ctx.layers.forward(known, side)
        ctx.save_for_backward(*read)
        return cast(Tensor, out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        read, width = ctx.saved_tensors, ctx.layers.around.shape[1]
        of_known, of_side, _, of_around, *of_layers = ctx.needs_input_grad
        made = ctx.layers.backward(gradient, read)
        around = _of_weight(made[-1], read[0], ctx.blank) if of_around else None
        layers: list[Tensor | None] = [None] * len(of_layers)
        for number, (of_made, inputs) in enumerate(zip(made, read[1:], strict=True)):
            if of_layers[2 * number]:
                layers[2 * number] = _of_weight(of_made, inputs, 0 if number else ctx.blank)
            if of_layers[2 * number + 1]:
                layers[2 * number + 1] = of_made.sum(0, dtype=torch.float32)
        known = ctx.layers.of_known(made, gradient.new_empty(len(gradient), width)) if of_known else None
        side = (made[0] @ ctx.layers.weights[0][:, width:]).to(gradient.dtype) if of_side else None
        return known, side, None, around, *layers


@compiled
def _leave_positive(of_made_BN: Int16Array, made_BN: Int16Array) -> None:
    """The way back through ReLU, all bits of bfloat16: of_made_BN = 0 where made_BN is not above 0."""
    for row in range(len(made_BN)):
        for at in range(made_BN.shape[1]):
            of_made_BN[row, at] = of_made_BN[row, at] if made_BN[row, at] > 0 else np.int16(0)


def _of_weight(half: Tensor, inputs: Tensor, blank: int) -> Tensor:
    """Gradient of a weight, float32[out, blank + in], from those of what it made and from what it read."""
    product = (half.T @ inputs).float()
    return pad(product, (blank, 0)) if blank else product


class _Similarities(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u_BD: Tensor, v_ND: Tensor) -> Tensor:
        ctx.save_for_backward(u_BD, v_ND)
        return scores_of(u_BD, v_ND)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BN: Tensor) -> tuple[Tensor | None, ...]:
        u_BD, v_ND = ctx.saved_tensors
        half_BN = gradient_BN.bfloat16()
        of_u, of_v = ctx.needs_input_grad
        return (
            (half_BN @ v_ND.bfloat16()).float() if of_u else None,
            (half_BN.T @ u_BD.bfloat16()).float() if of_v else None,
        )
