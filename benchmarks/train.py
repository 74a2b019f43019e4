"""Training: full passes against torch-rechub and against plain torch, and the step of the hourly update."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from benchmarks import data
from benchmarks import sparse_torch as plain
from benchmarks.measure import Result, rates
from benchmarks.roofline import Roofline
from benchmarks.sparse_torch import SparseTorch
from benchmarks.worker import Worker, peer
from models.catalogue_columns import CatalogueColumns
from models.learner import Learner, ModelConfig
from models.products import in_bfloat16
from models.samplers import UnigramSampler
from models.samples import Samples
from updater.config import UpdateConfig

THREADS = 1
# The history pools the rows of the target side and no user has a row, as in the peers: one table to learn.
SAME = {"user_row": False, "shared_items": True, "popularity": (), "own_items": 0, "positives": ("click",)}
YOUTUBE_DNN = ModelConfig(kind="youtube_dnn", **SAME)
DSSM = ModelConfig(kind="dssm", **SAME)
DSSM_IN_BATCH = ModelConfig(kind="dssm", loss="softmax", negative_source="in_batch", **SAME)
TWO_TOWER = ModelConfig(kind="two_tower", **SAME)
_ITEMS = {"trained_tables": ("item",), "published_tables": ("item",)}
HOURLY = {
    "update.incremental": ModelConfig(kind="youtube_dnn", **_ITEMS, **SAME),
    "update.incremental.two_tower": ModelConfig(kind="two_tower", **_ITEMS, **SAME),
}
LIMIT = "torch's row gathers and matrix products of that shape"
RECHUB, RECHUB_NEGATIVES = "torch-rechub 0.9 YoutubeDNN, its own trainer", 3
RECHUB_DSSM = "torch-rechub 0.9 DSSM, its own trainer"


class Steps(Protocol):
    """What can be stepped over batches of rows."""

    def step(self, history_BL: Tensor, target_B: Tensor, negatives_K: Tensor) -> None:
        """One step."""
        ...


def youtube_dnn(name: str, items: int, samples: int, peer_samples: int, rounds: int) -> list[Result]:
    """One pass of YoutubeDNN (history 50, 64 wide, tower 256-128-64) over items rows, one thread.

    The peer sees the first peer_samples of the same samples, for it takes that much longer; 0 leaves it and
    its environment out. Raises FileNotFoundError where that environment is missing.
    """
    given = data.Histories.drawn(samples, items)
    learner, drawn = _prepared(YOUTUBE_DNN, given)
    config = learner.config
    ideal = Roofline(items + 1, config.hidden, False, True, in_bfloat16(config.precision))
    ours, theirs, limit = _beside_rechub(
        "YoutubeDNN", given, config, peer_samples, rounds,
        lambda: [learner.train_full(drawn)], _epoch(ideal, given, config, config.batch_size),
    )  # fmt: skip
    params = _params(config) | {
        "batch": config.batch_size,
        "peer_negatives": RECHUB_NEGATIVES,
        "limit": LIMIT,
    }
    named = (RECHUB, theirs) if theirs else ("", None)
    return [Result(name, ours, "samples/s", *named, limit, params, given.sha256)]


def dssm(items: int, samples: int, peer_samples: int, rounds: int) -> list[Result]:
    """The same of DSSM, whose items have a tower as well: with ten negatives of every row's own, its default
    here, and with the rest of the batch, as the peer's in-batch trainer takes three of it (its pointwise one
    trains four rows for each).
    """
    given = data.Histories.drawn(samples, items)
    (own, drawn), (in_batch, same) = (_prepared(config, given) for config in (DSSM, DSSM_IN_BATCH))
    batch = own.config.batch_size
    ours, theirs, shared = _beside_rechub(
        "DSSM", given, own.config, peer_samples, rounds,
        lambda: [own.train_full(drawn)], lambda: [in_batch.train_full(same)],
    )  # fmt: skip
    params = _params(own.config) | {"batch": batch, "peer_negatives": RECHUB_NEGATIVES}
    named = (RECHUB_DSSM, theirs) if theirs else ("", None)
    return [
        Result(name, rate, "samples/s", *named, None, params | {"negatives": negatives}, given.sha256)
        for name, rate, negatives in (
            ("train.dssm.100k", ours, own.config.negatives_per_row),
            ("train.dssm_in_batch.100k", shared, batch - 1),
        )
    ]


def two_tower(items: int, samples: int, rounds: int) -> list[Result]:
    """One pass of the two-tower model over items rows, one thread."""
    given = data.Histories.drawn(samples, items)
    learner, drawn = _prepared(TWO_TOWER, given)
    batch = learner.config.batch_size
    ours, *others = _beside_torch(given, learner.config, batch, lambda: [learner.train_full(drawn)], rounds)
    params = _params(learner.config) | {"batch": batch, "limit": LIMIT}
    return [Result("train.two_tower.1m", ours, "samples/s", plain.NAME, *others, params, given.sha256)]


def incremental(name: str, items: int, samples: int, rounds: int) -> list[Result]:
    """The hourly step of one of HOURLY as it runs: histories read, negatives drawn, item rows moved, dense
    layers frozen.
    """
    given = data.Histories.drawn(samples, items)
    learner, drawn = _prepared(HOURLY[name], given)
    batch = learner.config.batch_size_incremental
    ours, *others = _beside_torch(
        given, learner.config, batch, lambda: [learner.train_incremental(drawn)], rounds, dense=False
    )
    params = _params(learner.config) | {"batch": batch, "dense": "frozen", "limit": LIMIT}
    return [Result(name, ours, "events/s", plain.NAME, *others, params, given.sha256)]


def rows(sizes: Sequence[int], samples: int, rounds: int) -> list[Result]:
    """One pass of YoutubeDNN over the most rows against one over the fewest, one thread. Items are drawn
    uniformly: no row is likelier in a cache than another.
    """
    runs = [_uniform_pass(size, samples) for size in sizes]
    of_sizes = rates(samples, *runs, rounds=rounds)
    curve = {str(size): round(rate) for size, rate in zip(sizes, of_sizes, strict=True)}
    params = {**_params(YOUTUBE_DNN), "samples_per_s": curve}
    return [Result("train.rows.10m", of_sizes[-1] / of_sizes[0], "", params=params)]


def _uniform_pass(items: int, samples: int) -> Callable[[], object]:
    given = data.Histories.drawn(samples, items, draw=data.uniform)
    learner, drawn = _prepared(YOUTUBE_DNN, given)
    return lambda: [learner.train_full(drawn)]


def beside_busy(items: int, samples: int, neighbours: int, rounds: int) -> list[Result]:
    """A full retrain's pass on the threads that are configured by default, over the better of one and two,
    while other processes keep as many cores busy.
    """
    given, configured = data.Histories.drawn(samples, items), UpdateConfig().retrain_threads
    learner, drawn = _prepared(YOUTUBE_DNN, given)

    def on(threads: int) -> list[float]:
        torch.set_num_threads(threads)
        try:
            return [learner.train_full(drawn)]
        finally:
            torch.set_num_threads(THREADS)

    tried = sorted({1, 2, configured})
    with contextlib.ExitStack() as stack:
        for _ in range(neighbours):
            stack.enter_context(Worker("benchmarks.busy"))
        of_each = rates(samples, *(partial(on, threads) for threads in tried), rounds=rounds)
    by_threads = dict(zip(tried, of_each, strict=True))
    value = by_threads[configured] / max(by_threads[1], by_threads[2])
    params = {
        **_params(YOUTUBE_DNN),
        "threads": configured,
        "samples_per_s": {str(threads): round(rate) for threads, rate in by_threads.items()},
    }
    return [Result("train.threads.busy", value, "", params=params, data_sha256=given.sha256)]


def _beside_torch(
    given: data.Histories,
    config: ModelConfig,
    batch: int,
    ours: Callable[[], object],
    rounds: int,
    dense: bool = True,
) -> list[float]:
    """Samples a second of ours, of plain torch, and of the limit, one thread. dense: whether layers learn."""
    rows, towers = given.items + 1, config.has_item_tower
    peer = SparseTorch(rows, config.hidden, item_tower=towers, tau=config.tau, dense=dense)
    ideal = Roofline(rows, config.hidden, towers, dense, in_bfloat16(config.precision))
    others = (_epoch(model, given, config, batch) for model in (peer, ideal))
    return rates(len(given.target), ours, *others, rounds=rounds)


def _beside_rechub(
    model: str,
    given: data.Histories,
    config: ModelConfig,
    peer_samples: int,
    rounds: int,
    ours: Callable[[], object],
    *others: Callable[[], object],
) -> list[float]:
    """Samples a second of ours, of torch-rechub over peer_samples (0.0 without any), of the others."""
    samples = len(given.target)
    with contextlib.ExitStack() as stack:
        if not peer_samples:
            first, *rest = rates(samples, ours, *others, rounds=rounds)
            return [first, 0.0, *rest]
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        worker = stack.enter_context(_rechub(model, folder, given, config, peer_samples))
        units = [samples, peer_samples, *[samples] * len(others)]
        return rates(units, ours, lambda: float(worker.ask()), *others, rounds=rounds)


def _prepared(config: ModelConfig, given: data.Histories) -> tuple[Learner, Samples]:
    """A model that has seen every item and every history, and the samples of what comes next."""
    torch.set_num_threads(THREADS)
    learner, catalogue = Learner.fresh(config), CatalogueColumns()
    for part in given.pasts():
        learner.observe(part, catalogue)
    return learner, learner.prepare(given.following, catalogue)


def _epoch(model: Steps, given: data.Histories, config: ModelConfig, batch: int) -> Callable[[], None]:
    """The same samples in batches of the same size; the negatives of every step are drawn beforehand, those
    that our first pass draws: a step reads rows that the last one did not, as it must.
    """
    history, target = torch.from_numpy(given.history), torch.from_numpy(given.target)
    taken = np.concatenate([np.arange(given.items), given.history.ravel(), given.target])
    counts = np.bincount(taken, minlength=given.items)
    corpus = np.ones(given.items, np.bool_)
    sampler = UnigramSampler(corpus, counts, config.negative_power, config.seed)
    starts = range(0, len(target), batch)
    drawn = [torch.from_numpy(sampler.draw(config.negatives, step)) for step in range(len(starts))]

    def epoch() -> None:
        for start, negatives in zip(starts, drawn, strict=True):
            model.step(history[start : start + batch], target[start : start + batch], negatives)

    return epoch


def _rechub(model: str, folder: Path, given: data.Histories, config: ModelConfig, samples: int) -> Worker:
    file = folder / "data.npz"
    np.savez(file, history=given.history[:samples] + 1, target=given.target[:samples] + 1)
    options: dict[str, Any] = {
        "model": model, "rows": given.items + 1, "width": data.WIDTH, "hidden": config.hidden,
        "batch": config.batch_size, "negatives": RECHUB_NEGATIVES, "threads": THREADS,
    }  # fmt: skip
    return peer("benchmarks.peers.rechub_speed", [str(file), json.dumps(options)])


def _params(config: ModelConfig) -> dict[str, Any]:
    return {
        "history": data.LENGTH,
        "dim": data.WIDTH,
        "hidden": [*config.hidden, data.WIDTH],
        "negatives": config.negatives,
        "precision": "bfloat16" if in_bfloat16(config.precision) else "float32",
        "threads": THREADS,
    }
