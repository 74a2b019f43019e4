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

from models import half_kernels
from models.arrays import Int32Array
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


_NOTHING = np.empty((0, 0), np.int16)


class HalfProduct:
    """x @ weight.T + bias in bfloat16: added up in float32, rounded once. Weights are those of now.

    weight bfloat16[O, I], bias bfloat16[O]; turned: x @ weight instead, bias[I].
    """

    def __init__(self, weight_OI: Tensor, bias: Tensor | None = None, turned: bool = False) -> None:
        self._outputs = weight_OI.shape[1 if turned else 0]
        self._weight = weight_OI.T if turned else weight_OI
        self._bias = bias
        self._packed: Int32Array | None = None
        if half_kernels.has_instruction():
            bits = weight_OI.contiguous().view(torch.int16).numpy()
            self._packed = half_kernels.packed(bits) if turned else half_kernels.packed_turned(bits)
            self._bias_O = np.zeros(self._packed.shape[1], np.float32)
            if bias is not None:
                self._bias_O[: self._outputs] = bias.float().numpy()

    def __call__(self, x_NI: Tensor, relu: bool = False, positive_NO: Tensor | None = None) -> Tensor:
        """bfloat16[N, O]. relu: with ReLU behind it; positive_NO: zero where this is not above zero, which is
        the way back through a ReLU that gave it.
        """
        if self._packed is None:
            return self._of_torch(x_NI, relu, positive_NO)
        out = torch.empty(len(x_NI), self._outputs, dtype=torch.bfloat16)
        positive = _NOTHING if positive_NO is None else positive_NO.view(torch.int16).numpy()
        inputs = _even(x_NI).view(torch.int32).numpy()
        half_kernels.multiply(
            inputs, self._packed, self._bias_O, positive, relu, out.view(torch.int16).numpy()
        )
        return out

    def _of_torch(self, x_NI: Tensor, relu: bool, positive_NO: Tensor | None) -> Tensor:
        out = linear(x_NI, self._weight, self._bias)
        if relu:
            return out.relu_()
        return out if positive_NO is None else torch.ops.aten.threshold_backward(out, positive_NO, 0)


class HalfLayers:
    """MLP([known, side]) + linear(known), ReLU between layers, every product in bfloat16; the weights as they
    are now, rounded once.

    layers: (weight float32[out, in], bias float32[out]), the last one's of D; around_DE: the linear way.
    blank: columns that first weights and around_DE have before those of `known`, for inputs that are zero.
    """

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]], around_DE: Tensor, blank: int = 0) -> None:
        around = around_DE[:, blank:].bfloat16()
        weights = [
            weight[:, 0 if number else blank :].bfloat16() for number, (weight, _) in enumerate(layers)
        ]
        self.known_width = around.shape[1]
        self.of_side = weights[0][:, self.known_width :]
        self._layers = [
            HalfProduct(weight, bias.bfloat16()) for weight, (_, bias) in zip(weights, layers, strict=True)
        ]
        self._around = HalfProduct(around)
        self._back = [
            HalfProduct(weights[0][:, : self.known_width], turned=True),
            *(HalfProduct(weight, turned=True) for weight in weights[1:]),
        ]
        self._back_around = HalfProduct(around, turned=True)

    def forward(self, known_BE: Tensor, side_BS: Tensor) -> tuple[Tensor, list[Tensor]]:
        """float32[B, D], and what every layer read, bfloat16 (with `known` in front of it)."""
        known = known_BE.bfloat16()
        read = [known, torch.cat([known, side_BS.bfloat16()], dim=1) if side_BS.shape[1] else known]
        *hidden, last = self._layers
        for layer in hidden:
            read.append(layer(read[-1], relu=True))
        return last(read[-1]).to(known_BE.dtype).add_(self._around(known)), read

    def backward(self, gradient_BD: Tensor, read: Sequence[Tensor]) -> list[Tensor]:
        """The gradients of what every layer made, bias included and before its ReLU, bfloat16, the first
        layer's first. read: what forward() gave beside its answer.
        """
        made = [gradient_BD.bfloat16()]
        for layer, into in zip(self._back[:0:-1], read[:1:-1], strict=True):
            made.append(layer(made[-1], positive_NO=into))
        return made[::-1]

    def of_known(self, made: Sequence[Tensor], into_BE: Tensor) -> Tensor:
        """into_BE float32[B, E]: the gradient of `known`, from what backward() gave."""
        return into_BE.copy_(self._back[0](made[0])).add_(self._back_around(made[-1]))


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
        read, width = ctx.saved_tensors, ctx.layers.known_width
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
        side = (made[0] @ ctx.layers.of_side).to(gradient.dtype) if of_side else None
        return known, side, None, around, *layers


def _of_weight(half: Tensor, inputs: Tensor, blank: int) -> Tensor:
    """Gradient of a weight, float32[out, blank + in], from those of what it made and from what it read."""
    product = (half.T @ inputs).float()
    return pad(product, (blank, 0)) if blank else product


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
