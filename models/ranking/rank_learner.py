"""One ranker that learns from joined samples: fields, rows, counts, network, optimizers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.architecture import ModelFiles
from models.arrays import Float32Array, Int64Array, Tensors
from models.catalogue_columns import CatalogueColumns, item_columns, user_columns
from models.dense_adam import DenseAdam
from models.embedding import EmbeddingTable
from models.feature_config import FeatureConfig
from models.features import Columns
from models.key_bytes import key_array
from models.ranking.assembly import RankerParts, described, load_parts, pair_keys
from models.ranking.joined import checked, corrected
from models.ranking.labels import task_labels, watch_seconds
from models.ranking.rank_config import RankConfig
from models.ranking.rank_published import RankItems
from models.ranking.rank_samples import RankSamples
from models.ranking.rank_training import Progress, RankTraining
from models.ranking.row_space import PAIRS

_DAY_MS = 86_400_000
_TRAINING_PARTS = ("adam", "progress")


class RankLearner:
    """A ranker in training. One writer; not thread-safe. The caller sets torch's thread count.

    Its state is a pure function of configuration, features and the calls of prepare() and train().
    """

    def __init__(self, config: RankConfig, features: Sequence[FeatureConfig]) -> None:
        """Use fresh() or load()."""
        self.config = config
        rows = EmbeddingTable(config.dim, config.lr_rows) if config.has_rows else None
        self._parts = RankerParts(config, features, rows)
        self._adam = DenseAdam(self._parts.network, config.lr_dense)
        self._training = RankTraining(self._parts, self._adam)

    @classmethod
    def fresh(cls, config: RankConfig, features: Sequence[FeatureConfig] = ()) -> RankLearner:
        """A ranker that has seen nothing. ValueError for features that cannot stand together, or an author
        that is none of them.
        """
        return cls(config, features)

    @classmethod
    def load(cls, files: ModelFiles, name: str) -> RankLearner:
        """The ranker `name` of a bundle, ready to go on training."""
        learner = cls(*described(files.manifest, name))
        parts = load_parts(files, name, [*learner._parts.part_names(), *_TRAINING_PARTS])
        learner._parts.restore(parts)
        learner._adam.restore(parts["adam"])
        counters = [int(value) for value in parts["progress"]["counters"]]
        learner._training.calls, learner._training.passes = counters
        return learner

    @property
    def features(self) -> tuple[FeatureConfig, ...]:
        """The features, the scene among them."""
        return self._parts.features

    def describe(self) -> dict[str, Any]:
        """JSON-able entry of the manifest's `rankers[name]`."""
        return self._parts.describe()

    def save(self) -> dict[str, Tensors]:
        """Everything load() needs: part -> tensors; a bundle keeps a part as
        `rankers/<name>/<part>.safetensors`.
        """
        counters = [self._training.calls, self._training.passes]
        return self._parts.state() | {
            "adam": self._adam.state(),
            "progress": {"counters": np.array(counters, np.int64)},
        }

    def prepare(self, joined: pa.Table, catalogue: CatalogueColumns) -> RankSamples:
        """Samples of joined rows (models/ranking/joined.py); keys of users, items and features get entries.

        An impression with a first and a late row in `joined` is one sample, of the late row. Attributes are
        those of the catalogue, so prepare a stretch before the catalogue moves on. ValueError for a table
        that is not in the form of JOINED.
        """
        table = corrected(checked(joined))
        parts, ts_ms = self._parts, np.array(table["ts_ms"], np.int64)
        users, items = key_array(table["user_id"]), key_array(table["item_id"])
        request, item = self._columns(table, catalogue)
        actions = table["actions"].combine_chunks()
        watch = self.config.watch
        pairs = parts.space.observe(PAIRS, pair_keys(users, request[("context", "scene")]), ts_ms)
        return RankSamples(
            emitted_ms=np.array(table["emitted_ms"], np.int64),
            request=parts.request.entries(users, request, ts_ms, parts.space.observe),
            item=parts.item.entries(items, item, ts_ms, parts.space.observe),
            pair=pairs.astype(np.int32),
            request_numbers=parts.request.features.raw_numbers(request, ts_ms),
            item_numbers=parts.item.features.raw_numbers(item, ts_ms),
            labels=task_labels(self.config, actions),
            watch_s=watch_seconds(watch, actions) if watch else np.zeros(len(table), np.float32),
        )

    def train(self, samples: RankSamples, progress: Progress | None = None) -> dict[str, float]:
        """One pass over `samples` (`epochs_first` in the first call) in the `order` of the configuration,
        counts as of the stretch of each; afterwards the counts hold them all. Returns the mean loss of every
        task and of "watch".

        progress(samples done, of all) after each step. {} for no samples; FloatingPointError for a loss that
        is not finite.
        """
        return self._training.train(samples, progress)

    def expire(self, now_ms: int) -> None:
        """Forget users, items, categories and pairs unseen for `config.expire_after_days` at now_ms (event
        time). Samples that were prepared before are of no use afterwards.
        """
        self._parts.expire(now_ms - round(self.config.expire_after_days * _DAY_MS))

    def predict(self, joined: pa.Table, catalogue: CatalogueColumns) -> dict[str, Float32Array]:
        """Task -> probability float32[N] for every row, "watch_s" and "score" as PublishedRanker.scores();
        nothing moves.
        """
        table = checked(joined)
        ts_ms: Int64Array = np.array(table["ts_ms"], np.int64)
        request, item = self._columns(table, catalogue)
        parts = self._parts
        u = parts.request_rows(key_array(table["user_id"]), request, ts_ms)
        i = parts.item_rows(key_array(table["item_id"]), item)
        return parts.scores(parts.inputs(u, i))

    def encoded(self, keys: pa.Array, catalogue: CatalogueColumns) -> RankItems:
        """Items string[n] as PublishedRanker.items() of the same state would have them."""
        columns = item_columns(self._parts.item.features, catalogue.items, catalogue.item_positions(keys))
        side = self._parts.item_rows(keys, columns)
        return RankItems(*self._parts.embedded(side, self._parts.item.starts))

    def _columns(self, table: pa.Table, catalogue: CatalogueColumns) -> tuple[Columns, Columns]:
        """(user and context columns, item columns) of joined rows."""
        request_features, item_features = self._parts.request.features, self._parts.item.features
        users = catalogue.user_positions(key_array(table["user_id"]))
        request = dict(user_columns(request_features, catalogue.users, users))
        context = table["context"].combine_chunks()
        for name in request_features.reads("context"):
            request["context", name] = pc.map_lookup(context, name, "last")
        request["context", "scene"] = key_array(table["scene"])
        items = catalogue.item_positions(key_array(table["item_id"]))
        return request, item_columns(item_features, catalogue.items, items)
