"""Cross layers of DCN-v2 (Wang et al., WWW 2021): products of the inputs, one degree more with each layer."""

from torch import Tensor, nn


class CrossNetwork(nn.Module):
    """x_{l+1} = x_0 * (W_l x_l + b_l) + x_l, with full matrices W_l [S, S]."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))

    def forward(self, x0_BS: Tensor) -> Tensor:
        """[B, S] from [B, S]."""
        x_BS = x0_BS
        for layer in self.layers:
            x_BS = x0_BS * layer(x_BS) + x_BS
        return x_BS
