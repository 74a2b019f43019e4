"""Configuration of one recall model."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

DAY_MS = 86_400_000
TransformName = Literal["log", "square", "sqrt"]


class FeatureConfig(BaseModel):
    """One feature, declared once and used by training and serving alike."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        description="Column (user, item), context key, or hour_of_day / day_of_week / example_age (time)."
    )
    source: Literal["user", "item", "context", "time"] = Field(description="Where the value comes from.")
    kind: Literal["category", "number"] = Field(
        default="category", description="Embedded value, or standardised number."
    )
    transforms: tuple[TransformName, ...] = Field(
        default=(), description="Further forms of a number, each an input."
    )
    dim: int = Field(default=8, ge=4, multiple_of=4, description="Width of a category's embedding.")

    @property
    def table(self) -> str:
        """Name of the feature's ID table, e.g. "item.department"."""
        return f"{self.source}.{self.name}"


class ModelConfig(BaseModel):
    """Hyper-parameters of one recall model; the defaults were chosen by measurement (docs/models.md)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["two_tower", "youtube_dnn"] = Field(
        default="two_tower", description="Which model (A2 or A1)."
    )
    dim: int = Field(default=64, ge=4, multiple_of=4, description="Width D of user and item vectors.")
    id_dim: int = Field(default=64, ge=4, multiple_of=4, description="Width of user-ID and item-ID rows.")
    hidden: tuple[int, ...] = Field(default=(256, 128), description="Hidden layer widths of the towers.")
    history_length: int = Field(default=50, ge=1, description="Newest history items that are pooled (L).")
    history_half_life_days: float = Field(
        default=0.0, ge=0, description="Recency weighting of the pooling; 0 = plain mean."
    )
    shared_items: bool = Field(
        default=False, description="Histories pool the target side's item rows, not rows of their own."
    )
    batch_size: int = Field(default=1024, ge=1, description="Samples per step of a full training.")
    batch_size_incremental: int = Field(default=256, ge=1, description="Samples per incremental step.")
    negatives: int = Field(default=512, ge=1, description="Shared negatives per step.")
    negative_power: float = Field(
        default=0.75, ge=0, le=1, description="Sampled negatives are drawn ~ count^power."
    )
    lr_dense: float = Field(default=1e-3, gt=0, description="Adam step size of the dense layers.")
    lr_rows: float = Field(default=0.05, gt=0, description="Row-wise Adagrad step size in full training.")
    warm_rate: float = Field(
        default=0.3,
        gt=0,
        description="Factor of lr_dense and lr_rows in every full training after the first one's passes.",
    )
    lr_rows_incremental: float = Field(default=0.05, gt=0, description="The same in incremental steps.")
    tau: float = Field(default=0.07, gt=0, description="Temperature of the softmax (two_tower).")
    row_init: float = Field(
        default=0.05, gt=0, description="Spread of never-trained rows around the cold row."
    )
    id_dropout: float = Field(
        default=0.1, ge=0, lt=1, description="Share of samples trained as an unknown user (row 0)."
    )
    item_dropout: float = Field(
        default=0.05, ge=0, lt=1, description="Share of target items trained as an unknown item."
    )
    epochs_first: int = Field(
        default=2, ge=1, description="Passes over the history of the very first training."
    )
    positives: tuple[str, ...] = Field(
        default=("click",), min_length=1, description="Kinds that are targets and history."
    )
    weights: dict[str, float] = Field(
        default_factory=dict, description="Loss weight by kind; others count 1."
    )
    trained_tables: tuple[str, ...] = Field(
        default=("user",), description="Tables that incremental steps may move."
    )
    published_tables: tuple[str, ...] = Field(
        default=("user",), description="Tables whose rows a delta ships."
    )
    admit_after: int = Field(
        default=1, ge=1, description="Sightings within the window before an ID gets a row."
    )
    admit_window_days: float = Field(default=30, gt=0, description="Window of the admission count.")
    expire_after_days: float = Field(
        default=400, gt=0, description="An ID unseen this long in event time is removed."
    )
    day_timezone: str = Field(default="UTC", description="Zone of hour_of_day and day_of_week.")
    seed: int = Field(default=0, ge=0, description="Seed of initial weights and of sampling.")

    @property
    def item_dim(self) -> int:
        """Width of an item row: a YoutubeDNN row is the item vector itself."""
        return self.dim if self.kind == "youtube_dnn" else self.id_dim

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_kind(cls, given: Any) -> Any:
        """Fill in the defaults that differ by kind (measured: unnormalised rows want larger steps)."""
        if isinstance(given, dict) and given.get("kind") == "youtube_dnn":
            return {"lr_rows": 0.3, **given}
        return given

    @model_validator(mode="after")
    def _impressions_are_no_targets(self) -> "ModelConfig":
        if "impression" in self.positives:
            raise ValueError("positives: 'impression' is not an action; name kinds such as click or purchase")
        if self.shared_items and self.item_dim != self.id_dim:
            raise ValueError(f"shared_items: needs dim = id_dim, got {self.dim} and {self.id_dim}")
        unknown = set(self.published_tables) - set(self.trained_tables)
        if unknown:
            raise ValueError(
                f"published_tables: {sorted(unknown)} are never trained between bundles; see trained_tables"
            )
        return self
