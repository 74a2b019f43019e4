"""RecBole BPR: matrix factorisation on pairs of a positive and a sampled negative."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.peers.peer import Known
from benchmarks.peers.recbole_fit import FittedRecBole


class RecBoleBPR:
    """properties/model/BPR.yaml: width 64, one uniform negative. Live history does not reach it: a user is
    the row of the last refit, and users since then get the popularity list.
    """

    name = "recbole_bpr"
    packages = ("recbole", "torch")
    epochs = (10, 20, 40, 80)
    grid = (
        {"learning_rate": 1e-3, "train_batch_size": 2048},
        {"learning_rate": 1e-3, "train_batch_size": 256},
        {"learning_rate": 5e-3, "train_batch_size": 256},
        {"learning_rate": 1e-3, "train_batch_size": 256, "weight_decay": 1e-5},
    )

    def start(self, known: Known, knobs: Mapping[str, Any], seed: int) -> FittedRecBole:
        return FittedRecBole("BPR", known, knobs, seed)
