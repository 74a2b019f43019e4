"""The daily cycle on real data: a grocer's year, out of the archive into a published bundle."""

from __future__ import annotations

import hashlib
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.measure import Result
from deploy.backtest.events import catalogue_columns, event_stream
from deploy.datasets import completejourney, read_events
from deploy.demo.settings import FEATURES
from models.feature_config import FeatureConfig
from models.index import IndexConfig
from models.model_config import ModelConfig
from models.pointer import PointerStore
from models.registry import Registry
from stream.archive import Archive, ArchiveReader
from updater.config import UpdateConfig
from updater.retrain import FullRetrain
from updater.state import Recipe

DATA = Path(__file__).parents[1] / "var"
DAY_MS, HOUR_MS = 86_400_000, 3_600_000


def grocer(events: int) -> list[Result]:
    """Seconds of the first full retrain, over the first `events` purchases but those of the last day (one
    model, as in the demo, one thread), and of the next one, warm, over that day; what each stage took of
    them is in the params.
    """
    torch.set_num_threads(1)
    files = completejourney(DATA)
    stream = event_stream(read_events(files.events).slice(0, events))
    catalogue = catalogue_columns(files.items, files.users)
    last_ms = int(stream.ts_ms[-1]) // DAY_MS * DAY_MS
    features = tuple(FeatureConfig.model_validate({"name": name, "source": of}) for name, of in FEATURES)
    model = ModelConfig(positives=("purchase",))
    recipe = Recipe({"two_tower": model}, features, model.positives, 12 * HOUR_MS)
    with tempfile.TemporaryDirectory() as name, Archive(Path(name) / "archive") as archive:
        archive.incarnation("grocer")
        archive.append(stream.events.combine_chunks().to_batches()[0])
        archive.seal_through(last_ms + DAY_MS)
        root = Path(name) / "registry"
        retrain = FullRetrain(
            ArchiveReader(archive.root), Registry(root), PointerStore(root), lambda as_of_ms: catalogue,
            recipe, IndexConfig(), UpdateConfig(), now_ms=lambda: 0,
        )  # fmt: skip
        first, warm = _Stages(), _Stages()
        retrain.run(last_ms, first.reached)
        first.end()
        retrain.run(None, warm.reached)
        warm.end()
    params = {
        "events_first": int((stream.ts_ms < last_ms).sum()), "first": first.seconds,
        "events_warm": int((stream.ts_ms >= last_ms).sum()), "warm": warm.seconds,
    }  # fmt: skip
    data = hashlib.sha256(files.events.read_bytes()).hexdigest()
    return [
        Result(name, sum(stages.seconds.values()), "s", params=params, data_sha256=data)
        for name, stages in (("cycle.first_s", first), ("cycle.day_s", warm))
    ]


class _Stages:
    """How long each stage of a retrain took, s, by what it reports."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stage, self._since = "", time.perf_counter()

    def reached(self, stage: str, done: int, of: int | None) -> None:
        """A report of the retrain."""
        if stage != self._stage:
            self.end()
            self._stage = stage

    def end(self) -> None:
        """The last stage is over."""
        now = time.perf_counter()
        if self._stage:
            self.seconds[self._stage] = round(self.seconds.get(self._stage, 0.0) + now - self._since, 3)
        self._since = now
