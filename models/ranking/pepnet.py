"""B4: PEPNet: embeddings scaled by the scene, hidden layers by who and what it is about (Chang et al., KDD
2023).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.ranking.inputs import ParallelLinear, RankInputs, RankLayout, RankNetwork
from models.ranking.rank_config import RankConfig


class GateNU(nn.Module):
    """delta = gamma * sigmoid(ReLU(x W + b) W' + b'), section 3.2.

    W' and b' start at zero: every delta starts at gamma / 2, so with gamma 2 the network starts as the one
    without gates.
    """

    def __init__(self, width: int, hidden: int, out: int, gamma: float) -> None:
        super().__init__()
        self.first = nn.Linear(width, hidden)
        self.second = nn.Linear(hidden, out)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)
        self.gamma = gamma

    def forward(self, x: Tensor) -> Tensor:
        """[B, out] in 0 .. gamma, from x [B, width]."""
        delta: Tensor = self.gamma * torch.sigmoid(self.second(self.first(x).relu()))
        return delta


class PEPNet(RankNetwork):
    """EPNet: delta_dom = GateNU(E(F_d), sg(E)); E' = delta_dom * E.

    PPNet, of layer l and head t, with H^0 = E': delta = GateNU([E(F_u), E(F_i), E(F_a)], sg(E')), O = delta *
    H, H of the next layer = ReLU(O W + b); the last layer has one output and no ReLU. sg: no gradient flows
    back (`stop_gradient`). `ppnet_gate` = "epnet_gate" puts sg(delta_dom) in the place of sg(E').
    """

    def __init__(self, config: RankConfig, layout: RankLayout) -> None:
        super().__init__()
        self.layout = layout
        self.stop_gradient = config.stop_gradient
        self.sees_gate = config.ppnet_gate == "epnet_gate"
        if self.sees_gate and not config.epnet:
            raise ValueError(
                "pepnet: ppnet_gate 'epnet_gate' is the gate of EPNet; expected epnet = true, got false"
            )
        widths = (layout.width, *config.hidden)
        domain = len(layout.domain_fields) * layout.dim + len(layout.domain_numbers)
        self.epnet: GateNU | None = None
        if config.epnet:
            self.epnet = GateNU(domain + layout.width, config.gate_hidden, layout.width, config.gamma)
        self._priors = [place for place in (layout.user, layout.item, layout.author) if place >= 0]
        self.ppnet: nn.ModuleList | None = None
        if config.ppnet:
            seen = len(self._priors) * layout.dim + layout.width
            self.ppnet = nn.ModuleList(
                GateNU(seen, config.gate_hidden, layout.heads * width, config.gamma) for width in widths
            )
        self.layers = nn.ModuleList(
            ParallelLinear(layout.heads, width, out)
            for width, out in zip(widths, (*config.hidden, 1), strict=True)
        )
        self.dropout = nn.Dropout(config.dropout)

    def _seen(self, x: Tensor) -> Tensor:
        return x.detach() if self.stop_gradient else x

    def personalised(self, inputs: RankInputs) -> tuple[Tensor, Tensor]:
        """(E' [B, E], delta_dom [B, E]); delta_dom is 1 without EPNet."""
        e_BE = inputs.flat()
        if self.epnet is None:
            return e_BE, torch.ones_like(e_BE)
        fields = inputs.rows[:, list(self.layout.domain_fields)].flatten(1)
        numbers = inputs.numbers[:, list(self.layout.domain_numbers)]
        delta_BE: Tensor = self.epnet(torch.cat([fields, numbers, self._seen(e_BE)], dim=1))
        return delta_BE * e_BE, delta_BE

    def forward(self, inputs: RankInputs) -> Tensor:
        """Logits [B, H]."""
        scaled_BE, delta_BE = self.personalised(inputs)
        seen = self._seen(delta_BE if self.sees_gate else scaled_BE)
        priors = torch.cat([inputs.rows[:, self._priors].flatten(1), seen], dim=1)
        hidden_HBW = scaled_BE[None]
        for place, layer in enumerate(self.layers):
            if self.ppnet is not None:
                delta = self.ppnet[place](priors).unflatten(1, (self.layout.heads, -1))
                hidden_HBW = delta.transpose(0, 1) * hidden_HBW
            hidden_HBW = layer(hidden_HBW)
            if place < len(self.layers) - 1:
                hidden_HBW = self.dropout(hidden_HBW.relu())
        return inputs.linear + hidden_HBW[:, :, 0].T

    def output_biases(self) -> tuple[Tensor, ...]:
        """[H]."""
        last = self.layers[-1]
        if not isinstance(last, ParallelLinear):
            raise TypeError(f"pepnet: expected a ParallelLinear as last layer, got {type(last).__name__}")
        return (last.bias[:, 0, 0],)
