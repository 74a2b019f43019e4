"""The pre-rank over all candidates, from the full retrain to an answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.bundle import PRERANK_FILE, PRERANK_GATE
from models.item_signals import SIGNALS
from models.published import PublishedModel
from serving.asking import Live
from serving.config import ServingConfig
from serving.live_counts import LiveCounts
from serving.recall import recall
from serving.schema import RecallRequest
from serving.snapshot import Snapshot
from stream.profiles import HistoryEntry, Profile
from tests.updater.test_item_channels import CHANNELS
from tests.updater.world import HOUR, RECIPE, START, UPDATE, World
from updater import retrain


def test_a_server_orders_by_the_network_of_its_bundle(tmp_path: Path) -> None:
    """From retrain to answer: what the bundle holds is what the stage scores with."""
    wanted = World(tmp_path, replace(RECIPE, channels=CHANNELS))
    config = UPDATE.model_copy(update={"prerank": True})
    for hours in ((0, 4), (4, 8)):
        wanted.pass_hours(*hours)
        bundle = wanted.registry.open_bundle(wanted.retrain(config=config))
    names = (*RECIPE.models, *CHANNELS)
    snapshot = Snapshot.load(bundle, PublishedModel.load, names)
    assert snapshot.prerank is not None
    keys = snapshot.popular_keys[:3]
    counts = LiveCounts({key: at for at, key in enumerate(keys)}, np.ones((4, SIGNALS), np.float32))
    serving = ServingConfig.model_validate({"prerank": {"model": "candidates"}})
    history = [HistoryEntry(key, RECIPE.positives[0], START + at, "") for at, key in enumerate(keys)]
    request = RecallRequest("someone", 5, explain=True)
    answer = recall(
        snapshot, request, Profile("someone", history), START + 9 * HOUR, "r", (), serving,
        live=Live(counts=counts),
    )  # fmt: skip
    assert answer.degraded == []
    assert answer.explain is not None
    assert len(answer.items) == 5
    scores = [one.stages["prerank"] for one in answer.explain.items]
    assert scores == sorted(scores, reverse=True)


def test_a_network_that_did_worse_than_the_blend_is_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = {"targets": 9, "loss": 2.0, "loss_of_blend": 1.0, "passed": False}
    monkeypatch.setattr(retrain, "check_prerank", lambda judgement, parent: failed)
    wanted = World(tmp_path, replace(RECIPE, channels=CHANNELS))
    config = UPDATE.model_copy(update={"prerank": True})
    for hours in ((0, 4), (4, 8)):
        wanted.pass_hours(*hours)
        bundle = wanted.registry.open_bundle(wanted.retrain(config=config))
    assert bundle.has(PRERANK_FILE)  # the next training goes on from it
    assert bundle.manifest["gates"][PRERANK_GATE] == failed
    assert Snapshot.load(bundle, PublishedModel.load).prerank is None
