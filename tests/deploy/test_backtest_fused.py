"""The channel `fused`: what it blends, by brute force; when it learns; and no look into the future."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deploy.backtest.events import event_stream
from deploy.backtest.fused import FusedChannel, lead_start_ms
from deploy.backtest.moment_signals import MomentSignals
from deploy.backtest.run import backtest
from deploy.backtest.targets import Targets, targets_of
from models.affinities import JOINT, Affinities, Sides
from models.blend import Blend, blend_features, with_counts
from models.blend_candidates import Said
from models.feature_config import FeatureConfig
from models.item_signals import NAMES, SIGNALS
from models.moments import Moments
from models.prerank import Prerank, prerank_inputs
from tests.deploy.backtest_data import HOUR, POSITIVES, START, event_table, write_tables
from tests.deploy.test_backtest import lists_of, question

CHANNELS = ("small", "popularity", "item_cf", "fused", "prerank")
OURS = ("fused", "prerank")
SIDES = Sides((FeatureConfig(name="scene", source="context"),))
FROM_MS = START + 40 * HOUR + 11 * 60_000


def table_targets(hours: int = 54) -> Targets:
    """Of the first hours of one and the same table."""
    events = event_table()
    cut = events.filter(events["ts_ms"].to_numpy() < START + hours * HOUR)
    return targets_of(event_stream(cut).events, POSITIVES)


def test_the_lead_is_the_last_quarter_before_the_start() -> None:
    targets = table_targets()
    lead_ms = lead_start_ms(targets, FROM_MS)
    before = targets.ts_ms[targets.ts_ms < FROM_MS]
    assert (before < lead_ms).mean() == pytest.approx(0.75, abs=0.02)
    assert lead_start_ms(targets, int(targets.ts_ms[0])) == targets.ts_ms[0]
    # What happens afterwards does not matter, and a year is not replayed for it.
    assert lead_start_ms(table_targets(42), FROM_MS) == lead_ms
    assert lead_start_ms(targets, FROM_MS + 1000 * 24 * HOUR) == FROM_MS + 993 * 24 * HOUR


def test_answers_by_brute_force() -> None:
    rng = np.random.default_rng(4)
    targets = table_targets()
    n, codes = 6, len(targets.item_keys)
    rows = np.sort(rng.choice(np.arange(200, len(targets)), n, replace=False))
    held = [np.sort(rng.choice(codes, codes - at, replace=False)) for at in (0, 7)]
    said = []
    for at, items in enumerate(held):
        scores = rng.normal(size=(n, len(items))).astype(np.float32)
        known = rng.random(scores.shape) < 0.6 if at else None
        said.append(Said(items, scores, known))
    channel = FusedChannel(("a", "b"), targets, 7, 0)
    blend = channel._blends["s"] = Blend(("a", "b"), rng.normal(size=4).astype(np.float32))
    history = targets.before(rows)
    unseen = np.array([row % 2 == 0 for row in range(n)])
    for scope in ("all", "new"):
        found = channel.answer("s", said, rows, history, unseen, np.zeros(n, bool), scope)
        kept, rank, best = found["fused"].kept, found["fused"].rank, found["fused"].best
        assert kept.tolist() == (list(range(n)) if scope == "all" else np.flatnonzero(unseen).tolist())
        for at, row in enumerate(kept):
            barred = set()
            if scope == "new":
                barred = set(history.items[history.offsets[row] : history.offsets[row + 1]].tolist())
            brought = set()
            for one in said:
                known = np.ones(one.scores.shape, bool) if one.known is None else one.known
                brought |= set(one.codes[known[row]].tolist()) - barred
            union = np.array(sorted(brought))
            scores = np.full((2, len(union)), -np.inf, np.float32)
            for c, one in enumerate(said):
                by_code = dict(zip(one.codes.tolist(), one.scores[row].tolist(), strict=True))
                scores[c] = [by_code.get(code, -np.inf) for code in union.tolist()]
            values = blend_features(scores) @ blend.weights
            order = np.argsort(-values, kind="stable")
            assert best[at].tolist() == union[order[:7]].tolist()
            target = targets.item[rows[row]]
            if target in brought:
                assert rank[at] == pytest.approx(np.flatnonzero(union[order] == target)[0], abs=0.51)
            else:
                assert rank[at] == np.inf


def test_a_pre_rank_orders_what_the_blend_puts_first() -> None:
    rng = np.random.default_rng(7)
    targets, events = table_targets(), event_stream(event_table()).events
    rows = np.sort(rng.choice(np.arange(200, len(targets)), 5, replace=False))
    items = np.arange(len(targets.item_keys))
    said = [Said(items, rng.normal(size=(5, len(items))).astype(np.float32)) for _ in "ab"]
    signals = MomentSignals(events, targets, POSITIVES, SIDES)
    published = affinities_of(rng, targets.item_keys)
    lifts = published.lifts
    known = signals.block(published, moments_of(["s1", "s2", "", "s1", "other"]), rows)
    channel = FusedChannel(("a", "b"), targets, 7, 0, signals)
    blend = channel._blends["s"] = Blend(("a", "b"), rng.normal(size=4).astype(np.float32))
    arguments = ("s", said, rows, targets.before(rows), np.ones(5, bool), np.zeros(5, bool), "all", known)
    untaught = channel.answer(*arguments)
    assert untaught["prerank"].best.tolist() == untaught["fused"].best.tolist()
    width = 1 + 4 + SIGNALS + 1
    random = [rng.normal(size=shape).astype(np.float32) for shape in ((width,), (8, width), (8,), (8,))]
    prerank = Prerank(("a", "b"), signals.named, random[0], np.ones(width, np.float32), *random[1:])
    channel._preranks["s"] = prerank
    found = channel.answer(*arguments)["prerank"]
    for at, row in enumerate(rows):
        features = blend_features(np.stack([one.scores[at] for one in said]))
        read = known.of(at, items)
        counts, lift = read[:, :SIGNALS], read[:, SIGNALS:]
        assert counts.tobytes() == signals.counts(items, int(targets.asked_ms[row])).tobytes()
        by_hand = {0: lifts[0], 1: lifts[1], 3: lifts[0]}.get(at, np.zeros(len(items)))
        assert lift[:, 0].tolist() == by_hand.tolist()
        values = prerank.values(prerank_inputs(features @ blend.weights, features, read))
        assert found.best[at].tolist() == np.argsort(-values, kind="stable")[:7].tolist()
        assert found.rank[at] == (values > values[targets.item[row]]).sum()


def test_counts_are_blended_by_brute_force_and_learned_from() -> None:
    rng = np.random.default_rng(9)
    targets, events = table_targets(), event_stream(event_table()).events
    rows = np.sort(rng.choice(np.arange(200, len(targets)), 6, replace=False))
    items = np.arange(len(targets.item_keys))
    said = [Said(items, rng.normal(size=(6, len(items))).astype(np.float32)) for _ in "ab"]
    signals = MomentSignals(events, targets, POSITIVES, Sides(()))
    known = signals.block(Affinities(), moments_of([""] * 6), rows)
    channel = FusedChannel(("a", "b"), targets, 7, 0, signals, counts=True, prerank=False)
    every = ("a", "b", *NAMES)
    blend = channel._blends["s"] = Blend(every, rng.normal(size=2 * len(every)).astype(np.float32))
    learn = np.arange(6) < 4
    found = channel.answer("s", said, rows, targets.before(rows), np.ones(6, bool), learn, "all", known)
    assert set(found) == {"fused"}
    for at, row in enumerate(rows):
        earlier = events.filter(events["ts_ms"].to_numpy() < targets.asked_ms[row])
        # Of a stream that ends where the request begins.
        counts = MomentSignals(earlier, targets, POSITIVES, Sides(())).counts(
            items, int(targets.asked_ms[row])
        )
        assert counts.any()
        features = blend_features(with_counts(np.stack([one.scores[at] for one in said]), counts))
        values = features @ blend.weights
        assert found["fused"].best[at].tolist() == np.argsort(-values, kind="stable")[:7].tolist()
        if learn[at]:
            assert channel._rows["s"].features[at].tobytes() == features.tobytes()
    first = FusedChannel(("a", "b"), targets, 7, 0, signals, counts=True)._blend("s")
    assert first.channels == every
    assert first.weights.tolist() == [0.5, 0.5] + [0] * (2 * len(every) - 2)


def affinities_of(rng: np.random.Generator, items: pa.Array) -> Affinities:
    """Of two scenes."""
    drawn = rng.normal(size=(2, len(items))).astype(np.float16)
    names = pa.array([f"context.scene{JOINT}{name}" for name in ("s1", "s2")])
    return Affinities(SIDES, names, items, drawn, np.empty((len(items), 0), np.int32))


def moments_of(scenes: list[str]) -> Moments:
    n = len(scenes)
    nothing = pa.array([], pa.string())
    zeros = np.zeros(n + 1, np.int64)
    context = {"scene": pa.array(scenes)}
    return Moments(pa.array(["u"] * n), zeros[:n], nothing, zeros, zeros[:0], context)


def test_signals_stop_before_the_request(tables: dict[str, Path]) -> None:
    """What the request itself showed, and all that came later, is not known when it is asked."""
    events = event_stream(pq.read_table(tables["events"])).events
    targets = targets_of(events, POSITIVES)
    whole = MomentSignals(events, targets, POSITIVES, Sides(()))
    request, ts_ms = (events[name].to_numpy() for name in ("request_id", "ts_ms"))
    every = np.arange(len(targets.item_keys))
    for row in np.random.default_rng(2).choice(len(targets), 12, replace=False):
        asked_ms = targets.asked_ms[row]
        earlier = events.filter(ts_ms < asked_ms)
        cut = MomentSignals(earlier, targets, POSITIVES, Sides(()))
        assert whole.counts(every, asked_ms).tobytes() == cut.counts(every, asked_ms).tobytes()
        of_its_own = (ts_ms == targets.ts_ms[row]) & (request != "")
        begins = [ts_ms[request == name].min() for name in np.unique(request[of_its_own])]
        assert asked_ms in [*begins, targets.ts_ms[row]]


def test_a_day_is_learned_from_its_own_content() -> None:
    long, short = (FusedChannel(("a",), table_targets(hours), 5, 3) for hours in (54, 48))
    day = (START + 20 * HOUR, START + 48 * HOUR)
    assert long.rows_of_day(*day).tolist() == short.rows_of_day(*day).tolist()


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_tables(tmp_path_factory.mktemp("tables"), event_table())


def test_it_blends_what_it_is_asked_beside_and_says_how(tables: dict[str, Path], tmp_path: Path) -> None:
    config = tmp_path / "counts.toml"
    asked = question(
        tables, tmp_path, channels=CHANNELS, strategies=("frozen", "hourly"), start_ms=FROM_MS, k=60
    )
    config.write_text(f"{asked.config.read_text()}\n[update]\nblend_counts = true\n")
    figures = backtest(replace(asked, config=config))
    assert figures["about"]["blended"] == ["small", "popularity", "item_cf"]
    for strategy in ("frozen", "hourly"):
        weights = np.array(list(figures["about"]["blend"][strategy].values()))
        assert list(figures["about"]["blend"][strategy]) == ["small", "popularity", "item_cf", *NAMES]
        assert weights.shape == (3 + SIGNALS, 2)
        assert not np.allclose(weights[:3], [1 / 3, 0])  # it has learned before it was asked
        assert weights[3:].any()
        shown = figures["metrics"][strategy]
        assert set(shown) == set(CHANNELS)
        assert shown["fused"]["all"]["n"] == shown["small"]["all"]["n"]
    for (row, strategy, channel, scope), (items, _) in lists_of(tmp_path).items():
        if channel in OURS:
            assert len(set(items)) == len(items) > 10
            single = lists_of_row(tmp_path, row, strategy, scope)
            assert set(items) <= single
            break


def lists_of_row(out: Path, row: int, strategy: str, scope: str) -> set[str]:
    """All that the single channels named for one target."""
    return {
        item
        for key, (items, _) in lists_of(out).items()
        if key[0] == row and key[1] == strategy and key[3] == scope and key[2] not in OURS
        for item in items
    }


def test_the_other_channels_answer_as_without_it(tables: dict[str, Path], tmp_path: Path) -> None:
    for name, channels in (("with", CHANNELS), ("without", CHANNELS[:-2])):
        backtest(
            question(
                tables, tmp_path / name, channels=channels, strategies=("frozen", "hourly"), start_ms=FROM_MS
            )
        )
    blended, plain = lists_of(tmp_path / "with"), lists_of(tmp_path / "without")
    assert {key: made for key, made in blended.items() if key[2] not in OURS} == plain


def test_it_reads_counts_where_no_pre_rank_does_or_as_it_is_told(
    tables: dict[str, Path], tmp_path: Path
) -> None:
    configs = {told: tmp_path / f"{told}.toml" for told in ("true", "false")}
    settings: dict[str, dict[str, Any]] = {
        "both": {"channels": CHANNELS},
        "both, told to": {"channels": CHANNELS, "config": configs["true"]},
        "fused": {"channels": CHANNELS[:-1]},
        "no counts": {"channels": CHANNELS[:-1], "config": configs["false"]},
    }
    asked = {
        name: question(tables, tmp_path / name, strategies=("hourly",), start_ms=FROM_MS, **changes)
        for name, changes in settings.items()
    }
    for told, config in configs.items():
        config.write_text(f"{asked['both'].config.read_text()}\n[update]\nblend_counts = {told}\n")
    figures = {name: backtest(one) for name, one in asked.items()}
    fused = {
        name: {key: made for key, made in lists_of(tmp_path / name).items() if key[2] == "fused"}
        for name in asked
    }
    assert fused["both, told to"] == fused["fused"] != fused["no counts"] == fused["both"]
    assert list(figures["no counts"]["about"]["blend"]["hourly"]) == ["small", "popularity", "item_cf"]


def test_alone_it_blends_the_configurations_channels(tables: dict[str, Path], tmp_path: Path) -> None:
    figures = backtest(
        question(tables, tmp_path, channels=("fused",), strategies=("daily",), start_ms=FROM_MS)
    )
    assert figures["about"]["blended"] == ["small", "popularity", "own_items"]
    assert set(figures["metrics"]["daily"]) == {"fused"}


def test_the_future_changes_no_list(tables: dict[str, Path], tmp_path: Path) -> None:
    """Everything after a moment of the second day is cut away: blends, candidates and lists stay."""
    moment_ms = START + 49 * HOUR + 40 * 60_000
    changes = {"channels": CHANNELS, "strategies": ("daily", "hourly"), "start_ms": FROM_MS}
    backtest(question(tables, tmp_path / "whole", **changes))
    events = pq.read_table(tables["events"])
    cut = write_tables(tmp_path, events.filter(events["ts_ms"].to_numpy() <= moment_ms))
    backtest(question(cut, tmp_path / "part", **changes))
    whole, part = lists_of(tmp_path / "whole"), lists_of(tmp_path / "part")
    targets = targets_of(event_stream(events).events, POSITIVES)
    same = {key: made for key, made in whole.items() if targets.ts_ms[key[0]] <= moment_ms}
    assert max(targets.ts_ms[key[0]] for key in same) > START + 48 * HOUR
    assert {key: part[key] for key in same} == same
