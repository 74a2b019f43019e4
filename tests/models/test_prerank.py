"""The pre-rank network: its values by hand, what it learns beyond the blend, and that it can be repeated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from models.blend import Blend
from models.blend_fit import BlendRows
from models.prerank import HIDDEN, Prerank, prerank_inputs
from models.prerank_fit import CANDIDATES, fit_prerank, judged_fit

CHANNELS = ("a", "b")
SIGNALS = ("x", "y", "z")
BLEND = Blend(CHANNELS, np.array([1, 0.5, 0.1, 0], np.float32))


def rows_of(targets: int, seed: int, candidates: int = 60) -> BlendRows:
    """Targets of which a channel knows little, and the second signal much: it must not be too high."""
    rng = np.random.default_rng(seed)
    rows = BlendRows(CHANNELS, SIGNALS)
    for _ in range(targets):
        scores = rng.normal(size=(2, candidates)).astype(np.float32)
        signals = rng.normal(size=(candidates, 3)).astype(np.float32)
        value = scores[0] - 3 * np.abs(signals[:, 1]) + rng.gumbel(size=candidates)
        rows.add(scores, int(value.argmax()), signals)
    return rows


def mean_ranks(prerank: Prerank, rows: BlendRows) -> tuple[float, float]:
    """Of the targets by the blend, and by the network."""
    ranks = []
    for features, signals, place in zip(rows.features, rows.signals, rows.place, strict=True):
        blended = features @ BLEND.weights
        values = prerank.values(prerank_inputs(blended, features, signals))
        ranks.append([(blended > blended[place]).sum(), (values > values[place]).sum()])
    blended_rank, own_rank = np.mean(ranks, axis=0)
    return float(blended_rank), float(own_rank)


def fitted(rows: BlendRows, seed: int = 0, before: Prerank | None = None) -> Prerank:
    prerank = fit_prerank(before, BLEND, rows, seed)
    assert prerank is not None
    return prerank


def test_values_by_hand() -> None:
    prerank = Prerank(
        ("a",),
        ("x",),
        mean=np.array([0, 1, 0, 2], np.float32),
        deviation=np.array([1, 2, 1, 0.1], np.float32),
        w1=np.array([[1, 0, 0, 0], [0, 1, 0, 1]], np.float32),
        b1=np.array([-0.5, 0], np.float32),
        w2=np.array([2, -1], np.float32),
    )
    # scaled: [2, (3 - 1) / 2, 0, (4 - 2) / 0.1 -> 5]; hidden: [1.5, 6]
    inputs = prerank_inputs(np.array([2.0], np.float32), np.array([[3, 0]]), np.array([[4]]))
    assert prerank.values(inputs).tolist() == [2 + 2 * 1.5 - 6]


def test_it_learns_what_no_channel_says() -> None:
    prerank = fitted(rows_of(800, 0))
    blended, own = mean_ranks(prerank, rows_of(300, 1))
    assert own < 0.75 * blended
    again = fitted(rows_of(800, 0))
    assert all(again.tensors()[name].tobytes() == part.tobytes() for name, part in prerank.tensors().items())


def test_before_it_learned_it_says_what_the_blend_says() -> None:
    rows = rows_of(40, 0)
    prerank = fitted(rows)
    untaught = replace(prerank, w2=np.zeros(HIDDEN, np.float32))
    blended, own = mean_ranks(untaught, rows)
    assert own == blended


def test_it_goes_on_from_the_weights_before_but_not_from_other_channels() -> None:
    first, few, test = fitted(rows_of(800, 0)), rows_of(40, 2), rows_of(300, 1)
    onwards = fitted(few, before=first)
    assert mean_ranks(onwards, test)[1] < mean_ranks(fitted(few), test)[1]
    assert onwards.mean.tobytes() == first.mean.tobytes()
    other = replace(first, channels=("a",))
    assert fitted(few, before=other).w1.tobytes() == fitted(few).w1.tobytes()


def test_targets_behind_the_first_candidates_teach_nothing() -> None:
    rows = BlendRows(CHANNELS, SIGNALS)
    scores = np.stack([np.arange(CANDIDATES + 5, 0, -1)] * 2).astype(np.float32)
    rows.add(scores, CANDIDATES + 1, np.zeros((CANDIDATES + 5, 3), np.float32))
    assert fit_prerank(None, BLEND, rows, 0) is None
    rows.add(scores, 3, np.zeros((CANDIDATES + 5, 3), np.float32))
    assert fit_prerank(None, BLEND, rows, 0) is not None


def test_round_trip_and_what_does_not_fit() -> None:
    prerank = fitted(rows_of(30, 0))
    again = Prerank.from_tensors(prerank.tensors())
    assert again.channels == CHANNELS
    assert all(again.tensors()[name].tobytes() == part.tobytes() for name, part in prerank.tensors().items())
    with pytest.raises(ValueError, match="pre-rank: w2: expected finite"):
        Prerank.from_tensors({**prerank.tensors(), "w2": np.full(HIDDEN, np.nan, np.float32)})


def test_it_is_judged_by_what_it_has_not_learned_from() -> None:
    rows = rows_of(500, 0)
    judgement = judged_fit(None, BLEND, rows, 3)
    assert judgement is not None
    assert judgement.passed
    assert judgement.targets == 100
    network = fit_prerank(None, BLEND, rows.take(range(400)), 3)
    assert network is not None
    losses, blended = [], []
    for at in range(400, 500):
        features, place = rows.features[at], rows.place[at]
        of_blend = torch.from_numpy(features @ BLEND.weights)
        values = network.values(prerank_inputs(of_blend.numpy(), features, rows.signals[at]))
        losses.append(float(cross_entropy(torch.from_numpy(values)[None], torch.tensor([place]))))
        blended.append(float(cross_entropy(of_blend[None], torch.tensor([place]))))
    assert judgement.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert judgement.loss_of_blend == pytest.approx(np.mean(blended), rel=1e-5)
    # What was true of the older targets is false of the newer: worse than the blend.
    turned = BlendRows(CHANNELS, SIGNALS)
    for at, (features, signals) in enumerate(zip(rows.features, rows.signals, strict=True)):
        sign = 1 if at < 400 else -1
        value = features @ BLEND.weights + sign * 3 * signals[:, 0]
        turned.features.append(features)
        turned.signals.append(signals)
        turned.place.append(int(value.argmax()))
    misled = judged_fit(None, BLEND, turned, 3)
    assert misled is not None
    assert not misled.passed
    assert judged_fit(None, BLEND, BlendRows(CHANNELS, SIGNALS), 3) is None
