"""What the matching models of torch-rechub share: features, samples, trainer, vectors.

As in the project's examples/matching (run_ml_youtube_dnn.py, run_ml_dssm.py): embeddings of width 16, history
of 50 items padded in front and mean-pooled with the item's own table, popularity^0.75 negatives drawn once by
`negative_sample`, Adam of weight decay 1e-6 in `MatchTrainer`. Different from the examples, for the protocol:
- their generate_seq_feature_match keeps each user's last item back as the test; here the test is later in
  time and nothing is kept back, and a history holds what was there before the target's own request;
- padding is masked (padding_idx 0), or a cold user's mean would be made of untrained rows;
- whole batches are taken from their TorchDataset at once; row by row it takes several times as long.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import BatchSampler, DataLoader, RandomSampler
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.trainers import MatchTrainer
from torch_rechub.utils.data import TorchDataset
from torch_rechub.utils.match import negative_sample

from benchmarks.peers.codes import Rows
from benchmarks.peers.peer import UNSCORED, Known
from benchmarks.peers.positives import Int64Array, Moments

WIDTH = 16
ITEM, USER, HISTORY, NEGATIVES = "item_id", "user_id", "hist_item_id", "neg_items"


class Tables:
    """Features of a user and an item over the rows known at a refit."""

    def __init__(self, known: Known) -> None:
        log = known.positives
        self.items = Rows(known.candidates, log.items)
        self.users = Rows(np.unique(log.user[: known.upto]).astype(np.int64), len(log.user_keys))
        self.item_columns = log.items

    def user_features(self) -> list[Any]:
        return [
            SparseFeature(USER, vocab_size=len(self.users), embed_dim=WIDTH),
            SequenceFeature(
                HISTORY, len(self.items), embed_dim=WIDTH, pooling="mean", shared_with=ITEM, padding_idx=0
            ),
        ]

    def item_features(self) -> list[Any]:
        return [SparseFeature(ITEM, vocab_size=len(self.items), embed_dim=WIDTH)]

    def negative_features(self) -> list[Any]:
        return [
            SequenceFeature(NEGATIVES, len(self.items), embed_dim=WIDTH, pooling="concat", shared_with=ITEM)
        ]

    def user_inputs(self, moments: Moments) -> dict[str, Int64Array]:
        return {USER: self.users.of(moments.user), HISTORY: self.items.histories(moments.history)}


def samples(known: Known, tables: Tables) -> dict[str, Int64Array]:
    """One per positive that has a history, as theirs: user, history, item."""
    moments = known.positives.moments(known.rows)
    inputs = tables.user_inputs(moments)
    inputs[ITEM] = tables.items.of(known.positives.item[known.rows])
    some = inputs[HISTORY].any(1)
    return {name: column[some] for name, column in inputs.items()}


def negatives(item: Int64Array, knobs: Mapping[str, Any]) -> Int64Array:
    """int64[n, negatives] by their sampler: method 1 popularity^0.75 as in the examples, method 0 uniform."""
    each = knobs["negatives"]
    counts = OrderedDict(Counter(item.tolist()).most_common())
    return np.asarray(negative_sample(counts, ratio=len(item) * each, method_id=knobs["method"])).reshape(
        -1, each
    )


class FittedTowers:
    """A matching model with its trainer."""

    def __init__(
        self, model: torch.nn.Module, tables: Tables, x: Mapping[str, Any], y: NDArray[Any], **trainer: Any
    ) -> None:
        batch = trainer.pop("batch_size")
        size = len(y) - (len(y) % batch == 1)  # batch norm cannot train on a batch of one
        data = TorchDataset({name: column[:size] for name, column in x.items()}, y[:size])
        batches = BatchSampler(RandomSampler(data), batch, drop_last=False)
        self._batches = DataLoader(data, sampler=batches, batch_size=None)
        self._model, self._tables, self._options = model, tables, trainer
        self._folder = tempfile.TemporaryDirectory()
        self._trainer = MatchTrainer(model, model_path=self._folder.name, **trainer)

    def train(self, epochs: int) -> None:
        """So many epochs more; the trainer keeps its optimizer."""
        self._model.mode = None
        self._trainer.n_epoch = epochs
        quiet = io.StringIO()
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            self._trainer.fit(self._batches)

    def scores(self, moments: Moments) -> NDArray[np.float32]:
        """Cosine of the towers; a moment without a known history is not scored."""
        inputs = self._tables.user_inputs(moments)
        everything = {ITEM: np.arange(1, len(self._tables.items))}
        scores = np.full((len(moments.row), self._tables.item_columns), UNSCORED)
        scores[:, self._tables.items.codes] = (
            self._vectors("user", inputs) @ self._vectors("item", everything).T
        )
        scores[~inputs[HISTORY].any(1)] = UNSCORED
        return scores

    def _vectors(self, tower: str, inputs: Mapping[str, Int64Array]) -> NDArray[np.float32]:
        self._model.eval()
        self._model.mode = tower
        with torch.no_grad():
            vectors = self._model({name: torch.from_numpy(column) for name, column in inputs.items()})
        return vectors.numpy()


def seed_all(seed: int) -> None:
    """Their samplers and initialisers draw from the global generators."""
    np.random.seed(seed)
    torch.manual_seed(seed)
