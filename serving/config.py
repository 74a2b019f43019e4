"""Configuration of the server."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from serving.channels.own import OwnItemsConfig
from serving.channels.same import SameConfig
from serving.exploration import ExplorationConfig
from serving.filters import AttributeRules, FilterConfig
from serving.fusion_config import CANDIDATES, ChannelConfig, FusionConfig, SceneConfig, StageConfig


class ServingConfig(BaseModel):
    """How recall is served."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="HTTP port; 0 takes a free one.")
    threads: int = Field(1, ge=1, description="Threads of one search and of one tower.")
    clock: Literal["wall", "event"] = Field(
        "wall",
        description="Moment of a request that names none: wall time, or the newest event time (replays).",
    )
    models: tuple[str, ...] = Field(
        (), description="Recall models and item-to-item channels to serve, best first; empty = all."
    )
    fusion: FusionConfig = Field(FusionConfig(), description="How rankings become one.")
    channels: dict[str, ChannelConfig] = Field(
        default_factory=dict,
        description="By name: a model, an item-to-item channel, or popularity, popular_now (else for users "
        "without a history only), own_items, editorial, fresh (else for nobody).",
    )
    channel_timeout_ms: float = Field(
        250.0, gt=0, description="An answer waits no longer for a channel; it then goes out without."
    )
    scenes: dict[str, SceneConfig] = Field(
        default_factory=dict, description='What is different where the context\'s "scene" is the name.'
    )
    fresh_days: float = Field(
        30.0,
        ge=0,
        description="Days of event time for which an item of the catalogue is new: searchable by its "
        "features within seconds, and in the channel fresh. 0 = items wait for their first event.",
    )
    prerank: StageConfig = Field(
        StageConfig(), description="First stage after fusion: a light ranker over many candidates."
    )
    rank: StageConfig = Field(StageConfig(), description="Second stage: a ranker over what is left.")
    rejects_per_answer: int = Field(
        20,
        ge=0,
        description="Items that a stage turned down, sent to the stream per answer and stage, spread over "
        'the ranks: hard negatives for models with hard_negatives = ["rejects"]. 0 = none.',
    )
    exploration: ExplorationConfig = Field(
        ExplorationConfig(), description="Places for the channel explore, for users with little history."
    )
    filters: FilterConfig = Field(FilterConfig(), description="What is left out of every answer.")
    caps: dict[str, NonNegativeInt] = Field(
        default_factory=dict,
        description="Item attribute -> most items of an answer with the same value; 0 = no cap.",
    )
    own_items: OwnItemsConfig = Field(OwnItemsConfig(), description="The channel own_items.")
    same: dict[str, SameConfig] = Field(
        default_factory=dict,
        description="By item attribute: channels same_ATTRIBUTE, of items that share its value with the "
        "newest of the history.",
    )
    editorial_file: Path | None = Field(
        None, description="Lists of the channel editorial, read again when the file changes."
    )
    profile_timeout_s: float = Field(
        0.2, gt=0, description="After this long a profile counts as not available."
    )
    poll_interval_s: float = Field(
        1.0, gt=0, description="How often the pointer is read when no notice arrives."
    )
    loading_share: float = Field(
        0.15,
        gt=0,
        le=1,
        description="Share of a core that loading a version takes while another one is served.",
    )
    retry_interval_s: float = Field(10.0, ge=0, description="Pause before a refused version is tried again.")
    max_body_bytes: int = Field(4_194_304, gt=0, description="Largest request body that is read.")
    audit_file: Path | None = Field(
        None, description="Where audited answers go (JSON lines), with their inputs."
    )
    audit_share: float = Field(
        1.0, ge=0, le=1, description="Share of answers that are audited, when there is a file."
    )
    audit_bytes: int = Field(
        4_294_967_296,
        ge=1_048_576,
        description="Room for the audited answers and the file before them (NAME.1) together, bytes; the "
        "oldest go.",
    )

    @property
    def channel_names(self) -> frozenset[str]:
        """Every channel that has settings, in any scene."""
        return frozenset(self.channels).union(*(scene.channels for scene in self.scenes.values()))

    @property
    def attributes(self) -> tuple[str, ...]:
        """Item attributes that filters, caps and channels read."""
        scenes = self.scenes.values()
        filtered = self.filters.attributes.union(*(scene.filters.attributes for scene in scenes))
        return tuple(sorted(filtered.union(self.caps, self.same, *(scene.caps for scene in scenes))))

    def rules(self, scene: str) -> tuple[AttributeRules, ...]:
        """Attribute rules of a scene: those of all and its own. All of them hold."""
        own = (self.scenes[scene].filters,) if scene in self.scenes else ()
        return tuple(one for one in (self.filters, *own) if one.active)

    def caps_in(self, scene: str) -> dict[str, int]:
        """Caps of a scene, by attribute: those of all, or its own instead."""
        return {**self.caps, **(self.scenes[scene].caps if scene in self.scenes else {})}

    @property
    def rankers(self) -> tuple[str, ...]:
        """Rankers that the stages use."""
        named = (self.prerank.model, self.rank.model)
        return tuple(dict.fromkeys(name for name in named if name not in ("", CANDIDATES)))
