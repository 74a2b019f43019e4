"""RecBole SASRec: causal self-attention over the history, softmax over all items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.peers.peer import Known
from benchmarks.peers.recbole_fit import FittedRecBole


class RecBoleSASRec:
    """properties/model/SASRec.yaml: 2 layers of 2 heads, width 64, dropout 0.5, cross entropy."""

    name = "recbole_sasrec"
    packages = ("recbole", "torch")
    epochs = (5, 10, 20, 40)
    grid = (
        {"learning_rate": 1e-3, "train_batch_size": 2048},
        {"learning_rate": 1e-3, "train_batch_size": 256},
        {
            "learning_rate": 1e-3,
            "train_batch_size": 256,
            "hidden_dropout_prob": 0.2,
            "attn_dropout_prob": 0.2,
        },
    )

    def start(self, known: Known, knobs: Mapping[str, Any], seed: int) -> FittedRecBole:
        return FittedRecBole("SASRec", known, {"train_neg_sample_args": None, **knobs}, seed)
