"""The one configuration: sections that live beside their owners, composed here.

A section's fields, defaults and meanings stand in its own class; nothing is repeated.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deploy.embedded_config import EmbeddedConfig
from deploy.metrics_config import MetricsConfig
from models.feature_config import check_features
from models.index import IndexConfig
from models.item_to_item import ItemToItemConfig
from models.model_config import FeatureConfig, ModelConfig
from models.ranking.rank_config import RankConfig
from serving.channels.names import BUILT_IN, EDITORIAL, OWN_ITEMS, POPULAR_NOW, SAME
from serving.config import ServingConfig
from serving.fusion_config import CANDIDATES
from stream.archive import ArchiveConfig
from stream.intake import IntakeConfig
from stream.joined_log import JoinedLogConfig
from stream.popular_counts import PopularNowConfig
from stream.profiles import ProfileConfig
from stream.seen_config import SeenConfig
from stream.topics import KafkaConfig
from updater.config import ScheduleConfig, UpdateConfig


class RedisConfig(BaseModel):
    """Where user profiles, seen sets, counts of what is popular now and the pointer's change notices live."""

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
    seen: dict[str, SeenConfig] = Field(
        default_factory=dict,
        description="Sets of items that a user met, by name: filters that outlast the history.",
    )
    popular_now: PopularNowConfig = Field(
        default_factory=PopularNowConfig, description="What is popular now, for the channel popular_now."
    )
    archive: ArchiveConfig = Field(default_factory=ArchiveConfig, description="The durable event log.")
    join: JoinedLogConfig = Field(
        default_factory=JoinedLogConfig, description="Impressions with the actions that followed."
    )
    features: tuple[FeatureConfig, ...] = Field((), description="Features of every model, declared once.")
    models: dict[str, ModelConfig] = Field(
        default_factory=lambda: {"two_tower": ModelConfig()},
        min_length=1,
        description="Recall models by name; the name is a folder of the bundle.",
    )
    channels: dict[str, ItemToItemConfig] = Field(
        default_factory=dict, description="Item-to-item channels by name, served beside the recall models."
    )
    rankers: dict[str, RankConfig] = Field(
        default_factory=dict,
        description="Rankers by name, trained daily on joined impressions (section join).",
    )
    index: IndexConfig = Field(default_factory=IndexConfig, description="The item index of every model.")
    serving: ServingConfig = Field(default_factory=ServingConfig, description="The HTTP API.")
    update: UpdateConfig = Field(default_factory=UpdateConfig, description="Deltas and bundles.")
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig, description="The daily full retrain.")
    metrics: MetricsConfig = Field(default_factory=MetricsConfig, description="Metrics of the consumer.")

    @model_validator(mode="after")
    def _histories_hold_what_models_read(self) -> "Config":
        """Refuse a model or channel whose events never reach the live history: everybody would look
        unknown.
        """
        for key, length in self._lengths_read():
            if length > self.profiles.history_length:
                raise ValueError(
                    f"{key}: expected at most profiles.history_length ({self.profiles.history_length}), "
                    f"got {length}; raise that one"
                )
        kept_days = self.profiles.expire_after_days
        for name, model in self.models.items():
            if 0 < kept_days < model.expire_after_days:
                raise ValueError(
                    f"models.{name}.expire_after_days: expected at most profiles.expire_after_days "
                    f"({kept_days:g}), got {model.expire_after_days:g}: it would know users whose histories "
                    "are gone; raise that one"
                )
        for key, kinds in self._kinds_read():
            lacking = set(kinds) - set(self.profiles.history_kinds)
            if lacking:
                raise ValueError(
                    f"{key}: {sorted(lacking)} are missing from profiles.history_kinds "
                    f"({', '.join(self.profiles.history_kinds)}); add them there"
                )
        return self

    def _lengths_read(self) -> Iterator[tuple[str, int]]:
        for name, model in self.models.items():
            yield f"models.{name}.history_length", model.history_length
            yield f"models.{name}.own_items", model.own_items
            for history, further in model.histories.items():
                yield f"models.{name}.histories.{history}.length", further.length
        for name, channel in self.channels.items():
            yield f"channels.{name}.history_length", channel.history_length
        yield "serving.exploration.below_events", self.serving.exploration.below_events

    def _kinds_read(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        for name, model in self.models.items():
            yield f"models.{name}.positives", model.positives
            for history, further in model.histories.items():
                yield f"models.{name}.histories.{history}.kinds", further.kinds
        for name, channel in self.channels.items():
            yield f"channels.{name}.positives", channel.positives
        yield "update.prerank_met", self.update.prerank_met
        for place, rule in enumerate(self.serving.filters.seen):
            yield f"serving.filters.seen[{place}].kinds", rule.kinds
        for attribute, same in self.serving.same.items():
            yield f"serving.same.{attribute}.kinds", same.kinds
        if OWN_ITEMS in self.serving.channel_names:
            yield "serving.own_items.kinds", self.serving.own_items.kinds

    @model_validator(mode="after")
    def _names_are_file_names(self) -> "Config":
        """Refuse before a training what could not be published after it."""
        for name in self.seen:
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
                raise ValueError(f"seen: expected names of letters, digits, _ and -, got {name!r}")
        sections = (("models", self.models), ("channels", self.channels), ("rankers", self.rankers))
        for section, names in sections:
            for name in names:
                taken = name in BUILT_IN or name.startswith(SAME)
                if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) or taken:
                    raise ValueError(
                        f"{section}: expected names of letters, digits, _ and - (but not "
                        f"{', '.join(BUILT_IN)} or {SAME}...), got {name!r}"
                    )
        both = sorted(set(self.models) & set(self.channels))
        if both:
            raise ValueError(
                f"channels: expected names that no model has, for answers name an item's channel, got {both}"
            )
        if CANDIDATES in self.rankers:
            raise ValueError(
                f"rankers: expected other names than {CANDIDATES!r}, for serving.prerank.model means the "
                "network over all candidates by it (update.prerank)"
            )
        if self.rankers and not self.join.enabled:
            raise ValueError("rankers: expected join.enabled = true, for they learn from its rows, got false")
        for stage in ("prerank", "rank"):
            wanted = getattr(self.serving, stage).model
            if stage == "prerank" and wanted == CANDIDATES:
                if not self.update.prerank:
                    raise ValueError(
                        f"serving.prerank.model: {CANDIDATES!r} expected update.prerank = true, got false"
                    )
            elif wanted and wanted not in self.rankers:
                raise ValueError(
                    f"serving.{stage}.model: expected one of {', '.join(self.rankers) or 'no'} rankers, got "
                    f"{wanted!r}; declare it under [rankers]"
                )
        there = [*self.models, *self.channels, *BUILT_IN, *(SAME + name for name in self.serving.same)]
        unknown = [name for name in self.serving.channel_names if name not in there]
        if unknown:
            raise ValueError(
                f"serving.channels: expected some of {', '.join(there)}, got {unknown[0]!r}; declare it "
                "under [models], [channels] or [serving.same]"
            )
        if EDITORIAL in self.serving.channel_names and self.serving.editorial_file is None:
            raise ValueError("serving.channels.editorial: expected serving.editorial_file, got none")
        if POPULAR_NOW in self.serving.channel_names and not self.popular_now.enabled:
            raise ValueError("serving.channels.popular_now: expected popular_now.enabled = true, got false")
        check_features(self.features)
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
    def joined_dir(self) -> Path:
        """Impressions joined with actions."""
        return self.data_dir / "joined"

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
