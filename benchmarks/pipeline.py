"""What of a training pass is its input: key texts to entries, features, samplers, batches, negatives, rows.

The rest is the model: rows read and moved, forward and backward, dense layers moved.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks import data
from benchmarks.measure import Result
from benchmarks.train import THREADS, YOUTUBE_DNN
from models.catalogue_columns import CatalogueColumns
from models.learner import Learner

INPUT_OF_A_STEP = {"_drawn": "negatives", "_own": "negatives", "_users": "rows", "_items": "rows"}
"""Methods of models/steps.py that make what is then read, scored and learned from."""


def share(items: int, samples: int, rounds: int) -> list[Result]:
    """Of YoutubeDNN at a million rows, from a day's events to the end of the pass over them, in processor
    time of one thread.
    """
    torch.set_num_threads(THREADS)
    given, catalogue = data.Histories.drawn(samples, items), CatalogueColumns()
    learner = Learner.fresh(YOUTUBE_DNN)
    for part in given.pasts():
        learner.observe(part, catalogue)
    spent = _Spent()
    training = (
        learner._training
    )  # its parts are timed where they are: what is measured is the pass as it runs
    for method, part_of in INPUT_OF_A_STEP.items():
        spent.watch(training.stepper, method, part_of)
    spent.watch(training.stepper, "step", "steps")
    for method in ("zero_grad", "step"):
        spent.watch(training._adam, method, "dense layers")
    shares: list[dict[str, float]] = []
    before = items + given.history.size
    for turn in range(rounds + 1):
        day = data.clicks(np.arange(samples), given.target, before + turn * samples)
        spent.seconds.clear()
        began = time.process_time()
        with spent.on("ids and features"):
            drawn = learner.prepare(day, catalogue)
        learner.train_full(drawn)
        whole = time.process_time() - began
        if turn:
            shares.append(_shares(spent.seconds, whole))
    of_each = {name: round(median(one[name] for one in shares), 4) for name in shares[0]}
    value = median(sum(one.values()) for one in shares)
    return [Result("train.pipeline", value, "", params={"shares": of_each, "history": data.LENGTH})]


def _shares(seconds: dict[str, float], whole: float) -> dict[str, float]:
    """Of the input's parts; what is neither in a step nor in the dense layers' optimizer is batches."""
    parts = {name: seconds[name] for name in ("ids and features", "negatives", "rows")}
    outside = seconds["steps"] + seconds["dense layers"] + seconds["ids and features"]
    return {name: one / whole for name, one in {**parts, "batches": whole - outside}.items()}


class _Spent:
    """Processor time by name, of what is watched."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        """Count what is done inside."""
        began = time.process_time()
        yield
        self.seconds[name] += time.process_time() - began

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Count every call of a method of one object."""
        watched: Callable[..., Any] = getattr(owner, method)

        @wraps(watched)
        def call(*arguments: Any, **named: Any) -> Any:
            with self.on(name):
                return watched(*arguments, **named)

        setattr(owner, method, call)
