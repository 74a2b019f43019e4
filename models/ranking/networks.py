"""The network of each kind of ranker."""

from __future__ import annotations

from collections.abc import Callable

import torch

from models.ranking.averaged import Averaged
from models.ranking.factorization import DeepFM, Logistic, Perceptron
from models.ranking.inputs import RankLayout, RankNetwork
from models.ranking.mixture import Mixture
from models.ranking.pepnet import PEPNet
from models.ranking.rank_config import RankConfig, RankerKind

_NETWORKS: dict[RankerKind, Callable[[RankConfig, RankLayout], RankNetwork]] = {
    "logistic": Logistic,
    "weighted_lr": Perceptron,
    "deepfm": DeepFM,
    "mmoe": Mixture,
    "pepnet": PEPNet,
}


def build_network(config: RankConfig, layout: RankLayout) -> RankNetwork:
    """The network with initial weights from config.seed; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = _NETWORKS[config.kind](config, layout)
        if not config.linear_share:
            return network
        return Averaged(Logistic(config, layout), network, config.linear_share, config.first_order_in_network)
