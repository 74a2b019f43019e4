"""Which differences are taken, and each with its paired bootstrap by user."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.findings.experiments import CLAIMS, CLASSICAL, Experiment
from benchmarks.findings.hits import CUT, SHORT_CUT, Hits
from deploy.backtest.metrics import Bootstrap
from deploy.backtest.settings import FUSED, PRERANK

SCOPES = ("all", "new")
METRICS = (f"recall@{CUT}", "ndcg@100")
METRICS_OF_STAGES = (f"recall@{SHORT_CUT}", *METRICS)
SEED = 7


@dataclass(frozen=True)
class Side:
    """A contestant of an experiment."""

    experiment: str
    strategy: str
    channel: str


@dataclass(frozen=True)
class Pair:
    """b - a on one data set. kind: claim, variant (of an experiment), single (a channel of it against all
    fused) or model (against a classical one).
    """

    kind: str
    data: str
    a: Side
    b: Side

    @property
    def name(self) -> str:
        sides = (f"{side.experiment} {side.strategy} {side.channel}" for side in (self.a, self.b))
        return f"{self.kind} {self.data}: " + " -> ".join(sides)

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is compared."""
        return METRICS_OF_STAGES if self.b.channel == PRERANK else METRICS


def pairs_of(experiments: Iterable[Experiment]) -> list[Pair]:
    """All differences of the experiments, each once."""
    known = {(one.data, one.name): one for one in experiments}
    pairs: list[Pair] = []
    for one in known.values():
        channel = one.contestant
        if one.group == "claims":
            pairs += [
                Pair(
                    "claim",
                    one.data,
                    Side(one.name, claim.worse, channel),
                    Side(one.name, claim.better, channel),
                )
                for claim in CLAIMS
                if {claim.worse, claim.better} <= set(one.strategies)
            ]
        base = known.get((one.data, one.against))
        if base:
            pairs += [
                Pair(
                    "variant",
                    one.data,
                    Side(base.name, strategy, before),
                    Side(one.name, strategy, after),
                )
                for strategy in one.strategies
                if strategy in base.strategies
                for before, after in zip(base.contestants, one.contestants, strict=True)
            ]
        if channel == FUSED:
            pairs += [
                Pair("single", one.data, Side(one.name, strategy, single), Side(one.name, strategy, channel))
                for strategy in one.strategies
                for single in one.channels
                if single not in (FUSED, PRERANK)
            ]
        classical = known.get((one.data, "models/classical"))
        if one.group == "models" and classical and one is not classical:
            pairs += [
                Pair(
                    "model", one.data, Side(classical.name, strategy, peer), Side(one.name, strategy, channel)
                )
                for strategy in one.strategies
                for peer in CLASSICAL
            ]
    return list(dict.fromkeys(pairs))


def differences(pair: Pair, a: Mapping[int, Hits], b: Mapping[int, Hits]) -> list[dict[str, Any]]:
    """Records by scope, targets and metric. a, b: hits by training seed.

    With the same seeds on both sides (b alone has several where a does not learn) a target's value is the
    mean over the seeds. Raises ValueError where the two were asked different targets.
    """
    shared = sorted(set(a) & set(b))
    seeds_a, seeds_b = (sorted(a), sorted(b)) if pair.kind == "model" else (shared, shared)
    found = []
    for scope in SCOPES:
        left = _mean([a[seed].of(pair.a.strategy, pair.a.channel, scope) for seed in seeds_a], pair)
        right = _mean([b[seed].of(pair.b.strategy, pair.b.channel, scope) for seed in seeds_b], pair)
        if not np.array_equal(left["row"], right["row"]):
            raise ValueError(f"{pair.name}, scope {scope}: expected the same targets, got different ones")
        # A row that the longer interval left alone is not one that updates could have helped.
        subsets = {"asked": np.ones(len(left["row"]), bool)}
        if pair.kind == "claim":
            subsets["touched"] = right["touched"]
        for subset, mask in subsets.items():
            if mask.any():
                found += _records(pair, scope, subset, left, right, mask)
    return found


def _mean(parts: Sequence[dict[str, np.ndarray]], pair: Pair) -> dict[str, np.ndarray]:
    if not parts:
        raise ValueError(f"{pair.name}: expected a seed that both sides have, got none")
    if any(not np.array_equal(part["row"], parts[0]["row"]) for part in parts):
        raise ValueError(f"{pair.name}: expected the same targets from every seed, got different ones")
    return {**parts[0], **{name: np.mean([part[name] for part in parts], axis=0) for name in pair.metrics}}


def _records(
    pair: Pair, scope: str, subset: str, left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray],
    mask: np.ndarray,
) -> list[dict[str, Any]]:  # fmt: skip
    values = np.column_stack([side[name][mask] for name in pair.metrics for side in (left, right)])
    drawn = Bootstrap(left["user"][mask], SEED).means(values)
    means = values.mean(0)
    found = []
    for at, metric in enumerate(pair.metrics):
        (mean_a, mean_b), (a, b) = means[2 * at : 2 * at + 2], drawn[:, 2 * at : 2 * at + 2].T
        record: dict[str, Any] = {
            "scope": scope,
            "targets": subset,
            "metric": metric,
            "n": int(mask.sum()),
            "a": round(float(mean_a), 5),
            "b": round(float(mean_b), 5),
            "difference": _interval(mean_b - mean_a, b - a),
        }
        if mean_a > 0 and (a > 0).all():
            record["relative"] = _interval(mean_b / mean_a - 1, b / a - 1)
        found.append(record)
    return found


def _interval(mean: float, drawn: np.ndarray) -> dict[str, float]:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"mean": round(float(mean), 5), "low": round(float(low), 5), "high": round(float(high), 5)}
