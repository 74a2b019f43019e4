"""Configuration of one ranker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

RankerKind = Literal["logistic", "weighted_lr", "deepfm", "mmoe", "pepnet"]
Sharing = Literal["mmoe", "omoe", "shared_bottom", "soft_sharing"]
NumberScale = Literal["standard", "minmax"]
Order = Literal["stretches", "shuffled"]
PPNetGate = Literal["epnet_output", "epnet_gate"]
Preset = Literal["tuned", "published"]

# Chosen on the day before the test days (docs/ranking.md); "published" is PEPNet's own setting.
_PRESETS: dict[str, dict[str, Any]] = {
    "tuned": {},
    "published": {
        "lr_rows": 0.05,
        "lr_dense": 5e-6,
        "dim": 16,
        "hidden": (256, 128, 64),
        "gamma": 2.0,
        "epochs_first": 1,
        "final_rate": 1.0,
        "warm_rate": 1.0,
        "linear_share": 0.0,
        "pairwise": 0.0,
    },
}
_OF_THE_KIND: dict[str, dict[str, Any]] = {
    "logistic": {"lr_linear": 0.02, "epochs_first": 8, "warm_rate": 0.3},
    "weighted_lr": {"bins": 8, "epochs_first": 3, "fresh_rows": True},
    "deepfm": {
        "epochs_first": 8,
        "fresh_rows": True,
        "lr_rows": 0.02,
        "lr_linear": 0.03,
        "warm_rate": 0.3,
        "linear_share": 0.5,
        "pairwise": 0.2,
    },
    "mmoe": {
        "epochs_first": 8,
        "fresh_rows": True,
        "warm_rate": 0.3,
        "linear_share": 0.7,
        "pairwise": 0.2,
    },
    "pepnet": {
        "hidden": (128, 64),
        "epochs_first": 6,
        "fresh_rows": True,
        "warm_rate": 0.3,
        "linear_share": 0.7,
        "pairwise": 0.2,
    },
}


class TaskConfig(BaseModel):
    """One binary task: whether an impression was followed by an action."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, description="Name of the task in answers and metrics.")
    kinds: tuple[str, ...] = Field(
        min_length=1, description="Kinds of actions; any of them makes the label 1."
    )
    weight: float = Field(default=1.0, ge=0, allow_inf_nan=False, description="Weight of its loss.")
    blend: float = Field(
        default=1.0, ge=0, allow_inf_nan=False, description="Factor (or power) in the ordering score."
    )
    after: str = Field(
        default="",
        description="An earlier task that this one presupposes: p = p(after) * p(this | after) as in ESMM "
        "(Ma et al., SIGIR 2018); empty = a task of its own.",
    )


class WatchConfig(BaseModel):
    """The watch-time head: weighted logistic regression (Covington et al., RecSys 2016, section 4.2)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = Field(default="view", min_length=1, description="Kind whose value is the watch time.")
    click: str = Field(
        default="click", description="Task whose positives are weighted by watch time; its negatives count 1."
    )
    seconds_per_unit: float = Field(
        default=0.001, gt=0, allow_inf_nan=False, description="Seconds of one unit of the value."
    )
    cap_s: float = Field(
        default=600.0,
        gt=0,
        allow_inf_nan=False,
        description="Longest watch time, also predicted.",
    )
    weight: float = Field(default=0.02, ge=0, allow_inf_nan=False, description="Weight of its loss.")
    blend: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="Factor (or power) of its seconds in the score.",
    )


class RankConfig(BaseModel):
    """Hyper-parameters of one ranker; the defaults were chosen by measurement (docs/ranking.md)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    defaults_by_kind: ClassVar[Mapping[str, Mapping[str, Any]]] = _OF_THE_KIND
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = _PRESETS

    kind: RankerKind = Field(default="pepnet", description="Which ranker (B1 to B4, or plain logistic).")
    preset: Preset = Field(
        default="tuned", description="Where values come from that are not given: tuned here, or as published."
    )
    tasks: tuple[TaskConfig, ...] = Field(
        default=(TaskConfig(name="click", kinds=("click",)),),
        min_length=1,
        description="Binary tasks, trained together.",
    )
    watch: WatchConfig | None = Field(default=None, description="Watch-time head beside the tasks.")
    author: str = Field(
        default="", description="Category of the item that is its author (PPNet's F_a); empty = none."
    )
    blend: Literal["sum", "product"] = Field(
        default="sum", description="Ordering score: sum of blend * p, or product of p ^ blend."
    )
    dim: int = Field(default=8, ge=4, multiple_of=4, description="Width D of every field's row.")
    hidden: tuple[int, ...] = Field(default=(64, 32), description="Hidden layer widths (pepnet: per task).")
    tower: tuple[int, ...] = Field(default=(32,), description="Hidden layers of a task's tower (mmoe).")
    experts: int = Field(default=4, ge=1, description="Experts n (mmoe).")
    wide: bool = Field(
        default=False, description="First order terms beside the network, as logistic and deepfm have them."
    )
    linear_share: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share, in the logits, of a logistic regression of the same fields and numbers that is "
        "trained beside the network by its own loss; 0 = none.",
    )
    sharing: Sharing = Field(
        default="mmoe",
        description="mmoe: experts with a gate per task. omoe: one gate for all. shared_bottom: one network "
        "below the towers. soft_sharing: one network per task, pulled towards each other.",
    )
    soft_sharing: float = Field(
        default=1e-3, ge=0, allow_inf_nan=False, description="Strength of that pull (soft_sharing)."
    )
    epnet: bool = Field(default=True, description="Scale embeddings by the scene (pepnet).")
    ppnet: bool = Field(default=True, description="Scale hidden layers by user, item, author (pepnet).")
    gamma: float = Field(default=2.0, gt=0, allow_inf_nan=False, description="Upper bound of gates (pepnet).")
    gate_hidden: int = Field(default=32, ge=1, description="Hidden width of a gate (pepnet).")
    stop_gradient: bool = Field(
        default=True, description="No gradient flows back through a gate's view of embeddings (pepnet)."
    )
    ppnet_gate: PPNetGate = Field(
        default="epnet_output", description="What PPNet's gates see beside the IDs: output or gate of EPNet."
    )
    bins: int = Field(
        default=0, ge=0, description="Quantile bins of a number, each a row; 0 = numbers are only scaled."
    )
    scaling: NumberScale = Field(
        default="standard", description="How numbers are scaled: by mean and deviation, or to 0 .. 1."
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout after hidden layers.")
    id_dropout: float = Field(
        default=0.1, ge=0, lt=1, description="Share of rows trained as an unknown user, or an unknown item."
    )
    pairwise: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="Weight, beside each task's log loss, of a loss over pairs of a positive and a negative "
        "of one user in one stretch; above 0, these stand in one batch. 0 = none.",
    )
    row_init: float = Field(default=0.05, gt=0, description="Spread of never-trained rows.")
    lr_rows: float = Field(default=0.03, gt=0, description="Adagrad step size of rows.")
    lr_linear: float = Field(default=0.05, gt=0, description="Adagrad step size of first order terms.")
    lr_dense: float = Field(default=3e-3, gt=0, description="Adam step size of dense layers.")
    warm_rate: float = Field(
        default=1.0, gt=0, description="Factor of all step sizes in every training after the first."
    )
    batch_size: int = Field(default=512, ge=1, description="Rows per step.")
    epochs_first: int = Field(default=1, ge=1, description="Passes of the very first training.")
    stretch_h: float = Field(
        default=24.0,
        ge=0,
        description="Counts move on after so many hours (of emitted_ms, from local midnight) inside one "
        "training call, as often as bundles are made; 0 = only after the call.",
    )
    fresh_rows: bool = Field(
        default=False,
        description="In the first training every pass begins with the rows as they were before it, so that "
        "dense layers see several passes and rows, which overfit, one.",
    )
    final_rate: float = Field(
        default=0.1, gt=0, le=1, description="Share to which step sizes fall over a call, linearly."
    )
    order: Order = Field(
        default="shuffled",
        description="Order of a pass: shuffled over the whole call, or stretch by stretch in time, shuffled "
        "inside each.",
    )
    smoothing: float = Field(
        default=20.0, gt=0, description="Exposures' worth of the overall rate in every counted rate."
    )
    admit_after: int = Field(default=1, ge=1, description="Impressions before a user or item gets a row.")
    admit_window_days: float = Field(default=30, gt=0, description="Window of the admission count.")
    expire_after_days: float = Field(
        default=400,
        gt=0,
        description="A user, item, category or pair of user and scene unseen for so long in event time is "
        "removed, with its row and counts.",
    )
    day_timezone: str = Field(default="UTC", description="Zone of hour_of_day, day_of_week and stretches.")
    seed: int = Field(default=0, ge=0, description="Seed of initial weights, order and dropout.")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the T tasks, in order."""
        return tuple(task.name for task in self.tasks)

    @property
    def heads(self) -> int:
        """Logits H of a row: one per task, and one of the watch time."""
        return len(self.tasks) + (self.watch is not None)

    @property
    def has_rows(self) -> bool:
        """Whether fields have rows of width D; a logistic regression has first order terms only."""
        return self.kind != "logistic"

    @property
    def has_first_order(self) -> bool:
        """Whether fields have first order terms."""
        return self.first_order_in_network or self.linear_share > 0

    @property
    def first_order_in_network(self) -> bool:
        """Whether the network itself adds the fields' first order terms to its logits."""
        return self.wide or self.kind in ("logistic", "deepfm")

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_kind(cls, given: Any) -> Any:
        """Fill in the defaults that differ by kind and preset."""
        if not isinstance(given, dict):
            return given
        of_the_kind = _OF_THE_KIND.get(given.get("kind", "pepnet"), {})
        return {**of_the_kind, **_PRESETS.get(given.get("preset", "tuned"), {}), **given}

    @model_validator(mode="after")
    def _tasks_fit(self) -> RankConfig:
        known: list[str] = []
        for task in self.tasks:
            if task.name in known:
                raise ValueError(f"tasks: {task.name!r} is there twice; expected names of their own")
            if task.after and task.after not in known:
                raise ValueError(
                    f"task {task.name}: after {task.after!r} is no earlier task; "
                    f"expected one of: {', '.join(known) or 'none'}"
                )
            if "impression" in task.kinds:
                raise ValueError(
                    f"task {task.name}: every row is an impression, so its label would always be 1; "
                    "expected kinds of actions such as click"
                )
            known.append(task.name)
        if self.watch is not None and self.watch.click not in known:
            raise ValueError(
                f"watch: click {self.watch.click!r} is no task; its positives carry the watch time; "
                f"expected one of: {', '.join(known)}"
            )
        return self

    @model_validator(mode="after")
    def _kind_has_what_it_needs(self) -> RankConfig:
        if self.kind == "weighted_lr" and self.watch is None:
            raise ValueError(
                "kind weighted_lr: its positives are weighted by watch time; expected a section watch "
                "(kind of event, click task), got none; or choose logistic"
            )
        if self.kind == "logistic" and self.linear_share:
            raise ValueError(
                f"kind logistic: it is the logistic regression itself; expected linear_share 0, "
                f"got {self.linear_share}"
            )
        if not sum(task.blend for task in self.tasks) + (self.watch.blend if self.watch else 0.0):
            raise ValueError("blend: every task has blend 0; expected one above 0, or no order would be left")
        return self
