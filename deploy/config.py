"""The one configuration: sections that live beside their owners, composed here.

A section's fields, defaults and meanings stand in its own class; nothing is repeated.
"""

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deploy.embedded_config import EmbeddedConfig
from deploy.metrics_config import MetricsConfig
from models.index import IndexConfig
from models.model_config import FeatureConfig, ModelConfig
from serving.config import ServingConfig
from stream.archive import ArchiveConfig
from stream.intake import IntakeConfig
from stream.profiles import ProfileConfig
from stream.topics import KafkaConfig
from updater.config import ScheduleConfig, UpdateConfig


class RedisConfig(BaseModel):
    """Where user profiles and the pointer's change notices live."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field("embedded", description="embedded, or redis://[user:password@]host:port/db.")


class Config(BaseModel):
    """Everything a process of freshrecall may be told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: Path = Field(
        Path("var"), description="Archive, registry, dead letters, embedded services and their logs."
    )
    embedded: EmbeddedConfig = Field(
        default_factory=EmbeddedConfig, description="Broker and store run by `up`."
    )
    kafka: KafkaConfig = Field(default_factory=KafkaConfig, description="Broker and topics.")
    redis: RedisConfig = Field(default_factory=RedisConfig, description="The store.")
    intake: IntakeConfig = Field(default_factory=IntakeConfig, description="Checks of events, watermark.")
    profiles: ProfileConfig = Field(default_factory=ProfileConfig, description="Online user profiles.")
    archive: ArchiveConfig = Field(default_factory=ArchiveConfig, description="The durable event log.")
    features: tuple[FeatureConfig, ...] = Field((), description="Features of every model, declared once.")
    models: dict[str, ModelConfig] = Field(
        default_factory=lambda: {"two_tower": ModelConfig()},
        min_length=1,
        description="Recall models by name; the name is a folder of the bundle.",
    )
    index: IndexConfig = Field(default_factory=IndexConfig, description="The item index of every model.")
    serving: ServingConfig = Field(default_factory=ServingConfig, description="The HTTP API.")
    update: UpdateConfig = Field(default_factory=UpdateConfig, description="Deltas and bundles.")
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig, description="The daily full retrain.")
    metrics: MetricsConfig = Field(default_factory=MetricsConfig, description="Metrics of the consumer.")

    @model_validator(mode="after")
    def _histories_hold_what_models_read(self) -> "Config":
        """Refuse a model whose positives never reach the live history: everybody would look unknown."""
        for name, model in self.models.items():
            if model.history_length > self.profiles.history_length:
                raise ValueError(
                    f"models.{name}.history_length: expected at most profiles.history_length "
                    f"({self.profiles.history_length}), got {model.history_length}; raise that one"
                )
            lacking = set(model.positives) - set(self.profiles.history_kinds)
            if lacking:
                raise ValueError(
                    f"models.{name}.positives: {sorted(lacking)} are missing from profiles.history_kinds "
                    f"({', '.join(self.profiles.history_kinds)}); add them there"
                )
        return self

    @model_validator(mode="after")
    def _names_are_file_names(self) -> "Config":
        """Refuse before a training what could not be published after it."""
        for name in self.models:
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) or name == "popularity":
                raise ValueError(
                    f"models: expected names of letters, digits, _ and - (but not 'popularity'), got {name!r}"
                )
        for feature in self.features:
            if not re.fullmatch(r"[^/\x00]{1,64}", feature.name):
                raise ValueError(
                    f"features: expected names of 1 to 64 characters without '/', got {feature.name!r}"
                )
        return self

    @property
    def archive_dir(self) -> Path:
        """The durable event log."""
        return self.data_dir / "archive"

    @property
    def dead_letter_file(self) -> Path:
        """Refused events, one JSON object per line."""
        return self.data_dir / "dead.jsonl"

    @property
    def registry_dir(self) -> Path:
        """Bundles, deltas and the pointer file."""
        return self.data_dir / "registry"

    @property
    def catalogue_dir(self) -> Path:
        """Items and users with their attributes."""
        return self.data_dir / "catalogue"
