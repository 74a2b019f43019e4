"""A model's dense half: built from its configuration, saved and restored with its Adam state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from models.arrays import Tensors
from models.dssm import DSSM
from models.features import FeatureColumns
from models.fm import FactorizationMachine
from models.mind import MIND
from models.model_config import FeatureConfig, Kind, ModelConfig
from models.own_items import OWN_FEATURES
from models.score_head import ScoreHead
from models.sequence import SequenceTower
from models.towers import RecallTowers, SideWidth
from models.two_tower import TwoTower
from models.youtube_dnn import YoutubeDNN


class ModelFiles(Protocol):
    """What load() reads: an opened artifact."""

    @property
    def manifest(self) -> Mapping[str, Any]:
        """Has `models: {name: {"kind", "config", "features"}}` (see Learner.describe)."""
        ...

    def tensors(self, name: str) -> Tensors:
        """Arrays of the file `models/<model>/<part>.safetensors`."""
        ...


def described(manifest: Mapping[str, Any], name: str) -> tuple[ModelConfig, tuple[FeatureConfig, ...]]:
    """Configuration and features of a model in a manifest; KeyError names the models there are."""
    models = manifest["models"]
    if name not in models:
        raise KeyError(f"manifest: no model {name!r}; it has {', '.join(sorted(models)) or 'none'}")
    entry = models[name]
    features = tuple(FeatureConfig.model_validate(feature) for feature in entry["features"])
    return ModelConfig.model_validate(entry["config"]), features


def feature_sides(
    config: ModelConfig, features: tuple[FeatureConfig, ...]
) -> tuple[FeatureColumns, FeatureColumns]:
    """(request features: user, context, time; item features)."""
    request = FeatureColumns(features, ("user", "context", "time"), config.day_timezone)
    return request, FeatureColumns(features, ("item",), config.day_timezone)


class RecallModel(nn.Module):
    """All dense weights of one model: the towers, and the head that adds to their similarity."""

    def __init__(self, towers: RecallTowers, head: ScoreHead) -> None:
        super().__init__()
        self.towers = towers
        self.head = head


_TOWERS: dict[Kind, Callable[[ModelConfig, SideWidth, SideWidth], RecallTowers]] = {
    "two_tower": TwoTower,
    "youtube_dnn": YoutubeDNN,
    "dssm": DSSM,
    "ebr": TwoTower,  # the same towers: its loss and its negatives make it EBR
    "mind": MIND,
    "fm": FactorizationMachine,
    "sequence": SequenceTower,
}


def build_model(config: ModelConfig, request: FeatureColumns, item: FeatureColumns) -> RecallModel:
    """The model with initial weights from config.seed; torch's global generator is left as it was."""
    user_side, item_side = _side_width(config, request), _side_width(config, item)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        towers = _TOWERS[config.kind](config, user_side, item_side)
        own = OWN_FEATURES if config.own_items else 0
        head = ScoreHead(1 + user_side.total, len(config.popularity), own)
    return RecallModel(towers, head)


def _side_width(config: ModelConfig, columns: FeatureColumns) -> SideWidth:
    """Widths of one side; the fields of a factorisation machine are all as wide as an ID row."""
    if config.kind == "fm":
        return SideWidth(len(columns.categories) * config.id_dim, columns.width)
    return SideWidth(columns.side_width - columns.width, columns.width)


def dense_weights(model: nn.Module) -> Tensors:
    """Weights and buffers (what was drawn once and is never trained) as "weight.<name>"."""
    return {f"weight.{name}": value.numpy().copy() for name, value in model.state_dict().items()}


def restore_weights(model: nn.Module, tensors: Tensors) -> None:
    """Take the weights of dense_weights(); ValueError for a missing one or another shape."""
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            if f"weight.{name}" not in tensors:
                raise ValueError(
                    f"dense: no tensor weight.{name}; the bundle was written with another configuration"
                )
            value = torch.from_numpy(np.array(tensors[f"weight.{name}"]))
            if value.shape != weight.shape:
                raise ValueError(
                    f"dense {name}: expected shape {tuple(weight.shape)}, got {tuple(value.shape)}; "
                    "the bundle was written with another configuration"
                )
            weight.copy_(value)
