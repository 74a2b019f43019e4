"""What one more event, or one more request, costs where there are a hundred times as many IDs, or items in a
history.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

import numpy as np
import torch

from benchmarks import data
from benchmarks.bundles import Files
from benchmarks.measure import Result, seconds
from benchmarks.train import YOUTUBE_DNN
from models.bundle import model_file
from models.catalogue_columns import CatalogueColumns
from models.index import IndexConfig, build_index, set_search_threads
from models.item_index import ItemIndex
from models.learner import Learner, ModelConfig
from models.moments import one_moment
from models.published import PublishedModel

ITEMS, ROW_WIDTH, K = 10_000, 16, 100
MODEL, ASKED = "youtube_dnn", 64


def users(sizes: Sequence[int], events: int, rounds: int) -> list[Result]:
    """An hour's events of all users alike, prepared and stepped over, with so many users known. Rows are 16
    wide, so that ten million of them fit beside the smaller tables.
    """
    torch.set_num_threads(1)
    taken = seconds(*(_hourly(size, events) for size in sizes), rounds=rounds)
    return [_grown("growth.users", sizes, [1e6 * one / events for one in taken], {"id_dim": ROW_WIDTH})]


def items(sizes: Sequence[int], queries: int, rounds: int) -> list[Result]:
    """One request's search and keys, one thread, with so many items; each size under the index it gets."""
    set_search_threads(1)
    runs, kinds = zip(*(_searched(size, queries) for size in sizes), strict=True)
    taken = seconds(*runs, rounds=rounds)
    return [_grown("growth.items", sizes, [1e6 * one / queries for one in taken], {"index": kinds, "k": K})]


def history(lengths: Sequence[int], items: int, samples: int, calls: int, rounds: int) -> list[Result]:
    """A training sample of YoutubeDNN, and the user vector of a request, with histories of such lengths, all
    of them read; one thread.
    """
    torch.set_num_threads(1)
    trained, asked = zip(*(_of_length(length, items, samples, calls) for length in lengths), strict=True)
    steps, requests = seconds(*trained, rounds=rounds), seconds(*asked, rounds=rounds)
    return [
        _grown("growth.history", lengths, [1e6 * one / samples for one in steps], {}),
        _grown("growth.history.request", lengths, [1e6 * one / calls for one in requests], {}),
    ]


def _of_length(
    length: int, items: int, samples: int, calls: int
) -> tuple[Callable[[], object], Callable[[], object]]:
    """One pass over the samples, and the vectors of so many requests."""
    given, catalogue = data.Histories.drawn(samples, items, length), CatalogueColumns()
    learner = Learner.fresh(YOUTUBE_DNN.model_copy(update={"history_length": length}))
    for part in given.pasts():
        learner.observe(part, catalogue)
    taken = learner.prepare(given.following, catalogue)
    saved = {model_file(MODEL, part): tensors for part, tensors in learner.save().items()}
    published = PublishedModel.load(Files({"models": {MODEL: learner.describe()}}, saved), MODEL)
    now_ms = int(taken.ts_ms[-1]) + 1
    asking = [
        one_moment(str(user), now_ms, [(str(item), now_ms - 1) for item in given.history[user].tolist()])
        for user in range(min(ASKED, samples))
    ]

    def requests() -> None:
        for number in range(calls):
            published.queries(asking[number % len(asking)])

    return lambda: [learner.train_full(taken)], requests


def _hourly(size: int, events: int) -> Callable[[], object]:
    rng, catalogue, hours = data.generator(), CatalogueColumns(), count()
    learner = Learner.fresh(ModelConfig(id_dim=ROW_WIDTH, dim=ROW_WIDTH))
    known = np.arange(size)
    learner.observe(data.clicks(known, data.zipf(rng, size, ITEMS)), catalogue)

    def hour() -> list[float]:
        some = data.clicks(
            rng.integers(0, size, events), data.zipf(rng, events, ITEMS), size + events * next(hours)
        )
        return [learner.train_incremental(learner.prepare(some, catalogue))]

    return hour


def _searched(size: int, queries: int) -> tuple[Callable[[], None], str]:
    rng = data.generator()
    vectors, asked = data.clustered(rng, size), data.clustered(rng, queries)[:, None]
    base = build_index(vectors, IndexConfig())
    index = ItemIndex.over(data.key_texts(np.arange(size)), base)

    def search() -> None:
        for query in asked:
            _, positions = index.search(query, K)
            index.keys_of(positions[0])

    return search, base.kind


def _grown(name: str, sizes: Sequence[int], cost_us: Sequence[float], params: dict[str, object]) -> Result:
    """The last of the costs over the first; the curve in params."""
    curve = {str(size): round(cost, 3) for size, cost in zip(sizes, cost_us, strict=True)}
    return Result(name, cost_us[-1] / cost_us[0], "", params={**params, "cost_us": curve})
