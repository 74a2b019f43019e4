"""What a pre-rank network reads of what users met is the same in training, in a backtest and in a server."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from deploy.backtest.events import event_stream
from deploy.backtest.moment_signals import MomentSignals
from deploy.backtest.targets import targets_of
from deploy.config import Config
from models.affinity_counts import AffinityCounts
from models.catalogue_columns import CatalogueColumns
from models.feature_config import FeatureConfig
from models.item_signals import ItemSignals
from models.moments import Moments
from models.prerank import Prerank
from serving.channels.contract import Ask
from serving.live_counts import LiveCounts
from serving.stages import CandidateRanker
from stream.profiles import HistoryEntry, Profile
from updater.request_signals import HORIZON_MS, RequestSignals

HOUR = 3_600_000
KINDS = ("click", "impression")
FEATURES = (FeatureConfig(name="scene", source="context"),)
START = 100 * HORIZON_MS
NETWORK = Prerank((), (), *(np.zeros(shape, np.float32) for shape in ((1,), (1,), (1, 1), (1,), (1,))))


def table(n: int = 2500) -> pa.Table:
    """Of 20 users and 30 items, in requests of an impression and often a click, over twenty days."""
    rng = np.random.default_rng(7)
    begins = np.sort(START + rng.integers(0, 20 * 24 * HOUR, n))
    rows = []
    for at, ts_ms in enumerate(begins.tolist()):
        user, item = f"u{rng.integers(20)}", f"i{rng.integers(30)}"
        same = {"user_id": user, "item_id": item, "scene": f"s{rng.integers(3)}", "request_id": f"r{at}"}
        rows.append({"ts_ms": ts_ms, "kind": "impression", **same})
        if rng.random() < 0.5:
            rows.append({"ts_ms": ts_ms + 400, "kind": "click", **same})
    rows.sort(key=lambda row: row["ts_ms"])
    return pa.Table.from_pylist(rows).append_column("value", pa.array(np.ones(len(rows))))


def profile_of(events: pa.Table, user: str) -> Profile:
    history = [
        HistoryEntry(row["item_id"], row["kind"], row["ts_ms"], row["request_id"])
        for row in events.to_pylist()
        if row["user_id"] == user
    ]
    return Profile(user, history)


def test_all_three_read_the_same() -> None:
    events = event_stream(table()).events
    ts_ms = np.array(events["ts_ms"], np.int64)
    cut_ms = START + 15 * 24 * HOUR
    targets = targets_of(events, ("click",))
    rows = np.flatnonzero(targets.asked_ms >= cut_ms)[::40]
    asked_ms = targets.asked_ms[rows]
    users = targets.user_keys.take(pa.array(targets.user[rows]))
    zeros = np.zeros(len(rows) + 1, np.int64)
    scenes = {"scene": pa.array(["s1"] * len(rows))}
    moments = Moments(users, targets.ts_ms[rows], pa.array([], pa.string()), zeros, zeros[:0], scenes)

    catalogue = CatalogueColumns()
    before, after = (AffinityCounts(FEATURES, 12 * HOUR, KINDS) for _ in range(2))
    earlier = events.filter(ts_ms < cut_ms)
    for one in (before, after):
        one.observe(earlier, catalogue)
    stretch = events.filter(ts_ms >= cut_ms)
    ends = (np.array(stretch["ts_ms"], np.int64) // HOUR + 1) * HOUR
    stretch = stretch.append_column("interval_end_ms", pa.array(ends))
    training = RequestSignals(events, ("click",), before, [(stretch, catalogue)])
    keys = targets.item_keys
    training.ask(keys, moments, asked_ms)
    backtest = MomentSignals(events, targets, ("click",), before.sides)
    every = np.arange(len(keys))

    observed = cut_ms
    for at, now_ms in enumerate(asked_ms.tolist()):
        until = now_ms // HOUR * HOUR
        after.observe(events.filter((ts_ms >= observed) & (ts_ms < until)), catalogue)
        observed = max(observed, until)
        published = after.published()
        read = training.of(every, at, now_ms)
        known = backtest.block(published, _part(moments, at), rows[at : at + 1])
        np.testing.assert_allclose(known.of(0, every), read, rtol=1e-6, atol=1e-6)
        past = events.filter(ts_ms < now_ms)
        counted = ItemSignals(("click",))
        counted.observe(past)
        user = users[at].as_py()
        ask = Ask(user, now_ms, {"scene": "s1"}, profile_of(past, user), frozenset())
        server = CandidateRanker(NETWORK, LiveCounts.as_of(counted, now_ms), published)
        assert server.named == training.named == backtest.named
        np.testing.assert_allclose(server.signals(ask, keys.to_pylist()), read, rtol=1e-5, atol=1e-5)
        assert read[:, -4:].any(axis=0).all()


def _part(moments: Moments, at: int) -> Moments:
    nothing = np.zeros(2, np.int64)
    context = {name: column.slice(at, 1) for name, column in moments.context.items()}
    own = slice(at, at + 1)
    return Moments(
        moments.user_id[own], moments.ts_ms[own], pa.array([], pa.string()), nothing, nothing[:0], context
    )


def test_a_configuration_says_who_meets_what() -> None:
    with pytest.raises(ValueError, match="prerank_met: expected prerank = true"):
        Config.model_validate({"update": {"prerank_met": ["impression"]}})
    update = {"update": {"prerank": True, "prerank_met": ["impression"]}}
    with pytest.raises(ValueError, match=r"update\.prerank_met: \['impression'\] are missing"):
        Config.model_validate(update)
    kept = {"profiles": {"history_kinds": ["click", "impression"]}}
    assert Config.model_validate({**update, **kept}).update.prerank_met == ("impression",)
