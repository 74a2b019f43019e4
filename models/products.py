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

from models.model_config import Precision

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


def half_layers(
    known_BE: Tensor,
    side_BS: Tensor,
    layers: Sequence[tuple[Tensor, Tensor]],
    around_DE: Tensor,
    blank: int = 0,
) -> Tensor:
    """MLP([known, side]) + linear(known), float32[B, D], ReLU between layers; every product in bfloat16.

    layers: (weight float32[out, in], bias float32[out]), the last one's of D; around_DE: the linear way.
    blank: columns that first weights and around_DE have before those of `known`, for inputs that are zero.
    One step of autograd for all, backward written out: between so small products its bookkeeping shows.
    """
    call: Any = _HalfLayers.apply  # untyped
    flat = [part for layer in layers for part in layer]
    return cast(Tensor, call(known_BE, side_BS, blank, around_DE, *flat))


def similarities(u_BD: Tensor, v_ND: Tensor) -> Tensor:
    """Inner products float32[B, N], whose gradients are products in bfloat16.

    The scores are not rounded: a loss takes exponents of them, and bfloat16 is good for 0.06 at 20.
    """
    call: Any = _Similarities.apply  # untyped
    return cast(Tensor, call(u_BD, v_ND))


class _HalfLayers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, known: Tensor, side: Tensor, blank: int, around: Tensor, *layers: Tensor) -> Tensor:
        half_known, half_around = known.bfloat16(), around[:, blank:].bfloat16()
        first, *others = layers[::2]
        weights = [first[:, blank:].bfloat16(), *(weight.bfloat16() for weight in others)]
        inputs = [torch.cat([half_known, side.bfloat16()], dim=1) if side.shape[1] else half_known]
        for weight, bias in zip(weights, layers[1::2], strict=True):
            inputs.append(linear(inputs[-1], weight, bias.bfloat16()))
            if len(inputs) <= len(weights):
                inputs[-1].relu_()
        out = inputs.pop()
        ctx.blank = blank
        ctx.save_for_backward(half_known, half_around, *inputs, *weights)
        return out.to(known.dtype).add_(linear(half_known, half_around))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        half_known, half_around, *saved = ctx.saved_tensors
        inputs, weights = saved[: len(saved) // 2], saved[len(saved) // 2 :]
        of_known, of_side, _, of_around, *of_layers = ctx.needs_input_grad
        half = gradient.bfloat16()
        known = half @ half_around if of_known else None
        around = _of_weight(half, half_known, ctx.blank) if of_around else None
        layers: list[Tensor | None] = [None] * len(of_layers)
        for number in reversed(range(len(weights))):
            if of_layers[2 * number]:
                layers[2 * number] = _of_weight(half, inputs[number], 0 if number else ctx.blank)
            if of_layers[2 * number + 1]:
                layers[2 * number + 1] = half.sum(0, dtype=torch.float32)
            if number:
                half = torch.ops.aten.threshold_backward(half @ weights[number], inputs[number], 0)
        if not (of_known or of_side):
            return None, None, None, around, *layers
        whole = (half @ weights[0]).to(gradient.dtype)
        width = half_known.shape[1]
        if known is not None:
            known = whole[:, :width].add_(known)
        return known, whole[:, width:] if of_side else None, None, around, *layers


def _of_weight(half: Tensor, inputs: Tensor, blank: int) -> Tensor:
    """Gradient of a weight, float32[out, blank + in], from those of what it made and from what it read."""
    product = (half.T @ inputs).float()
    return pad(product, (blank, 0)) if blank else product


class _Similarities(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u_BD: Tensor, v_ND: Tensor) -> Tensor:
        ctx.save_for_backward(u_BD, v_ND)
        # Leaves the choice to oneDNN, which may round the factors, never the product: where its kernels for
        # float32 are the faster ones, as on AMD, it takes these.
        products = cast(Any, torch.backends.mkldnn).matmul
        before, products.fp32_precision = products.fp32_precision, "bf16"
        try:
            return u_BD @ v_ND.T
        finally:
            products.fp32_precision = before

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
