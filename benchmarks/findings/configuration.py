"""The configuration of one run: a data set's base file and the changes of an experiment.

A base file is a configuration of freshrecall with one more section, [every_model]: what all models share.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from deploy.config import Config

FOLDER = Path(__file__).parent


def base(data: str) -> dict[str, Any]:
    """The base file of a data set."""
    return tomllib.loads((FOLDER / f"{data}.toml").read_text(encoding="utf-8"))


def changed(
    tree: Mapping[str, Any], changes: Mapping[str, Any], without: Collection[str], channels: Collection[str]
) -> dict[str, Any]:
    """What a run is configured with.

    changes: dotted key -> value ("models.two_tower.loss": "nce"); without: sources ("item") or single
    features ("item.tag") that are left out; of models and channels only the asked ones stay.
    """
    made = deepcopy(dict(tree))
    for key, value in changes.items():
        *path, last = key.split(".")
        at = made
        for part in path:
            at = at.setdefault(part, {})
        at[last] = value
    shared = made.pop("every_model", {})
    for section, defaults in (("models", shared), ("channels", {})):
        kept = {name: {**defaults, **own} for name, own in made.pop(section, {}).items() if name in channels}
        if kept:
            made[section] = kept
    made["features"] = [
        one
        for one in made.get("features", [])
        if one["source"] not in without and f"{one['source']}.{one['name']}" not in without
    ]
    plain: dict[str, Any] = json.loads(json.dumps(made))  # tuples are lists in a file
    return plain


def content(made: Mapping[str, Any], channels: Collection[str]) -> dict[str, Any]:
    """What the figures depend on: settings that say no more than a default are the same as none.

    Raises pydantic's ValidationError for a configuration that freshrecall would refuse.
    """
    told = Config.model_validate(made).model_dump(mode="json", exclude_defaults=True)
    sections: dict[str, Any] = {
        name: told[name] for name in ("features", "channels", "update") if name in told
    }
    models = {name: model for name, model in told.get("models", {}).items() if name in channels}
    return {**sections, "models": models}


def toml(tree: Mapping[str, Any]) -> str:
    """As a file that `freshrecall --config` reads."""
    lines = [f"{key} = {_value(value)}" for key, value in tree.items() if not isinstance(value, dict)]
    sections: dict[str, dict[str, Any]] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            plain = {name: one for name, one in value.items() if not isinstance(one, dict)}
            nested = {f"{key}.{name}": one for name, one in value.items() if isinstance(one, dict)}
            sections |= ({key: plain} if plain or not nested else {}) | nested
    for name, section in sections.items():
        lines += ["", f"[{name}]", *(f"{field} = {_value(one)}" for field, one in section.items())]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_value(one)}" for key, one in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(one) for one in value) + "]"
    return json.dumps(value)
