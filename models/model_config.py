"""Configuration of one recall model."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.feature_config import FeatureConfig, HistoryConfig, TransformName
from models.popularity_config import PopularityConfig

__all__ = [
    "DAY_MS",
    "FeatureConfig",
    "HistoryConfig",
    "Kind",
    "ModelConfig",
    "PopularityConfig",
    "TransformName",
]

DAY_MS = 86_400_000
Kind = Literal["two_tower", "youtube_dnn", "dssm", "ebr", "mind", "fm", "sequence"]
Loss = Literal["softmax", "nce", "pointwise", "pairwise_hinge", "pairwise_logistic", "listwise"]
NegativeSource = Literal["in_batch", "unigram", "uniform", "log_uniform", "learned_unigram"]
Precision = Literal["auto", "float32", "bfloat16"]
HardNegativeSource = Literal["online", "offline", "rejects"]

# What differs by kind: measured (docs/models.md), or the published form of the model (spec in its module).
_OF_THE_KIND: dict[str, dict[str, Any]] = {
    "two_tower": {
        "negative_source": "unigram",
        "negatives": 1024,
        "batch_size": 256,
        "tau": 0.5,
        "lr_rows": 0.02,
        "lr_rows_incremental": 0.01,
        "lr_dense": 0.003,
        "epochs_first": 1,
        "popularity": ({"half_life_h": 12.0}, {"half_life_h": 48.0}, {"half_life_h": 168.0}),
        "own_items": 50,
    },
    "youtube_dnn": {"lr_rows": 0.3, "tau": 1.0},
    "dssm": {"loss": "listwise", "negative_source": "uniform", "negatives_per_row": 10},
    "ebr": {
        "loss": "pairwise_hinge",
        "negative_source": "uniform",
        "negatives_per_row": 20,
        "hard_negatives": ("online",),
    },
    "mind": {},
    "fm": {"tau": 1.0},
    "sequence": {},
}
PER_ROW_LOSSES = ("pointwise", "pairwise_hinge", "pairwise_logistic", "listwise")
"""Losses over each row's own negatives; the others share theirs in a step."""
_NOT_IN_A_ROW = ("popularity", "own_items", "histories", "num_true", "hard_negatives")
"""What a row that is written ahead cannot hold: a kind's defaults give way to prebatch, what is asked for is
refused."""


class ModelConfig(BaseModel):
    """Hyper-parameters of one recall model; the defaults were chosen by measurement (docs/models.md)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    defaults_by_kind: ClassVar[Mapping[str, Mapping[str, Any]]] = _OF_THE_KIND

    kind: Kind = Field(default="two_tower", description="Which model (A1 to A5, A8, or sequence).")
    dim: int = Field(default=64, ge=4, multiple_of=4, description="Width D of user and item vectors.")
    id_dim: int = Field(default=64, ge=4, multiple_of=4, description="Width of user-ID and item-ID rows.")
    hidden: tuple[int, ...] = Field(default=(256, 128), description="Hidden layer widths of the towers.")
    cross_layers: int = Field(default=0, ge=0, description="DCN cross layers beside the MLP (dssm).")
    interests: int = Field(default=4, ge=1, description="User vectors K (mind).")
    routing_iterations: int = Field(default=3, ge=1, description="Rounds of capsule routing (mind).")
    label_power: float = Field(default=2.0, ge=0, description="Power of label-aware attention (mind).")
    heads: int = Field(default=2, ge=1, description="Attention heads (sequence).")
    blocks: int = Field(default=2, ge=1, description="Self-attention blocks (sequence).")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="Dropout inside the attention (sequence).")
    user_row: bool = Field(default=True, description="The user tower reads the user's ID row.")
    use_history: bool = Field(default=True, description="The user tower reads the user's history.")
    history_length: int = Field(default=50, ge=1, description="Newest history items that are pooled (L).")
    history_half_life_days: float = Field(
        default=0.0, ge=0, description="Recency weighting of the pooling; 0 = plain mean."
    )
    histories: dict[str, HistoryConfig] = Field(
        default_factory=dict, description="Further histories by name (views, likes), each pooled."
    )
    shared_items: bool = Field(
        default=False, description="Histories pool the target side's item rows, not rows of their own."
    )
    popularity: tuple[PopularityConfig, ...] = Field(
        default=(),
        description="Time-decayed counts that an item's vector carries, weighted by the user tower.",
    )
    popularity_every_s: int = Field(
        default=3600, ge=1, description="Training sees counts as of whole multiples of this, as deltas do."
    )
    own_items: int = Field(
        default=0, ge=0, description="Newest own events whose items get a score of their own; 0 = off."
    )
    own_negatives: int = Field(default=8, ge=1, description="Own items per row among the negatives.")
    batch_size: int = Field(default=1024, ge=1, description="Samples per step of a full training.")
    batch_size_incremental: int = Field(default=256, ge=1, description="Samples per incremental step.")
    precision: Precision = Field(
        default="auto",
        description="Matrix products of training steps: bfloat16 is several times as fast as float32 on a "
        "processor that has instructions for it, where auto takes it.",
    )
    loss: Loss = Field(default="softmax", description="Training mode (A7).")
    negative_source: NegativeSource = Field(
        default="unigram", description="Where a full training draws its easy negatives."
    )
    logq: bool = Field(
        default=True, description="Correct softmax losses for how often a negative is expected."
    )
    negatives: int = Field(default=512, ge=1, description="Shared negatives per step (softmax, nce).")
    negative_power: float = Field(
        default=0.75, ge=0, le=1, description="Sampled negatives are drawn ~ count^power."
    )
    negatives_per_row: int = Field(default=10, ge=1, description="Easy negatives of a row (other losses).")
    prebatch: bool = Field(
        default=False,
        description="Full trainings draw negatives_per_row negatives of every row when samples are written "
        "to a file, not in the step.",
    )
    num_true: int = Field(
        default=1, ge=1, description="Targets of one request that make one row's positives (softmax)."
    )
    hard_negatives: tuple[HardNegativeSource, ...] = Field(
        default=(), description="Hard negatives beside the easy ones: online, offline, rejects."
    )
    hard_per_row: int = Field(default=2, ge=1, description="Hard negatives of a row, per source.")
    hard_mix: tuple[int, int] = Field(
        default=(1, 1),
        description="Easy to hard among a row's own negatives where rejects or offline ones exist: (1, 1), "
        "or (100, 1) as published for EBR (losses row by row).",
    )
    hard_ranks: tuple[int, int] = Field(
        default=(101, 500), description="Ranks of the model's own results that offline ones are drawn from."
    )
    harder_share: float = Field(
        default=0.5, ge=0, le=1, description="Share of the ranking stage's rejects among rejects."
    )
    rejects_days: float = Field(
        default=14.0, gt=0, description="Event time for which a reject may be a negative, days."
    )
    margin: float = Field(default=0.2, ge=0, description="Margin of the hinge.")
    sigma: float = Field(default=10.0, gt=0, description="Steepness of the pairwise logistic loss.")
    lr_dense: float = Field(default=1e-3, gt=0, description="Adam step size of the dense layers.")
    lr_rows: float = Field(default=0.05, gt=0, description="Row-wise Adagrad step size in full training.")
    warm_rate: float = Field(
        default=0.3,
        gt=0,
        description="Factor of lr_dense and lr_rows in every full training after the first one's passes.",
    )
    lr_rows_incremental: float = Field(default=0.05, gt=0, description="The same in incremental steps.")
    tau: float = Field(default=0.07, gt=0, description="Temperature of the scores.")
    row_init: float = Field(
        default=0.05, gt=0, description="Spread of never-trained rows around the cold row."
    )
    item2vec_passes: int = Field(
        default=0, ge=0, description="Skip-gram passes over the first history that start the item rows."
    )
    id_dropout: float = Field(
        default=0.1, ge=0, lt=1, description="Share of samples trained as an unknown user (row 0)."
    )
    item_dropout: float = Field(
        default=0.05, ge=0, lt=1, description="Share of items trained as unknown (models with item features)."
    )
    epochs_first: int = Field(
        default=2, ge=1, description="Passes over the history of the very first training."
    )
    samples_per_user: int = Field(
        default=0, ge=0, description="At most so many samples of a user per full training; 0 = all."
    )
    popular_threshold: float = Field(
        default=0.0, ge=0, description="Positives of items with a larger share are down-sampled; 0 = none."
    )
    cold_repeats: int = Field(default=1, ge=1, description="Times a positive of a cold item is seen.")
    cold_below: int = Field(default=5, ge=1, description="An item with fewer targets is cold.")
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

    @property
    def has_item_tower(self) -> bool:
        """Whether a tower reads item features: a YoutubeDNN item is its row alone, and they say where a new
        one begins (models/item_start.py).
        """
        return self.kind != "youtube_dnn"

    @property
    def moving_tables(self) -> tuple[str, ...]:
        """Published tables that this model reads: what the steps of an hour can change in an answer."""
        return tuple(table for table in self.published_tables if table != "user" or self.user_row)

    @property
    def has_own_items(self) -> bool:
        """Whether items of the own history get a score of their own."""
        return self.own_items > 0

    @property
    def read_length(self) -> int:
        """Newest positive events of a user that the model reads."""
        return max(self.history_length, self.own_items)

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_kind(cls, given: Any) -> Any:
        """Fill in the defaults that differ by kind, and by loss or prebatch where the kind's do not fit."""
        if not isinstance(given, dict):
            return given
        of_the_kind = _OF_THE_KIND.get(given.get("kind", "two_tower"), {})
        loss = given.get("loss", of_the_kind.get("loss"))
        if given.get("prebatch"):
            of_the_kind = {name: one for name, one in of_the_kind.items() if name not in _NOT_IN_A_ROW}
        by_row = loss in PER_ROW_LOSSES or given.get("prebatch")
        if by_row and of_the_kind.get("negative_source") == "in_batch":
            of_the_kind = {**of_the_kind, "negative_source": "unigram"}
        if loss == "pointwise":
            of_the_kind = {**of_the_kind, "negatives_per_row": 3}
        return {**of_the_kind, **given}

    @model_validator(mode="before")
    @classmethod
    def _impressions_are_no_negatives(cls, given: Any) -> Any:
        """Refuse what is known to harm, with the reason."""
        if isinstance(given, dict):
            asked = [given.get("negative_source"), *(given.get("hard_negatives") or ())]
            if any(str(source).startswith("impress") for source in asked):
                raise ValueError(
                    "negatives: impressed-but-not-clicked items are no negatives of a recall model: they "
                    "were retrieved because they fit, and training against them cost 55% of recall where it "
                    "was measured (Huang et al., KDD 2020); use negative_source and hard_negatives "
                    "(online, offline, rejects)"
                )
        return given

    @model_validator(mode="after")
    def _parts_fit(self) -> "ModelConfig":
        if "impression" in self.positives:
            raise ValueError("positives: 'impression' is not an action; name kinds such as click or purchase")
        if self.shared_items and self.item_dim != self.id_dim:
            raise ValueError(f"shared_items: needs dim = id_dim, got {self.dim} and {self.id_dim}")
        if self.kind == "fm" and self.dim != self.id_dim:
            raise ValueError(f"kind fm: needs dim = id_dim, got {self.dim} and {self.id_dim}")
        if not (self.user_row or self.use_history):
            raise ValueError("user_row and use_history are both off: the user tower would know nobody")
        unknown = set(self.published_tables) - set(self.trained_tables)
        if unknown:
            raise ValueError(
                f"published_tables: {sorted(unknown)} are never trained between bundles; see trained_tables"
            )
        return self

    def check_prebatch(self) -> None:
        """Refuse a model whose rows cannot be written ahead (ValueError)."""
        off = {
            name: type(self).model_fields[name].get_default(call_default_factory=True)
            for name in _NOT_IN_A_ROW
        }
        asked = [name for name in off if getattr(self, name) != off[name]]
        if asked:
            raise ValueError(
                "prebatch: a written row has one positive, one history and the items' attributes of sample "
                f"time; expected {', '.join(asked)} off, which is not among them; or draw negatives in the "
                "step"
            )

    @model_validator(mode="after")
    def _rows_can_be_written_ahead(self) -> "ModelConfig":
        if self.prebatch:
            self.check_prebatch()
            if self.negative_source == "in_batch":
                raise ValueError(
                    "prebatch: writes every row's own negatives, drawn from the corpus; expected "
                    "negative_source unigram, learned_unigram, log_uniform or uniform, got in_batch"
                )
        return self

    @model_validator(mode="after")
    def _loss_fits_its_negatives(self) -> "ModelConfig":
        if self.loss in PER_ROW_LOSSES and self.negative_source == "in_batch":
            raise ValueError(
                f"loss {self.loss}: draws every row's own negatives from the corpus; expected "
                "negative_source unigram or uniform, got in_batch"
            )
        if self.loss == "pointwise" and self.negatives_per_row > 5:
            raise ValueError(
                f"negatives_per_row: got {self.negatives_per_row} with loss pointwise, expected at most 5 (2 "
                "or 3 is usual): it fits the share of positives among the items shown, and with many "
                "negatives a no to everything fits well; for more of them take loss listwise or softmax"
            )
        if self.loss == "nce" and not self.logq:
            raise ValueError("loss nce: is defined with the expected counts; logq cannot be off")
        if self.num_true > 1 and self.loss != "softmax":
            raise ValueError(f"num_true: more than one target a row needs loss softmax, got {self.loss}")
        low, high = self.hard_ranks
        if not 1 <= low <= high:
            raise ValueError(f"hard_ranks: expected 1 <= first <= last, got {self.hard_ranks}")
        return self
