"""Building blocks of the recall models: what their towers read, the contract they share, and a multilayer
perceptron with a linear way around it.

B batch, V vectors per user, D width of the similarity, E width of ID rows, L history, N items, S side inputs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from models.arrays import BoolArray, Int32Array
from models.cross_network import CrossNetwork
from models.frozen_tower import FrozenTower, Passed
from models.half_layers import half_layers, layers_in_half
from models.model_config import ModelConfig, Precision
from models.products import in_bfloat16

SHORTEST = 0.05
"""Shorter vectors are divided by this instead of by their length: the gradient of a near-zero vector has no
bound, and one such gradient would fill a row's Adagrad momentum for good."""


def unit(vectors: Tensor) -> Tensor:
    """Vectors [..., D] of length one; those shorter than SHORTEST stay short, and zero stays zero."""
    return normalize(vectors, dim=-1, eps=SHORTEST)


@dataclass(frozen=True)
class HistorySequence:
    """The history item by item, newest last: rows [B, L, E]; mask bool [B, L], True where an item is (the
    gaps are on the left); age_s float32 [B, L], seconds from the event to the moment.
    """

    rows: Tensor
    mask: Tensor
    age_s: Tensor


def sequence_inputs(
    rows: Tensor, mask_BL: BoolArray, age_s_BL: Int32Array
) -> tuple[Tensor, Tensor, HistorySequence]:
    """(mean [B, E], size [B], the sequence) of item rows float32[n, E], one per True of mask_BL, in order."""
    mask = torch.from_numpy(mask_BL)
    padded = rows.new_zeros(*mask_BL.shape, rows.shape[1])
    padded[mask] = rows
    size = mask.sum(1).to(torch.float32)
    pooled = padded.sum(1) / size.clamp_min(1.0)[:, None]
    return pooled, size, HistorySequence(padded, mask, torch.from_numpy(age_s_BL.astype("float32")))


@dataclass(frozen=True)
class UserInputs:
    """What the user tower reads, already embedded; B rows.

    user: [B, E] ID row; history: [B, E] pooled item rows; history_size: [B] items pooled;
    categories: one [B, e] per category feature; numbers: [B, M] standardised;
    pooled: further histories by name, [B, E] each; sequence: for the models with needs_sequence.
    """

    user: Tensor
    history: Tensor
    history_size: Tensor
    categories: Sequence[Tensor]
    numbers: Tensor
    pooled: Mapping[str, Tensor] = field(default_factory=dict)
    sequence: HistorySequence | None = None

    def side(self, longest: int) -> Tensor:
        """[B, 1 + S]: everything but the vectors of ID rows."""
        parts = [self.history_share(longest), *self.categories]
        if self.numbers.shape[1]:
            parts.append(self.numbers)
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def history_share(self, longest: int) -> Tensor:
        """[B, 1]: the history size as a share of the longest, in logs."""
        return torch.log1p(self.history_size).div_(math.log1p(longest)).unsqueeze(1)


@dataclass(frozen=True)
class ItemInputs:
    """What the item side reads; N rows. item: [N, E] ID row; categories: [N, e] each; numbers: [N, M]."""

    item: Tensor
    categories: Sequence[Tensor]
    numbers: Tensor

    def side(self) -> Tensor:
        """[N, S]: everything but the ID row."""
        return torch.cat([*self.categories, self.numbers], dim=1)


@dataclass(frozen=True)
class SideWidth:
    """Widths of one side's features as inputs: all categories' embeddings, and all numbers."""

    categories: int
    numbers: int

    @property
    def total(self) -> int:
        """Width S of both together."""
        return self.categories + self.numbers


@dataclass(frozen=True)
class FrozenTowers:
    """RecallTowers as they were when this was made, with one vector per user, without autograd."""

    users: Callable[[UserInputs], Passed]
    items: Callable[[ItemInputs], Passed]


class RecallTowers(nn.Module, ABC):
    """One recall model: V vectors of a user against one vector of an item, compared by inner product.

    Subclasses take (config, user_side, item_side). needs_sequence: user_vectors reads inputs.sequence;
    unit_length: vectors have length one, so that the inner product is the cosine.
    """

    needs_sequence: ClassVar[bool] = False
    unit_length: ClassVar[bool] = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.history_length = config.history_length
        self.use_history = config.use_history
        self.further_histories = tuple(config.histories)

    @abstractmethod
    def user_vectors(self, inputs: UserInputs) -> Tensor:
        """Vectors u float32[B, V, D]."""

    @abstractmethod
    def item_vectors(self, inputs: ItemInputs) -> Tensor:
        """Vectors v float32[N, D]."""

    def for_target(self, u_BVD: Tensor, v_BD: Tensor) -> Tensor:
        """[B, D]: the user vector that is trained against the row's own item v."""
        if u_BVD.shape[1] != 1:
            raise ValueError(f"for_target: expected one vector per user, got {u_BVD.shape[1]}")
        return u_BVD[:, 0]

    def id_inputs(self, inputs: UserInputs, *histories: Tensor) -> Tensor:
        """[B, parts * E]: id_parts() in one."""
        return torch.cat(self.id_parts(inputs, *histories), dim=1)

    def id_parts(self, inputs: UserInputs, *histories: Tensor) -> list[Tensor]:
        """[B, E] each: the user row, the given views of the main history, the further histories."""
        return [inputs.user, *histories, *(inputs.pooled[name] for name in self.further_histories)]

    def frozen(self) -> FrozenTowers | None:
        """The towers as they are now, for steps that leave their weights alone; None where such steps are
        autograd's, too.
        """
        return None

    def sequence(self, inputs: UserInputs) -> HistorySequence:
        """The history item by item, an empty one where histories are switched off.

        Raises ValueError if the inputs were made without it, or with more than history_length items.
        """
        if not self.use_history:
            rows = inputs.user.new_zeros(len(inputs.user), 1, inputs.user.shape[1])
            return HistorySequence(rows, rows[:, :, 0] > 0, rows[:, :, 0])
        if inputs.sequence is None:
            raise ValueError(
                f"{type(self).__name__}: reads the history item by item; expected UserInputs.sequence, got "
                "None; make the inputs with it wherever needs_sequence is set"
            )
        if inputs.sequence.rows.shape[1] > self.history_length:
            raise ValueError(
                f"{type(self).__name__}: expected at most {self.history_length} history items "
                f"(history_length), got {inputs.sequence.rows.shape[1]}"
            )
        return inputs.sequence


class Tower(nn.Module):
    """MLP(inputs) + linear(id inputs), ReLU between layers; with cross layers + linear(cross(inputs)).

    The linear way starts as the sum of the first `summed` E-wide parts, and the last layers of the other ways
    start at zero: before any training a user vector is the user's row plus the mean of the history, and an
    item vector the item's row. (Further histories may be of items that were skipped: they start at zero.)
    Where E is not D, all towers start with the same orthonormal map between the two.
    blank: that many of the first inputs are zero in every row, and no work is done for them.
    precision: of the layers' products in training steps; vectors that are published are float32 throughout.
    """

    def __init__(
        self,
        parts: int,
        id_dim: int,
        side: int,
        hidden: Sequence[int],
        out: int,
        summed: int | None = None,
        cross_layers: int = 0,
        blank: int = 0,
        precision: Precision = "float32",
    ) -> None:
        super().__init__()
        self.blank = blank
        self._half = in_bfloat16(precision)
        widths = [parts * id_dim + side, *hidden]
        layers: list[nn.Module] = []
        for width, following in pairwise(widths):
            layers += [nn.Linear(width, following), nn.ReLU(inplace=True)]
        last = nn.Linear(widths[-1], out)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*layers, last)
        self.crossed: nn.Module | None = None
        if cross_layers:
            after = nn.Linear(widths[0], out, bias=False)
            nn.init.zeros_(after.weight)
            self.crossed = nn.Sequential(CrossNetwork(widths[0], cross_layers), after)
        self.around = nn.Linear(parts * id_dim, out, bias=False)
        used = parts if summed is None else summed
        with torch.no_grad():
            self.around.weight.zero_()
            self.around.weight[:, : used * id_dim] = _orthonormal(id_dim, out).repeat(1, used)

    def forward(self, id_inputs: Tensor, side: Tensor) -> Tensor:
        """[B, out] from id inputs [B, parts * E] and side inputs [B, S]."""
        known = id_inputs[:, self.blank :]
        if self._half and torch.is_grad_enabled():
            vector = half_layers(known, side, self._pairs(), self.around.weight, self.blank)
        else:
            (weight, bias), *others = self._pairs()
            vector = linear(torch.cat([known, side], dim=1), weight[:, self.blank :], bias)
            for weight, bias in others:
                vector = linear(torch.relu_(vector), weight, bias)
            vector = vector + linear(known, self.around.weight[:, self.blank :])
        return vector if self.crossed is None else vector + self.crossed(torch.cat([id_inputs, side], dim=1))

    def frozen(self, shortest: float | None = None) -> FrozenTower | None:
        """The tower as it is now; None where its steps are autograd's: in float32, or with cross layers.
        shortest: as FrozenTower takes it.
        """
        if not self._half or self.crossed is not None:
            return None
        with torch.no_grad():
            layers = layers_in_half(self._pairs(), self.around.weight, self.blank)
        return FrozenTower(layers, first=1 if self.blank else 0, shortest=shortest)

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        """(weight, bias) of every layer."""
        return [(layer.weight, layer.bias) for layer in self.layers if isinstance(layer, nn.Linear)]


def user_tower(config: ModelConfig, side: SideWidth, views: int = 1, cross_layers: int = 0) -> Tower:
    """Over RecallTowers.id_inputs() with `views` of the main history, and UserInputs.side(); it starts as the
    sum of the user row and the views.
    """
    parts = 1 + views + len(config.histories)
    width = 1 + side.total
    blank = 0 if config.user_row else config.id_dim
    return Tower(
        parts,
        config.id_dim,
        width,
        config.hidden,
        config.dim,
        1 + views,
        cross_layers,
        blank,
        config.precision,
    )


def item_tower(config: ModelConfig, side: SideWidth, cross_layers: int = 0) -> Tower:
    """Over the item row and ItemInputs.side()."""
    return Tower(
        1, config.id_dim, side.total, config.hidden, config.dim,
        cross_layers=cross_layers, precision=config.precision,
    )  # fmt: skip


def _orthonormal(id_dim: int, out: int) -> Tensor:
    """[out, id_dim]: the identity, or between two widths one fixed map, so that products of rows survive it.

    (Padding with zeros would not do: a component that is zero in both towers has no gradient in either.)
    """
    if id_dim == out:
        return torch.eye(out)
    generator = torch.Generator().manual_seed(0)
    tall = torch.randn(max(id_dim, out), min(id_dim, out), generator=generator)
    basis: Tensor = torch.linalg.qr(tall).Q
    return basis if out > id_dim else basis.T
