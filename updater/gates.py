"""Checks between a training and its publication: a model that fails one is never served."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from models.arrays import Float32Array
from models.artifact import Artifact
from models.bundle import PRERANK_GATE
from models.prerank import Judgement


class GateFailed(RuntimeError):
    """A freshly trained version must not be published."""


def check_model(name: str, loss: float, vectors: Float32Array, index: Mapping[str, Any]) -> dict[str, Any]:
    """Return the gate results of one model for the manifest; raise GateFailed naming model, expected and got.

    loss: mean of the last epoch (nan only where there was nothing to train); vectors: float32[N, D] of all
    items;
    index: {"kind", "recall", "recall_target", ...} as measured at build time.
    """
    results = {
        "loss": None if math.isnan(loss) else loss,
        "items": len(vectors),
        "finite": bool(np.isfinite(vectors).all()) and not math.isinf(loss),
        "index_recall": index.get("recall"),
    }
    if not results["finite"]:
        raise GateFailed(
            f"model {name}: expected finite loss and item vectors, got loss {loss}; lower lr_rows or lr_dense"
        )
    if not len(vectors):
        raise GateFailed(
            f"model {name}: expected items to recommend, got none; check `positives` against the events"
        )
    if index.get("recall") is not None and index["recall"] < index["recall_target"]:
        raise GateFailed(
            f"model {name}: expected index recall >= {index['recall_target']}, got {index['recall']}"
        )
    return results


def check_prerank(judgement: Judgement | None, parent: Artifact | None) -> dict[str, Any]:
    """Gate results of the pre-rank network for the manifest, the parent's where it was not judged. One that
    does worse than the blend alone is published, for the next training to go on from it, and not served.
    """
    if judgement is None:
        before = parent.manifest.get("gates", {}) if parent else {}
        unknown: dict[str, Any] = before.get(PRERANK_GATE, {"targets": 0, "passed": False})
        return unknown
    return {
        "targets": judgement.targets,
        "loss": judgement.loss,
        "loss_of_blend": judgement.loss_of_blend,
        "passed": judgement.passed,
    }
