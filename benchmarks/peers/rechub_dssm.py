"""torch-rechub DSSM: two towers, binary cross entropy on positives and sampled negatives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch_rechub.models.matching import DSSM

from benchmarks.peers.peer import Known
from benchmarks.peers.rechub import ITEM, FittedTowers, Tables, negatives, samples, seed_all

TOWER = {"dims": [256, 128, 64], "activation": "prelu"}


class RechubDSSM:
    """run_ml_dssm.py: towers 256-128-64 with PReLU, 3 negatives, 10 epochs at 1e-4, batch 4096."""

    name = "rechub_dssm"
    packages = ("torch-rechub", "torch")
    epochs = (5, 10, 20)
    grid = (
        {"lr": 1e-4, "negatives": 3, "method": 1, "batch": 4096},
        {"lr": 1e-3, "negatives": 3, "method": 1, "batch": 1024},
        {"lr": 1e-3, "negatives": 3, "method": 0, "batch": 1024},
        {"lr": 1e-3, "negatives": 10, "method": 0, "batch": 2048},
        {"lr": 1e-3, "negatives": 3, "method": 0, "batch": 1024, "weight_decay": 1e-4},
    )

    def start(self, known: Known, knobs: Mapping[str, Any], seed: int) -> FittedTowers:
        seed_all(seed)
        tables = Tables(known)
        x, each = samples(known, tables), knobs["negatives"]
        drawn = negatives(x[ITEM], knobs)
        label = np.zeros((len(x[ITEM]), 1 + each), np.float32)
        label[:, 0] = 1
        paired = np.concatenate([x[ITEM][:, None], drawn], 1).ravel()
        x = {name: np.repeat(column, 1 + each, axis=0) for name, column in x.items()}
        x[ITEM] = paired
        model = DSSM(
            tables.user_features(),
            tables.item_features(),
            user_params=TOWER,
            item_params=TOWER,
            temperature=0.02,
        )
        optimizer = {"lr": knobs["lr"], "weight_decay": knobs.get("weight_decay", 1e-6)}
        return FittedTowers(
            model, tables, x, label.ravel(), mode=0, optimizer_params=optimizer, batch_size=knobs["batch"]
        )
