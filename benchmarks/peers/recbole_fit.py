"""What the models of RecBole share: its data set, sampler, loader and trainer over one refit's positives.

As in its documentation (properties/overall.yaml): Adam at 1e-3, batches of 2048, one uniform negative where a
model takes negatives. Early stopping would need data held back from the newest day, so the number of epochs
is tuned instead, and the batch, since 2048 leaves a small stream a handful of steps. Sequences are as long as
99% of the known histories need (its 50 at most): it pads all to one length, and pays for the padding.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from benchmarks.peers.codes import Rows
from benchmarks.peers.peer import UNSCORED, Known
from benchmarks.peers.positives import Int64Array, Moments
from benchmarks.peers.recbole_shims import no_command_line  # first of all that touches recbole

# isort: split
from recbole.config import Config
from recbole.data.dataloader import TrainDataLoader
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.data.interaction import Interaction
from recbole.sampler import Sampler
from recbole.utils import get_model, get_trainer, init_seed

COLUMNS = {"user_id": "user_id:token", "item_id": "item_id:token", "timestamp": "timestamp:float"}
NAME = "refit"


class RequestSequences(SequentialDataset):
    """Its own sequences end at the previous event, which may belong to the same request (a basket); here a
    sequence ends before the target's request, in training as in the test. Set `sequences` before building.
    """

    sequences: tuple[Int64Array, Int64Array]
    """(int64[n, L] item rows, oldest first, zeros behind; int64[n] sizes), one for each interaction."""

    def data_augmentation(self) -> None:
        """Replaces the one-per-prefix loop by the given ones; those without a history are left out."""
        self._aug_presets()
        lists, sizes = self.sequences
        some = np.flatnonzero(sizes)
        kept = self.inter_feat[some]
        columns = {
            self.item_id_list_field: torch.from_numpy(lists[some]),
            self.item_list_length_field: torch.from_numpy(sizes[some]),
        }
        kept.update(Interaction(columns))
        self.inter_feat = kept


class FittedRecBole:
    """A model of RecBole with its trainer, over the positives known at a refit."""

    def __init__(self, model: str, known: Known, knobs: Mapping[str, Any], seed: int) -> None:
        log = known.positives
        histories = log.moments(known.rows).history
        self._longest = max(1, int(np.percentile((histories >= 0).sum(1), 99)))
        knobs = {"MAX_ITEM_LIST_LENGTH": self._longest, **knobs}
        with tempfile.TemporaryDirectory() as folder:
            self.config = _config(model, Path(folder), knobs, seed)
            _write(known, Path(folder) / NAME)
            init_seed(self.config["seed"], self.config["reproducibility"])
            self.dataset = (RequestSequences if self.sequential else Dataset)(self.config)
        self.item_columns = log.items
        self.items = _rows(self.dataset, "item_id", log.items)
        self.users = _rows(self.dataset, "user_id", len(log.user_keys))
        if self.sequential:
            self.dataset.sequences = self._sequences(histories)
        train = self.dataset.build()[0]
        sampler = None
        if self.config["train_neg_sample_args"]["distribution"] != "none":
            sampler = Sampler(["train"], [train]).set_phase("train")
        self._batches = TrainDataLoader(self.config, train, sampler, shuffle=True)
        init_seed(self.config["seed"], self.config["reproducibility"])
        self.model = get_model(model)(self.config, train).to(self.config["device"])
        self._trainer = get_trainer(self.config["MODEL_TYPE"], model)(self.config, self.model)
        self._trainer.epochs = 0

    @property
    def sequential(self) -> bool:
        """Whether it learns from sequences."""
        return self.config["MODEL_TYPE"].name == "SEQUENTIAL"

    def train(self, epochs: int) -> None:
        """So many epochs more; the trainer keeps its optimizer."""
        self._trainer.start_epoch, self._trainer.epochs = self._trainer.epochs, self._trainer.epochs + epochs
        self._trainer.fit(self._batches, verbose=False, saved=False, show_progress=False)

    def scores(self, moments: Moments) -> NDArray[np.float32]:
        """Its full_sort_predict; moments without a known history (a general model: user) are not scored."""
        lists, sizes = self._sequences(moments.history)
        users = self.users.of(moments.user)
        known = sizes > 0 if self.sequential else users > 0
        asked = Interaction(
            {
                "user_id": torch.from_numpy(users),
                "item_id_list": torch.from_numpy(lists),
                "item_length": torch.from_numpy(np.maximum(sizes, 1)),
            }
        )
        self.model.eval()
        with torch.no_grad():
            answer = self.model.full_sort_predict(asked.to(self.config["device"]))
        scores = np.full((len(users), self.item_columns), UNSCORED)
        scores[:, self.items.codes] = answer.view(len(users), -1)[:, 1:].numpy()
        scores[~known] = UNSCORED
        return scores

    def _sequences(self, histories: NDArray[np.int32]) -> tuple[Int64Array, Int64Array]:
        """(int64[n, longest] table rows, oldest first, zeros behind; int64[n] sizes)."""
        rows = self.items.histories(histories)[:, -self._longest :]
        rows = np.take_along_axis(rows, np.argsort(rows == 0, axis=1, kind="stable"), 1)
        return rows, (rows != 0).sum(1)


def _rows(dataset: Dataset, column: str, of: int) -> Rows:
    # RecBole numbers tokens itself, from 1; its tokens here are our codes.
    return Rows(np.array(dataset.field2id_token[column][1:], np.int64), of)


def _config(model: str, folder: Path, knobs: Mapping[str, Any], seed: int) -> Config:
    settings = {
        "data_path": str(folder),
        "checkpoint_dir": str(folder),
        "seed": seed,
        "use_gpu": False,
        "show_progress": False,
        "load_col": {"inter": list(COLUMNS)},
        "eval_args": {"split": {"RS": [1, 0, 0]}, "order": "TO", "group_by": "none", "mode": "full"},
        **knobs,
    }
    with no_command_line():
        return Config(model=model, dataset=NAME, config_dict=settings)


def _write(known: Known, folder: Path) -> None:
    """As RecBole's atomic file. Times are the rows' own numbers: it keeps times as float32, in which
    neighbouring milliseconds are one.
    """
    log, rows = known.positives, known.rows
    table = pd.DataFrame({"user_id": log.user[rows], "item_id": log.item[rows], "timestamp": rows - rows[0]})
    folder.mkdir()
    table.rename(columns=COLUMNS).to_csv(folder / f"{NAME}.inter", sep="\t", index=False)
