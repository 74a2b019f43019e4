"""A model's dense half: built from its configuration, saved and restored with its Adam state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from models.arrays import Tensors
from models.features import FeatureColumns
from models.model_config import FeatureConfig, ModelConfig
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


def build_model(config: ModelConfig, request: FeatureColumns, item: FeatureColumns) -> nn.Module:
    """The towers with initial weights from config.seed; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.kind == "two_tower":
            return TwoTower(config, request.side_width, item.side_width)
        return YoutubeDNN(config, request.side_width)


def dense_weights(model: nn.Module) -> Tensors:
    """Weights "weight.<name>"."""
    return {
        f"weight.{name}": parameter.detach().numpy().copy() for name, parameter in model.named_parameters()
    }


def restore_weights(model: nn.Module, tensors: Tensors) -> None:
    """Take the weights of dense_weights(); ValueError for another shape."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value = torch.from_numpy(np.array(tensors[f"weight.{name}"]))
            if value.shape != parameter.shape:
                raise ValueError(
                    f"dense {name}: expected shape {tuple(parameter.shape)}, got {tuple(value.shape)}; "
                    "the bundle was written with another configuration"
                )
            parameter.copy_(value)
