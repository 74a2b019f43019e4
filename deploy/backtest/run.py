"""A whole backtest: tables in, metrics.json, predictions.parquet and report.html out."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch

from deploy.backtest import strategies
from deploy.backtest.events import EventStream, catalogue_columns, event_stream, ids_of
from deploy.backtest.metrics import Scoreboard, summary
from deploy.backtest.plan import steps
from deploy.backtest.predictions import PredictionFile
from deploy.backtest.replay import SCOPES, Progress, Replay
from deploy.backtest.report import write_report
from deploy.backtest.settings import RejectsAsked, Settings, settings_of
from deploy.backtest.targets import Targets, targets_of
from deploy.datasets import read_events
from deploy.errors import StartError
from deploy.wiring_training import provenance


@dataclass(frozen=True)
class Question:
    """What a backtest is asked, as the command line has it (`freshrecall backtest --help`)."""

    events: Path
    positives: tuple[str, ...]
    start_ms: int
    out: Path
    items: Path | None = None
    users: Path | None = None
    end_ms: int | None = None
    strategies: tuple[str, ...] = ("frozen", "daily", "hourly")
    channels: tuple[str, ...] = ("two_tower", "popularity")
    scopes: tuple[str, ...] = SCOPES
    k: int = 100
    sample: int = 20_000
    seed: int = 7
    config: Path | None = None
    day_timezone: str | None = None
    interval: str | None = None
    training_seed: int | None = None
    rejects: str | None = None
    rejects_a_day: int = 5000


def backtest(question: Question, progress: Progress = lambda what, done, of: None) -> dict[str, Any]:
    """Replay, score, write the three files into `question.out`; returns the content of metrics.json.

    Raises DatasetError, ConfigError and StartError with what, where, expected and got.
    """
    began_s = time.perf_counter()
    chosen = strategies.chosen(question.strategies)
    unknown = set(question.scopes) - set(SCOPES)
    if unknown or not question.scopes:
        raise StartError(f"scope: expected some of {', '.join(SCOPES)}, got {', '.join(unknown) or 'none'}")
    if question.k < 1 or question.sample < 1:
        raise StartError(f"expected k and sample above 0, got {question.k} and {question.sample}")
    progress("reading", 0, 1)
    table = read_events(question.events)
    stream = event_stream(table)
    end_ms = int(stream.ts_ms[-1]) + 1 if len(stream.ts_ms) and question.end_ms is None else question.end_ms
    targets = targets_of(stream.events, question.positives)
    rows = _asked(question, stream, targets, end_ms)
    if end_ms is None:
        raise StartError(f"{question.events}: expected events, got none")
    catalogue = catalogue_columns(question.items, question.users)
    before = stream.between(None, question.start_ms)
    settings = settings_of(
        question.config, question.channels, question.positives, catalogue, before,
        question.day_timezone, question.interval, question.training_seed,
        RejectsAsked(question.rejects, question.rejects_a_day, question.seed) if question.rejects else None,
    )  # fmt: skip
    torch.set_num_threads(settings.threads)
    cut = steps(question.start_ms, end_ms, settings.interval_ms, settings.day_timezone)
    replay = Replay(stream, catalogue, targets, settings, chosen, question.scopes, question.k)
    board = Scoreboard(targets)
    question.out.mkdir(parents=True, exist_ok=True)
    item_ids = ids_of(targets.item_keys, table["item_id"].type)
    with PredictionFile(question.out / "predictions.parquet", item_ids) as file:
        for answer in replay.run(cut, rows, progress):
            board.add(answer)
            file.add(answer)
    first, last = np.searchsorted(targets.ts_ms, [question.start_ms, end_ms])
    about = {
        "start_ms": question.start_ms,
        "end_ms": end_ms,
        "positives": list(question.positives),
        "targets": len(targets),
        "in_window": int(last - first),
        "asked": len(rows),
        "k": question.k,
        "seed": question.seed,
        **_learned(settings),
        **_made_by(question),
        **({"blend": replay.fused.weights()} if settings.blended else {}),
        "seconds": {name: round(seconds, 2) for name, seconds in sorted(replay.seconds.items())},
        "wall_s": round(time.perf_counter() - began_s, 1),
    }
    figures: dict[str, Any] = _finite({"about": about, **summary(board, targets, cut, question.seed)})
    _write_whole(question.out / "metrics.json", json.dumps(figures, indent=1, allow_nan=False) + "\n")
    write_report(question.out / "report.html", board, targets, figures)
    return figures


def _asked(question: Question, stream: EventStream, targets: Targets, end_ms: int | None) -> np.ndarray:
    """Numbers of the targets that are asked; StartError where there is nothing to ask or to learn from."""
    rows = targets.sampled(question.start_ms, end_ms or 0, question.sample, question.seed)
    if not len(rows):
        there = ", ".join(sorted(pc.unique(stream.events["kind"]).to_pylist()))
        raise StartError(
            f"{question.events}: expected targets of kinds {', '.join(question.positives)} from "
            f"{question.start_ms} on, got none; kinds there: {there}"
        )
    if targets.ts_ms[0] >= question.start_ms:
        raise StartError(
            f"start: expected positives before {question.start_ms} to learn from, the first one is at "
            f"{targets.ts_ms[0]}"
        )
    return rows


def _learned(settings: Settings) -> dict[str, Any]:
    return {
        "interval_ms": settings.interval_ms,
        "day_timezone": settings.day_timezone,
        "shuffle_seed": settings.shuffle_seed,
        "popularity_half_life_ms": settings.recipe.popularity_half_life_ms,
        "models": {name: model.model_dump(mode="json") for name, model in settings.recipe.models.items()},
        **({"blended": list(settings.blended)} if settings.blended else {}),
        **({"rejects": asdict(settings.rejects)} if settings.rejects else {}),
        "features": [feature.model_dump(mode="json") for feature in settings.recipe.features],
    }


def _made_by(question: Question) -> dict[str, Any]:
    """What the figures must say to be repeated."""
    made_by = provenance()
    tables = {"events": question.events, "items": question.items, "users": question.users}
    return {
        "command": "freshrecall " + " ".join(sys.argv[1:]),
        "tables": {name: path.name for name, path in tables.items() if path},
        "git": made_by.git,
        "versions": dict(made_by.versions),
        "machine": {"cores": os.cpu_count(), "architecture": platform.machine()},
    }


def _finite(value: Any) -> Any:
    """NaN and infinity are no JSON: such a figure is null."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_whole(file: Path, text: str) -> None:
    """Aside and renamed, so that a file that is there is whole: a grid of runs goes on after it."""
    aside = file.with_suffix(".tmp")
    aside.write_text(text, encoding="utf-8")
    aside.rename(file)


def names(text: Sequence[str] | str) -> tuple[str, ...]:
    """Comma-separated names."""
    parts = text.split(",") if isinstance(text, str) else text
    return tuple(part.strip() for part in parts if part.strip())
