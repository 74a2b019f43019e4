"""What a backtest replays with: from a configuration file, or derived from the data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa

from deploy.backtest.derived import derived_features, derived_model
from deploy.config import Config
from deploy.config_load import DEFAULT_FILE, load
from deploy.errors import StartError
from models.catalogue_columns import CatalogueColumns
from models.item_to_item import ItemToItemConfig
from models.model_config import Kind, ModelConfig
from updater.state import Recipe

POPULARITY, OWN_ITEMS = "popularity", "own_items"
FUSED, PRERANK = "fused", "prerank"
BLENDED = ("two_tower", "sequence", "item_cf", "swing", POPULARITY, OWN_ITEMS)
"""What `fused` blends where nothing else is named: two ways to read a history, two kinds of neighbours, what
is popular, and what was had before.
"""
_UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


@dataclass(frozen=True)
class RejectsAsked:
    """Whose rejects are to go back, of how many requests a day, and the seed that chooses them."""

    stage: str
    requests_a_day: int
    seed: int


@dataclass(frozen=True)
class RejectsBack:
    """What the pre-rank turns down goes back as events: at most `per_request` items of a request, of at most
    `requests_a_day` requests, which the seed chooses.
    """

    per_request: int
    requests_a_day: int
    seed: int


@dataclass(frozen=True)
class Settings:
    """What is learned and by which clock. channels: those that are shown; blended: those that make up
    `fused` and `prerank`, empty where neither is asked for; rejects: None = none go back; counts: whether
    the blend reads live counts.
    """

    recipe: Recipe
    channels: tuple[str, ...]
    blended: tuple[str, ...]
    day_timezone: str
    interval_ms: int
    shuffle_seed: int
    threads: int
    rejects: RejectsBack | None = None
    counts: bool = True


def interval_of(text: str) -> int:
    """Milliseconds of "30s", "10m", "1h", "1d" or a plain number of ms. Raises StartError."""
    found = re.fullmatch(r"(\d+)\s*(|ms|s|m|h|d)", text.strip())
    if not found or not int(found[1]):
        raise StartError(f"interval: expected a length such as 1m, 1h or 1d, got {text!r}")
    return int(found[1]) * _UNITS_MS.get(found[2], 1)


def settings_of(
    file: Path | None,
    channels: Sequence[str],
    positives: Sequence[str],
    catalogue: CatalogueColumns,
    before: pa.Table,
    day_timezone: str | None = None,
    interval: str | None = None,
    training_seed: int | None = None,
    rejects: RejectsAsked | None = None,
) -> Settings:
    """Settings of the channels asked for. Models learn from the kinds that are targets.

    Without a file (also no ./freshrecall.toml) features and the settings of models come from the tables
    (deploy/backtest/derived.py; before: events before the start). A channel that the configuration has no
    model for is one of the kind it is named after.
    Raises ConfigError, and StartError for an unknown channel or rejects that nobody makes or reads.
    """
    config = load(Config, file)
    zone = day_timezone or config.schedule.day_timezone
    features = config.features
    derived: dict[str, Any] | None = None
    if file is None and not DEFAULT_FILE.exists() and not features:
        features = derived_features(catalogue, before["scene"].combine_chunks())
        derived = derived_model(before, positives, catalogue, features)
    blended = _blended(channels, config)
    models: dict[str, ModelConfig] = {}
    item_channels: dict[str, ItemToItemConfig] = {}
    kinds = get_args(ItemToItemConfig.model_fields["kind"].annotation)
    for name in dict.fromkeys([*channels, *blended]):
        if name in (POPULARITY, OWN_ITEMS, FUSED, PRERANK):
            continue
        if name in config.channels or (name in kinds and name not in config.models):
            own = config.channels.get(name) or ItemToItemConfig.model_validate({"kind": name})
            item_channels[name] = own.model_copy(update={"positives": tuple(positives)})
            continue
        given = config.models.get(name) if derived is None else None
        if given is None and name in get_args(Kind):
            given = ModelConfig.model_validate({"kind": name, "day_timezone": zone, **(derived or {})})
        if given is None:
            built_in = (POPULARITY, OWN_ITEMS, FUSED, PRERANK)
            known = [*config.models, *config.channels, *built_in, *kinds, *get_args(Kind)]
            raise StartError(f"channels: expected some of {', '.join(dict.fromkeys(known))}, got {name!r}")
        changes: dict[str, object] = {"positives": tuple(positives)}
        if day_timezone:
            changes["day_timezone"] = day_timezone
        if training_seed is not None:
            changes["seed"] = training_seed
        models[name] = given.model_copy(update=changes)
    half_life_ms = round(config.update.popularity_half_life_h * 3_600_000)
    return Settings(
        recipe=Recipe(
            models,
            features,
            tuple(positives),
            half_life_ms,
            item_channels,
            PRERANK in channels,
            config.update.prerank_met,
        ),
        channels=tuple(dict.fromkeys(channels)),
        blended=blended,
        day_timezone=zone,
        interval_ms=config.archive.interval_ms if interval is None else interval_of(interval),
        shuffle_seed=config.update.seed if training_seed is None else training_seed,
        threads=config.update.retrain_threads,
        rejects=None if rejects is None else _rejects_back(rejects, channels, models, config),
        counts=config.update.blends_counts_with(PRERANK in channels),
    )


def _rejects_back(
    asked: RejectsAsked, channels: Sequence[str], models: Mapping[str, ModelConfig], config: Config
) -> RejectsBack:
    if asked.stage != PRERANK or PRERANK not in channels:
        raise StartError(
            f"rejects: expected {PRERANK}, and the channel {PRERANK} among the channels, got {asked.stage!r} "
            f"and {', '.join(channels)}"
        )
    if asked.requests_a_day < 1:
        raise StartError(f"rejects: expected at least one request a day, got {asked.requests_a_day}")
    if not any("rejects" in model.hard_negatives for model in models.values()):
        named = ", ".join(models) or "no model"
        raise StartError(
            f'rejects: expected a model that reads them (hard_negatives = ["rejects"]), got {named} without'
        )
    return RejectsBack(config.serving.rejects_per_answer, asked.requests_a_day, asked.seed)


def _blended(channels: Sequence[str], config: Config) -> tuple[str, ...]:
    """The channels that are asked for beside `fused` and `prerank`; without any, the configuration's; else
    BLENDED.
    """
    if FUSED not in channels and PRERANK not in channels:
        return ()
    named = tuple(name for name in dict.fromkeys(channels) if name not in (FUSED, PRERANK))
    declared = "models" in config.model_fields_set or "channels" in config.model_fields_set
    if declared:
        return named or (*config.models, *config.channels, POPULARITY, OWN_ITEMS)
    return named or BLENDED


def with_models(recipe: Recipe, models: dict[str, ModelConfig]) -> Recipe:
    """The recipe with other models."""
    return replace(recipe, models=models)
