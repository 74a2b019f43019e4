"""Matrix products of training steps in bfloat16: a processor with instructions for them is several times
faster at them than in float32.

Weights, gradients of weights, rows and optimizers stay float32. A product takes factors rounded to bfloat16
(8 bits of mantissa, the range of float32), adds up in float32 and is rounded once. Mixed precision as in
Micikevicius et al., ICLR 2018; bfloat16 needs no scaling of the loss (Kalamkar et al., 2019).

B rows, N columns or candidates, D width.
"""

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from models.arrays import Int64Array
from models.model_config import Precision

BLOCK = 64


def in_bfloat16(precision: Precision) -> bool:
    """Whether steps multiply in bfloat16; auto: where this processor has instructions for it."""
    if precision == "auto":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return precision == "bfloat16"


def in_blocks(entries_N: Int64Array) -> Int64Array:
    """The entries, the last of them again up to a multiple of BLOCK.

    For every number of rows that it has not just seen oneDNN writes other code for its products, and that
    takes twice as long as the products of a step.
    """
    return np.pad(entries_N, (0, -len(entries_N) % BLOCK), mode="edge")


def half_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Product bfloat16[B, N] of x [B, D] and weight float32[N, D], plus bias float32[N]."""
    call: Any = _HalfLinear.apply  # untyped
    return cast(Tensor, call(x, weight, bias))


def similarities(u_BD: Tensor, v_ND: Tensor) -> Tensor:
    """Inner products float32[B, N], whose gradients are products in bfloat16.

    The scores are not rounded: a loss takes exponents of them, and bfloat16 is good for 0.06 at 20.
    """
    call: Any = _Similarities.apply  # untyped
    return cast(Tensor, call(u_BD, v_ND))


class _HalfLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        half_x, half_weight = x.bfloat16(), weight.bfloat16()
        ctx.save_for_backward(half_x, half_weight)
        ctx.read = x.dtype
        return linear(half_x, half_weight, None if bias is None else bias.bfloat16())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        half_x, half_weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            (gradient @ half_weight).to(ctx.read) if of_x else None,
            (gradient.T @ half_x).float() if of_weight else None,
            gradient.sum(0, dtype=torch.float32) if of_bias else None,
        )


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
