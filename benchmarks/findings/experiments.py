"""What is compared: every experiment, in the order in which they are run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.findings.data import COMPLETEJOURNEY, KUAIRAND, MOVIETWEETINGS

CODE = "1"
"""Raise it when a change of the code or of a default makes earlier figures stale: all runs are made again."""
SHOWN = "hourly_items"
"""The strategy that models and variants are shown with."""
BOTH = ("daily", SHOWN)
CLASSICAL = ("popularity", "own_items", "item_cf", "swing")
MODELS = {
    "two_tower": (0, 1, 2),
    "sequence": (0,),
    "youtube_dnn": (0,),
    "dssm": (0,),
    "dssm_dcn": (0,),
    "ebr": (0,),
    "mind": (0,),
    "fm": (0,),
}
"""Learned channels of the base files, and the training seeds of each."""
UPDATES = (
    "frozen", "frozen_live", "daily", "daily_live", "daily_ordered", "hourly", "hourly_items", "hourly_all",
    "incremental_only", "incremental_only_items", "incremental_only_all",
)  # fmt: skip


@dataclass(frozen=True)
class Experiment:
    """One or, with several seeds, more backtests.

    name: "group/variant". changes: dotted key -> value over the base file of the data set. without: feature
    sources or features left out. against: the experiment of the same data set that this is a variant of.
    shown: the channel that is compared, "" = the first one; compared: several, each with that of the base in
    its place. rejects: the stage whose rejects go back.
    """

    name: str
    data: str
    channels: tuple[str, ...] = ("two_tower",)
    strategies: tuple[str, ...] = BOTH
    changes: Mapping[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    interval: str = "1h"
    seeds: tuple[int, ...] = (0,)
    sample: int = 20_000
    against: str = ""
    shown: str = ""
    compared: tuple[str, ...] = ()
    rejects: str = ""

    @property
    def contestant(self) -> str:
        """The channel that is compared."""
        return self.contestants[0]

    @property
    def contestants(self) -> tuple[str, ...]:
        """All of them."""
        return self.compared or (self.shown or self.channels[0],)

    @property
    def group(self) -> str:
        return self.name.partition("/")[0]

    @property
    def variant(self) -> str:
        return self.name.partition("/")[2]


@dataclass(frozen=True)
class Claim:
    """Strategy `better` is said to beat `worse`; the experiments of group "claims" answer it."""

    text: str
    better: str
    worse: str


CLAIMS = (
    Claim("Full and incremental beat full only (user rows)", "hourly", "daily"),
    Claim("Full and incremental beat full only (user and item rows)", "hourly_items", "daily"),
    Claim("Full and incremental beat full only (every weight)", "hourly_all", "daily"),
    Claim("… also where popularity is live anyway (user rows)", "hourly", "daily_live"),
    Claim("… also where popularity is live anyway (user and item rows)", "hourly_items", "daily_live"),
    Claim("… also where popularity is live anyway (every weight)", "hourly_all", "daily_live"),
    Claim("Full only beats incremental only (user rows)", "daily", "incremental_only"),
    Claim("Full only beats incremental only (user and item rows)", "daily", "incremental_only_items"),
    Claim("Full only beats incremental only (every weight)", "daily", "incremental_only_all"),
    Claim("Shuffled beats ordered", "daily", "daily_ordered"),
    Claim("User rows only beat all weights", "hourly", "hourly_all"),
    Claim("User and item rows only beat all weights", "hourly_items", "hourly_all"),
    Claim("Updates beat none", "daily", "frozen"),
)

SEEDS = (0, 1, 2)
FUSED_RUN = "fused/sequence as well"
COUNTS_RUN = "fused/live counts as well"
STAGED = ("fused", "prerank", "two_tower", "sequence", "item_cf", "swing", "popularity", "own_items")

BLENDED = tuple(channel for channel in STAGED if channel != "prerank")
MET_RUN = "prerank/what was met as well"
MET_COUNTS_RUN = "prerank/what was met as well, beside live counts"
MET: Mapping[str, Any] = {
    "update.prerank": True,
    "update.prerank_met": ["impression"],
    "profiles.history_kinds": ["click", "long_view", "impression"],
}
CHANNELS_ALONE: Mapping[str, Any] = {"update.blend_counts": False}

INTERVALS = {KUAIRAND: ("1d", "6h", "1h", "10m", "1m")}
FORMER_STEP: Mapping[str, Any] = {"models.two_tower.lr_rows_incremental": 0.05}
"""Groups that compare among themselves keep the step of the hour that they were measured with."""
NO_COUNTS: Mapping[str, Any] = {"every_model.popularity": []}
"""Without popularity counts in the item vectors: what the rows alone can do."""


GROUPS = {
    MOVIETWEETINGS: (
        "models", "claims", "fused", "prerank", "hourly steps", "intervals", "logq", "samplers", "losses",
        "hard negatives", "training", "precision", "inputs", "popularity", "history", "features",
    ),
    COMPLETEJOURNEY: (
        "models", "claims", "fused", "prerank", "intervals", "logq", "samplers", "hard negatives", "inputs",
        "popularity", "own items",
    ),
}  # fmt: skip
"""Where not all are run: movietweetings has no repeats worth a score of their own; a year of purchases takes
so long that it is asked what it alone can answer, and what is asked of all three.
"""


COARSER: Mapping[str, Mapping[str, Any]] = {COMPLETEJOURNEY: {"interval": "6h", "sample": 10_000}}
"""A test window of eleven weeks, of baskets known to the hour."""


def on(data: str) -> tuple[Experiment, ...]:
    """The experiments of one data set."""
    asked = (one for one in _all(data) if one.group in GROUPS.get(data, (one.group,)))
    coarser = COARSER.get(data, {})
    return tuple(one if one.group == "intervals" else replace(one, **coarser) for one in asked)


def _all(data: str) -> tuple[Experiment, ...]:
    return (
        Experiment("models/classical", data, CLASSICAL),
        *(Experiment(f"models/{name}", data, (name,), seeds=seeds) for name, seeds in MODELS.items()),
        Experiment("claims/with counts", data, strategies=UPDATES),
        Experiment("claims/without counts", data, strategies=UPDATES, changes=NO_COUNTS),
        *_fused(data),
        *_prerank(data),
        *_rejects(data),
        *_intervals(data),
        *_hourly_steps(data),
        *_training(data),
        *_precision(data),
        *_inputs(data),
    )


def _fused(data: str) -> tuple[Experiment, ...]:
    """All channels in one ranking, against the best of them alone. With sequence it is what `fused` is made
    of where nothing else is named; without a pre-rank in the run its blend reads live counts as well.
    """
    neighbours = ("item_cf", "swing", "popularity", "own_items")
    alone = "fused/two_tower alone"
    without = ("fused", "two_tower", *neighbours)
    return (
        Experiment(alone, data, strategies=(SHOWN,)),
        Experiment(
            "fused/two_tower and what needs no training", data, without, (SHOWN,),
            changes=CHANNELS_ALONE, against=alone,
        ),
        Experiment(FUSED_RUN, data, STAGED, (SHOWN,), seeds=SEEDS, against=alone),
        Experiment(COUNTS_RUN, data, BLENDED, (SHOWN,), seeds=SEEDS, against=FUSED_RUN),
    )  # fmt: skip


def _prerank(data: str) -> tuple[Experiment, ...]:
    """The first of that ranking, ordered again in the same run; and by what users met as well, where the data
    say what was shown, against that order and against one that reads live counts itself.
    """
    after = Experiment(
        "prerank/after it", data, STAGED, (SHOWN,), seeds=SEEDS, against=FUSED_RUN, shown="prerank"
    )
    if data != KUAIRAND:
        return (after,)
    before = replace(after, name="prerank/before what was met", changes=MET, against="", shown="fused")
    met = replace(before, name=MET_RUN, against=before.name, shown="prerank")
    return (after, before, met, replace(met, name=MET_COUNTS_RUN, against=COUNTS_RUN))


def _rejects(data: str) -> tuple[Experiment, ...]:
    """What the pre-rank turns down as hard negatives of the model before it, beside the model's own middle
    ranks: so many of each row for a softmax, a mix with easy ones for losses row by row.
    """
    sizes = {f"{n} a row": {"hard_per_row": n} for n in (2, 10)}
    mixes = {f"{easy} easy to 1": {"hard_mix": [easy, 1]} for easy in (100, 10, 1)}
    found = []
    for model, amounts in (("two_tower", sizes), ("ebr", mixes)):
        none = Experiment(
            f"rejects/{model}, none", data,
            (model, "item_cf", "swing", "popularity", "own_items", "fused", "prerank"), (SHOWN,),
            changes={f"models.{model}.hard_negatives": []}, compared=(model, "fused", "prerank"),
        )  # fmt: skip
        found.append(none)
        for source, stage in (("rejects", "prerank"), ("offline", "")):
            for amount, setting in amounts.items():
                change = {"hard_negatives": [source], **setting}
                changes = {f"models.{model}.{key}": value for key, value in change.items()}
                name = f"rejects/{model}, {source}, {amount}"
                found.append(replace(none, name=name, changes=changes, against=none.name, rejects=stage))
    return tuple(found)


def _intervals(data: str) -> tuple[Experiment, ...]:
    lengths = INTERVALS.get(data, ("1d", "6h", "1h"))
    return tuple(
        Experiment(
            f"intervals/{length}", data, strategies=("hourly", "hourly_items"), interval=length,
            against="" if length == lengths[0] else f"intervals/{lengths[0]}",
        )
        for length in lengths
    )  # fmt: skip


def _hourly_steps(data: str) -> tuple[Experiment, ...]:
    """How far the rows move in the hour, beside fresh popularity alone (daily_live)."""
    return tuple(
        Experiment(
            f"hourly steps/{size}", data, strategies=("daily_live", "hourly", "hourly_items"),
            changes={"models.two_tower.lr_rows_incremental": size},
            against="" if size == 0.05 else "hourly steps/0.05",
        )
        for size in (0.05, 0.01)
    )  # fmt: skip


def _training(data: str) -> tuple[Experiment, ...]:
    """Losses, samplers, corrections, negatives."""
    former, bare = FORMER_STEP, {**NO_COUNTS, **FORMER_STEP}
    in_batch = {"negative_source": "in_batch"}
    uncorrected = {**in_batch, "logq": False}
    return (
        _variant("logq/off, without counts", data, uncorrected, shared=bare),
        _variant("logq/on, without counts", data, in_batch, "logq/off, without counts", shared=bare),
        _variant("logq/off", data, uncorrected, shared=former),
        _variant("logq/on", data, in_batch, "logq/off", shared=former),
        _variant(
            "samplers/count^0.75", data, {"negative_source": "unigram", "negative_power": 0.75}, shared=former
        ),
        *_variants(
            "samplers",
            data,
            {
                "count^1": {"negative_source": "unigram", "negative_power": 1.0},
                "uniform": {"negative_source": "uniform"},
                "log-uniform": {"negative_source": "log_uniform"},
                "learned unigram": {"negative_source": "learned_unigram"},
                "in batch": in_batch,
            },
            "samplers/count^0.75",
            shared=former,
        ),
        _variant("losses/softmax", data, {"loss": "softmax"}, shared=former),
        *(
            _variant(f"losses/{loss}", data, {"loss": loss}, "losses/softmax", shared=former)
            for loss in ("nce", "pointwise", "pairwise_hinge", "pairwise_logistic", "listwise")
        ),
        _variant("hard negatives/none", data, {"hard_negatives": []}, model="ebr"),
        *_variants(
            "hard negatives",
            data,
            {
                "online": {"hard_negatives": ["online"]},
                "offline": {"hard_negatives": ["offline"]},
                "offline, 100 easy to 1": {"hard_negatives": ["offline"], "hard_mix": [100, 1]},
                "online and offline": {"hard_negatives": ["online", "offline"]},
            },
            "hard negatives/none",
            "ebr",
        ),
        *_variants(
            "training",
            data,
            {
                "2 targets a row": {"num_true": 2},
                "4 targets a row": {"num_true": 4},
                "Item2vec start": {"item2vec_passes": 2},
                "50 samples a user": {"samples_per_user": 50},
                "10 samples a user": {"samples_per_user": 10},
                "one pass": {"epochs_first": 1},
                "four passes": {"epochs_first": 4},
            },
            "models/two_tower",
        ),
    )


def _precision(data: str) -> tuple[Experiment, ...]:
    """Matrix products of training steps in float32 and in bfloat16, whatever this processor has."""
    found = []
    for model in ("two_tower", "youtube_dnn"):
        exact = _variant(f"precision/{model}, float32", data, {"precision": "float32"}, model=model)
        change = {"precision": "bfloat16"}
        half = _variant(f"precision/{model}, bfloat16", data, change, exact.name, model)
        found += [replace(one, seeds=SEEDS) for one in (exact, half)]
    return tuple(found)


def _inputs(data: str) -> tuple[Experiment, ...]:
    """What the towers read."""
    row_only = {"user_row": True, "use_history": False}
    history_only = {"user_row": False, "use_history": True}
    without = "inputs/user row and history, without counts"
    return (
        _variant("inputs/user row", data, row_only, "models/two_tower"),
        _variant("inputs/history", data, history_only, "models/two_tower"),
        _variant(without, data, {}, shared=NO_COUNTS),
        _variant("inputs/user row, without counts", data, row_only, without, shared=NO_COUNTS),
        _variant("inputs/history, without counts", data, history_only, without, shared=NO_COUNTS),
        *(
            _variant(
                f"popularity/{name}", data, {}, "models/two_tower", shared={"every_model.popularity": counts}
            )
            for name, counts in _counts(data).items()
        ),
        _variant("own items/none", data, {"own_items": 0}),
        _variant("own items/newest 50", data, {"own_items": 50}, "own items/none"),
        _variant("own items/newest 150", data, {"own_items": 150}, "own items/none"),
        Experiment("features/no item features", data, without=("item",), against="models/two_tower"),
        Experiment("features/no time", data, without=("time",), against="models/two_tower"),
        *_variants(
            "history",
            data,
            {
                "newest 10": {"history_length": 10},
                "newest 150": {"history_length": 150},
                "newest 150, half-life 1 d": {"history_length": 150, "history_half_life_days": 1.0},
                "newest 150, half-life 7 d": {"history_length": 150, "history_half_life_days": 7.0},
            },
            "models/two_tower",
        ),
    )


def _counts(data: str) -> dict[str, list[dict[str, Any]]]:
    """Popularity counts instead of the base's."""
    counts: dict[str, list[dict[str, Any]]] = {
        "none": [],
        "half-life 12 h": [{"half_life_h": 12}],
        "half-life 168 h": [{"half_life_h": 168}],
        "half-lives 12 and 168 h": [{"half_life_h": 12}, {"half_life_h": 168}],
        "half-lives 3, 12, 48, 168 h": [{"half_life_h": hours} for hours in (3, 12, 48, 168)],
    }
    half_day = counts["half-life 12 h"]
    if data != MOVIETWEETINGS:  # it has no scenes
        counts["by scene too"] = [*half_day, {"half_life_h": 24, "by": "scene"}]
    if data == KUAIRAND:
        counts["impressions too"] = [*half_day, {"half_life_h": 12, "kinds": ["impression"]}]
    return counts


def _variants(
    group: str, data: str, changes: Mapping[str, Mapping[str, Any]], against: str, model: str = "two_tower",
    shared: Mapping[str, Any] | None = None,
) -> tuple[Experiment, ...]:  # fmt: skip
    return tuple(
        _variant(f"{group}/{name}", data, change, against, model, shared) for name, change in changes.items()
    )


def _variant(
    name: str, data: str, change: Mapping[str, Any], against: str = "", model: str = "two_tower",
    shared: Mapping[str, Any] | None = None,
) -> Experiment:  # fmt: skip
    """A change of one model's own settings."""
    changes = {**(shared or {}), **{f"models.{model}.{key}": value for key, value in change.items()}}
    return Experiment(name, data, (model,), changes=changes, against=against)


EXPERIMENTS = tuple(one for data in (KUAIRAND, MOVIETWEETINGS, COMPLETEJOURNEY) for one in on(data))


def chosen(names: tuple[str, ...]) -> tuple[Experiment, ...]:
    """Experiments by data set ("kuairand"), group ("losses") or name ("losses/nce"); all without names.

    Raises ValueError for what names none.
    """
    for name in names:
        if not any(_named(one, name) for one in EXPERIMENTS):
            groups = ", ".join(dict.fromkeys(one.group for one in EXPERIMENTS))
            raise ValueError(f"only: expected a data set, a group ({groups}) or group/variant, got {name!r}")
    return tuple(one for one in EXPERIMENTS if not names or any(_named(one, name) for name in names))


def _named(one: Experiment, name: str) -> bool:
    return name in (one.data, one.group, one.name, f"{one.data}/{one.group}", f"{one.data}/{one.name}")
