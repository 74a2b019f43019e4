"""The settings of a simulation: a TOML file of its own, and options that win."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deploy.config_load import load
from deploy.errors import ConfigError
from deploy.simulate.config import RunConfig, WorldConfig


class SimulationConfig(BaseModel):
    """Sections of the file that `--world` names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    world: WorldConfig = Field(default_factory=WorldConfig, description="The world.")
    run: RunConfig = Field(default_factory=RunConfig, description="How it is asked.")


def settings_of(file: Path | None, options: Mapping[str, Any]) -> SimulationConfig:
    """Settings from a file, and options "section.key" -> value where not None. Raises ConfigError.

    No environment and no ./freshrecall.toml: those are the configuration of the system, not of a world.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if file is not None:
        return load(SimulationConfig, file, given, environment={})
    tree: dict[str, dict[str, Any]] = {"world": {}, "run": {}}
    for name, value in given.items():
        section, key = name.split(".")
        tree[section][key] = value
    try:
        return SimulationConfig.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][-1]).replace("_", "-")
        raise ConfigError(f"--{name}: {first['msg']}, got {first['input']!r}") from None
