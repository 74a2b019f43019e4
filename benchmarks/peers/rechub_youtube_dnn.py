"""torch-rechub YoutubeDNN: user tower over id and pooled history, softmax over sampled negatives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch_rechub.models.matching import YoutubeDNN

from benchmarks.peers.peer import Known
from benchmarks.peers.rechub import ITEM, NEGATIVES, FittedTowers, Tables, negatives, samples, seed_all


class RechubYoutubeDNN:
    """run_ml_youtube_dnn.py: 128-64-16, temperature .02, 3 negatives, 10 epochs at 1e-4, batch 2048."""

    name = "rechub_youtube_dnn"
    packages = ("torch-rechub", "torch")
    epochs = (5, 10, 20, 40)
    grid = (
        {"lr": 1e-4, "negatives": 3, "method": 1, "batch": 2048},
        {"lr": 1e-3, "negatives": 3, "method": 1, "batch": 256},
        {"lr": 1e-3, "negatives": 3, "method": 0, "batch": 256},
        {"lr": 1e-3, "negatives": 20, "method": 0, "batch": 256},
        {"lr": 1e-3, "negatives": 100, "method": 0, "batch": 256},
        {"lr": 5e-3, "negatives": 20, "method": 0, "batch": 1024},
        {"lr": 1e-3, "negatives": 20, "method": 0, "batch": 256, "weight_decay": 1e-4},
    )

    def start(self, known: Known, knobs: Mapping[str, Any], seed: int) -> FittedTowers:
        seed_all(seed)
        tables = Tables(known)
        x = samples(known, tables)
        x[NEGATIVES] = negatives(x[ITEM], knobs)
        model = YoutubeDNN(
            tables.user_features(),
            tables.item_features(),
            tables.negative_features(),
            user_params={"dims": [128, 64, 16]},
            temperature=0.02,
        )
        label = np.zeros(len(x[ITEM]), np.int64)  # the positive is the first of each list
        optimizer = {"lr": knobs["lr"], "weight_decay": knobs.get("weight_decay", 1e-6)}
        return FittedTowers(
            model, tables, x, label, mode=2, optimizer_params=optimizer, batch_size=knobs["batch"]
        )
