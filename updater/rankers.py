"""Rankers in the full retrain: trained on the joined rows since the parent, published in the same bundle."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from models.artifact import Artifact, Content
from models.bundle import ranker_file
from models.catalogue_columns import CatalogueColumns
from models.feature_config import FeatureConfig
from models.ranking.assembly import described
from models.ranking.rank_config import RankConfig
from models.ranking.rank_learner import RankLearner
from models.ranking.rank_published import ITEMS, item_tensors

log = logging.getLogger(__name__)
Progress = Callable[[str, int, int], None]


class JoinedRows(Protocol):
    """What is read of the join (stream.joined_reader.JoinedReader)."""

    def through_ms(self) -> int | None:
        """End of the last interval whose rows are complete, None = there are none."""
        ...

    def read(self, after_ms: int | None, through_ms: int | None = None) -> pa.Table:
        """Rows that the intervals with after_ms < end <= through_ms emitted."""
        ...


@dataclass(frozen=True)
class TrainedRankers:
    """files of a bundle, and its manifest's entries `rankers[name]`."""

    files: dict[str, Content] = field(default_factory=dict)
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class RankerRetrain:
    """Trains every configured ranker on; nothing is kept between calls."""

    configs: Mapping[str, RankConfig]
    features: tuple[FeatureConfig, ...]
    joined: JoinedRows

    def run(
        self, parent: Artifact | None, through_ms: int, catalogue: CatalogueColumns, items: pa.Array,
        progress: Progress = lambda what, done, of: None,
    ) -> TrainedRankers:  # fmt: skip
        """One warm-started pass over the rows that the join gave out by through_ms and the parent had not.

        items: keys string[n] that are encoded for serving. A ranker that is new, or configured otherwise than
        the parent's, starts over with all rows that are kept; one that has seen no row yet is not published.
        """
        trained = TrainedRankers()
        complete_ms = self.joined.through_ms()
        for name, config in self.configs.items():
            learner, after_ms = self._start(parent, name, config)
            if complete_ms is not None:
                rows = self.joined.read(after_ms, min(through_ms, complete_ms))
                if len(rows):
                    samples = learner.prepare(rows, catalogue)

                    def step(done: int, of: int, name: str = name) -> None:
                        progress(f"train {name}", done, of)

                    losses = learner.train(samples, step)
                    log.info("ranker %s: %d rows, losses %s", name, len(rows), losses)
                    after_ms = min(through_ms, complete_ms)
                    learner.expire(after_ms)
            if after_ms is None:
                log.warning("ranker %s: no joined rows yet; it joins the bundle when there are some", name)
                continue
            for part, tensors in learner.save().items():
                trained.files[ranker_file(name, part)] = tensors
            trained.files[ranker_file(name, ITEMS)] = item_tensors(items, learner.encoded(items, catalogue))
            trained.entries[name] = {**learner.describe(), "joined_through_ms": after_ms}
        return trained

    def _start(
        self, parent: Artifact | None, name: str, config: RankConfig
    ) -> tuple[RankLearner, int | None]:
        """The ranker to go on with, and the end of the joined rows that it has seen (None = it is fresh)."""
        entry = (parent.manifest.get("rankers", {}) if parent else {}).get(name)
        fresh = RankLearner.fresh(config, self.features)
        if parent is None or entry is None:
            return fresh, None
        # As it is read today, for an entry of an earlier version lacks what that did not know.
        before = described(parent.manifest, name)[0].model_dump(mode="json")
        told = {**fresh.describe(), "joined_through_ms": entry["joined_through_ms"]}
        if told != {**entry, "config": before}:
            log.warning("ranker %s: its configuration or the features changed; it starts over", name)
            return fresh, None
        return RankLearner.load(parent, name), entry["joined_through_ms"]
