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

from models import half_kernels
from models.arrays import Float32Array, Int16Array
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
    """Inner products of u float32[B, D] and v float32[N, D], and the way back in bfloat16.

    scores: float32[B, N], in float32: a loss takes exponents of them, and bfloat16 is good for 0.06 at 20.
    """

    def __init__(self, u_BD: Float32Array, v_ND: Float32Array) -> None:
        self._u, self._v = u_BD, v_ND
        self.scores = _products(u_BD, v_ND)

    def backward(
        self, half_BN: Int16Array, of_u_BD: Float32Array | None, of_v_ND: Float32Array | None
    ) -> None:
        """Make of_u and of_v the gradients of u and v from those of the scores, bits of bfloat16."""
        if not half_kernels.has_instruction():
            of_scores = torch.from_numpy(half_BN).view(torch.bfloat16)
            if of_u_BD is not None:
                of_u_BD[:] = (of_scores @ torch.from_numpy(self._v).bfloat16()).float().numpy()
            if of_v_ND is not None:
                of_v_ND[:] = (of_scores.T @ torch.from_numpy(self._u).bfloat16()).float().numpy()
            return
        if of_u_BD is not None:
            pairs = np.pad(half_BN, ((0, 0), (0, 1))) if half_BN.shape[1] % 2 else half_BN
            weight = half_kernels.packed(half_kernels.halves(self._v))
            half_kernels.multiply_unrounded(pairs.view(np.int32), weight, of_u_BD)
        if of_v_ND is not None:
            # Pairs of rows, as a weight consists of them, are the pairs of inputs of a product turned round.
            weight = half_kernels.packed(half_kernels.halves(self._u))
            half_kernels.multiply_unrounded(half_kernels.packed(half_BN).T, weight, of_v_ND)


def _products(u_BD: Float32Array, v_ND: Float32Array) -> Float32Array:
    # Leaves the choice to oneDNN, which may round the factors, never the product: where its kernels for
    # float32 are the faster ones, as on AMD, it takes these.
    products = cast(Any, torch.backends.mkldnn).matmul
    before, products.fp32_precision = products.fp32_precision, "bf16"
    try:
        scores: Float32Array = (torch.from_numpy(u_BD) @ torch.from_numpy(v_ND).T).numpy()
        return scores
    finally:
        products.fp32_precision = before


def similarities(u_BD: Tensor, v_ND: Tensor) -> Tensor:
    """Similarities.scores with gradients."""
    call: Any = _Similarities.apply  # untyped
    return cast(Tensor, call(u_BD, v_ND))


class _Similarities(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u_BD: Tensor, v_ND: Tensor) -> Tensor:
        ctx.similarities = Similarities(u_BD.contiguous().numpy(), v_ND.contiguous().numpy())
        ctx.shapes = u_BD.shape, v_ND.shape
        return torch.from_numpy(ctx.similarities.scores)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BN: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad
        made = [
            np.empty(shape, np.float32) if asked else None
            for shape, asked in zip(ctx.shapes, wanted, strict=True)
        ]
        ctx.similarities.backward(gradient_BN.bfloat16().contiguous().view(torch.int16).numpy(), *made)
        return tuple(None if one is None else torch.from_numpy(one) for one in made)
