"""Matrix products of training steps in bfloat16: a processor with instructions for them is several times
faster at them than in float32.

Weights, gradients of weights, rows and optimizers stay float32. A product takes factors rounded to bfloat16
(8 bits of mantissa, the range of float32), adds up in float32 and is rounded once. Mixed precision as in
Micikevicius et al., ICLR 2018; bfloat16 needs no scaling of the loss (Kalamkar et al., 2019).

B rows, N columns or candidates, D width.
"""

from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from models import half_kernels
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


class Similarities:
    """Inner products of u float32[B, D] and v float32[N, D], and the way back, with factors in bfloat16.

    scores: float32[B, N], not rounded: a loss takes exponents of them, and bfloat16 is good for 0.06 at 20.
    """

    def __init__(self, u_BD: Tensor, v_ND: Tensor) -> None:
        if half_kernels.has_instruction():
            self._half_u, self._half_v = (half_kernels.halves(of.numpy()) for of in (u_BD, v_ND))
            scores_BN = np.empty((len(u_BD), len(v_ND)), np.float32)
            turned = half_kernels.packed_turned(self._half_v)
            half_kernels.multiply_unrounded(self._half_u.view(np.int32), turned, scores_BN)
            self.scores = torch.from_numpy(scores_BN)
        else:
            self._u, self._v = u_BD, v_ND
            self.scores = _of_torch(u_BD, v_ND)

    def backward(self, half_BN: Tensor, of_u_BD: Tensor | None, of_v_ND: Tensor | None) -> None:
        """Make of_u and of_v the gradients of u and v, float32, from those of the scores, bfloat16."""
        if not half_kernels.has_instruction():
            if of_u_BD is not None:
                of_u_BD.copy_(half_BN @ self._v.bfloat16())
            if of_v_ND is not None:
                of_v_ND.copy_(half_BN.T @ self._u.bfloat16())
            return
        bits_BN = _even(half_BN).view(torch.int16).numpy()
        if of_u_BD is not None:
            weight = half_kernels.packed(self._half_v)
            half_kernels.multiply_unrounded(bits_BN.view(np.int32), weight, of_u_BD.numpy())
        if of_v_ND is not None:
            # Pairs of rows, as a weight consists of them, are the pairs of inputs of a product turned round.
            weight = half_kernels.packed(self._half_u)
            half_kernels.multiply_unrounded(half_kernels.packed(bits_BN).T, weight, of_v_ND.numpy())


def _even(x_NI: Tensor) -> Tensor:
    """Contiguous, with a column of zeros behind where I is odd."""
    return pad(x_NI, (0, 1)) if x_NI.shape[1] % 2 else x_NI.contiguous()


def _of_torch(u_BD: Tensor, v_ND: Tensor) -> Tensor:
    # Leaves the choice to oneDNN, which may round the factors, never the product: where its kernels for
    # float32 are the faster ones, as on AMD, it takes these.
    products = cast(Any, torch.backends.mkldnn).matmul
    before, products.fp32_precision = products.fp32_precision, "bf16"
    try:
        return u_BD @ v_ND.T
    finally:
        products.fp32_precision = before


def similarities(u_BD: Tensor, v_ND: Tensor) -> Tensor:
    """Similarities.scores with gradients."""
    call: Any = _Similarities.apply  # untyped
    return cast(Tensor, call(u_BD, v_ND))


class _Similarities(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u_BD: Tensor, v_ND: Tensor) -> Tensor:
        ctx.similarities, ctx.shapes = Similarities(u_BD, v_ND), (u_BD.shape, v_ND.shape)
        return cast(Tensor, ctx.similarities.scores)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BN: Tensor) -> tuple[Tensor | None, ...]:
        made = [
            torch.empty(shape) if wanted else None
            for shape, wanted in zip(ctx.shapes, ctx.needs_input_grad, strict=True)
        ]
        ctx.similarities.backward(gradient_BN.bfloat16(), *made)
        return tuple(made)
