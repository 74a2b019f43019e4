"""How fast models of torch-rechub train with its own trainer: one epoch each time it is asked.

python -m benchmarks.peers.rechub_speed DATA.npz OPTIONS   (by benchmarks/train.py, in the peers' environment)

history int64[n, L] and target int64[n] are item rows from 1. As in the project's examples: mean pooling in
the item's own table, cosine, dense Adam of MatchTrainer; YoutubeDNN with negatives drawn by list, DSSM with
PReLU and negatives of its batch. Whole batches are taken from their TorchDataset at once: row by row it takes
several times as long.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.models.matching import DSSM, YoutubeDNN
from torch_rechub.trainers import MatchTrainer
from torch_rechub.utils.data import TorchDataset

from benchmarks.worker import work

ITEM, HISTORY, NEGATIVES = "item_id", "hist_item_id", "neg_items"
TEMPERATURE = 0.02


def main(data: str, options: str) -> None:
    """options: model, rows, width, hidden, batch, negatives, threads."""
    given = json.loads(options)
    torch.set_num_threads(given["threads"])
    torch.manual_seed(7)
    arrays = np.load(data)
    x = {HISTORY: arrays["history"], ITEM: arrays["target"]}
    n = len(arrays["target"])
    if given["model"] == "DSSM":
        model, trained = dssm(given), {"in_batch_neg": True, "in_batch_neg_ratio": given["negatives"]}
    else:
        model, trained = youtube_dnn(given), {}
        x[NEGATIVES] = np.random.default_rng(7).integers(1, given["rows"], (n, given["negatives"]))
    dataset = TorchDataset(x, np.zeros(n, np.int64))  # the positive is the first of each list
    batches = BatchSampler(RandomSampler(dataset), given["batch"], drop_last=False)
    loader = DataLoader(dataset, sampler=batches, batch_size=None)
    with tempfile.TemporaryDirectory() as folder:
        optimizer = {"lr": 1e-3, "weight_decay": 1e-6}
        trainer = MatchTrainer(
            model, mode=2, optimizer_params=optimizer, n_epoch=1, model_path=folder, **trained
        )

        def epoch() -> float:
            began = time.perf_counter()
            trainer.fit(loader)
            return time.perf_counter() - began

        work(epoch)


def youtube_dnn(given: dict[str, Any]) -> torch.nn.Module:
    """A user tower over the pooled history against item rows."""
    negatives = SequenceFeature(
        NEGATIVES, given["rows"], embed_dim=given["width"], pooling="concat", shared_with=ITEM
    )
    tower = {"dims": [*given["hidden"], given["width"]]}
    return YoutubeDNN(
        [_history(given)], [_item(given)], [negatives], user_params=tower, temperature=TEMPERATURE
    )


def dssm(given: dict[str, Any]) -> torch.nn.Module:
    """Two towers, over the pooled history and over the item's row."""
    tower = {"dims": [*given["hidden"], given["width"]], "activation": "prelu"}
    return DSSM(
        [_history(given)], [_item(given)], user_params=tower, item_params=tower, temperature=TEMPERATURE
    )


def _history(given: dict[str, Any]) -> SequenceFeature:
    return SequenceFeature(
        HISTORY, given["rows"], embed_dim=given["width"], pooling="mean", padding_idx=0, shared_with=ITEM
    )


def _item(given: dict[str, Any]) -> SparseFeature:
    return SparseFeature(ITEM, vocab_size=given["rows"], embed_dim=given["width"])


if __name__ == "__main__":
    main(*sys.argv[1:])
