"""How fast torch-rechub's YoutubeDNN trains with its own trainer: one epoch each time it is asked.

python -m benchmarks.peers.rechub_speed DATA.npz OPTIONS   (by benchmarks/train.py, in the peers' environment)

history int64[n, L] and target int64[n] are item rows from 1. As in the project's example: mean pooling in the
item's own table, three negatives by list, cosine, dense Adam of MatchTrainer. Whole batches are taken from
their TorchDataset at once: row by row it takes several times as long.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.models.matching import YoutubeDNN
from torch_rechub.trainers import MatchTrainer
from torch_rechub.utils.data import TorchDataset

from benchmarks.worker import work

ITEM, HISTORY, NEGATIVES = "item_id", "hist_item_id", "neg_items"
TEMPERATURE = 0.02


def main(data: str, options: str) -> None:
    """options: rows, width, hidden, batch, negatives, threads."""
    given = json.loads(options)
    torch.set_num_threads(given["threads"])
    torch.manual_seed(7)
    arrays = np.load(data)
    rows, width, n = given["rows"], given["width"], len(arrays["target"])
    drawn = np.random.default_rng(7).integers(1, rows, (n, given["negatives"]))
    x = {HISTORY: arrays["history"], ITEM: arrays["target"], NEGATIVES: drawn}
    shared = {"embed_dim": width, "shared_with": ITEM}
    model = YoutubeDNN(
        [SequenceFeature(HISTORY, rows, pooling="mean", padding_idx=0, **shared)],
        [SparseFeature(ITEM, vocab_size=rows, embed_dim=width)],
        [SequenceFeature(NEGATIVES, rows, pooling="concat", **shared)],
        user_params={"dims": [*given["hidden"], width]},
        temperature=TEMPERATURE,
    )
    dataset = TorchDataset(x, np.zeros(n, np.int64))  # the positive is the first of each list
    batches = BatchSampler(RandomSampler(dataset), given["batch"], drop_last=False)
    loader = DataLoader(dataset, sampler=batches, batch_size=None)
    with tempfile.TemporaryDirectory() as folder:
        optimizer = {"lr": 1e-3, "weight_decay": 1e-6}
        trainer = MatchTrainer(model, mode=2, optimizer_params=optimizer, n_epoch=1, model_path=folder)

        def epoch() -> float:
            began = time.perf_counter()
            trainer.fit(loader)
            return time.perf_counter() - began

        work(epoch)


if __name__ == "__main__":
    main(*sys.argv[1:])
