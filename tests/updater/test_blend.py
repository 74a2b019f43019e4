"""The blend of a full retrain: asked of the parent, before training, and served by the bundle."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from models.affinity_counts import AffinityCounts
from models.blend import Blend, with_counts
from models.blend_candidates import candidates
from models.blend_fit import BlendRows, fit_blend
from models.bundle import BLEND_FILE, PRERANK_FILE, PRERANK_GATE
from models.catalogue_columns import CatalogueColumns
from models.feature_config import FeatureConfig
from models.index import load_items
from models.item_signals import NAMES, ItemSignals
from models.key_bytes import hash_keys
from models.learner import Learner
from models.moments import Moments
from models.prerank import Prerank
from models.registry import Registry
from models.retrieve import dense_scores
from tests.updater.test_item_channels import CHANNELS
from tests.updater.test_loop import assert_same_bytes
from tests.updater.world import HOUR, RECIPE, START, UPDATE, World
from updater.blend import BlendRefit, _Codes, newest
from updater.request_signals import RequestSignals


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("blend"), replace(RECIPE, channels=CHANNELS))
    world.pass_hours(0, 4)
    world.retrain()
    world.pass_hours(4, 8)
    world.retrain()
    return world


def blend_of(registry: Registry, bundle: str) -> Blend | None:
    opened = registry.open_bundle(bundle)
    return Blend.from_tensors(opened.tensors(BLEND_FILE)) if opened.has(BLEND_FILE) else None


def test_the_second_bundle_has_one(world: World) -> None:
    first, second = world.registry.bundles()
    assert blend_of(world.registry, first) is None
    blend = blend_of(world.registry, second)
    assert blend is not None
    assert set(blend.channels) == {*RECIPE.models, *CHANNELS, "popularity"}
    assert np.isfinite(blend.weights).all()
    assert not np.allclose(blend.weights, Blend.fresh(blend.channels).weights)


def test_the_same_again_and_none_when_not_wanted(world: World, tmp_path: Path) -> None:
    again = World(tmp_path, world.recipe)
    again.pass_hours(0, 4)
    again.retrain()
    again.pass_hours(4, 8)
    again.retrain()
    assert again.registry.bundles() == world.registry.bundles()
    off = replace(RECIPE, channels=CHANNELS)
    without = World(tmp_path / "off", off)
    without.pass_hours(0, 4)
    without.retrain()
    without.pass_hours(4, 8)
    bundle = without.retrain(config=UPDATE.model_copy(update={"blend_targets": 0}))
    assert blend_of(without.registry, bundle) is None
    # Asking changes nothing about what is learned.
    trained = [w.registry.open_bundle(w.registry.bundles()[1]) for w in (world, without)]
    for name in RECIPE.models:
        assert_same_bytes(*(Learner.load(one, name).save() for one in trained))


def test_models_are_asked_before_they_train_with_the_parents_items(world: World) -> None:
    """What ask() keeps is what the parent's own files say at the moments of the new hours."""
    first = world.registry.bundles()[0]
    parent = world.registry.open_bundle(first)
    name = next(iter(RECIPE.models))
    learner = Learner.load(parent, name)
    events = world.reader.read(parent.manifest["watermark_ms"], START + 8 * HOUR)
    samples = learner.prepare(events, world.catalogue_at(0))
    refit = BlendRefit(parent, RECIPE.positives, CHANNELS, targets=25, seed=3)
    refit.ask(name, learner, samples)
    said, asked = refit._said[name], refit._asked
    assert asked is not None
    assert len(asked.targets) == 25
    untouched = Learner.load(parent, name)
    items = load_items(parent, name)
    expected = dense_scores(untouched.queries(asked.moments), items.keys, items.base.vectors)
    for part in (slice(0, 10), slice(10, 25)):
        scores, known = said.scores(part)
        assert known is None
        np.testing.assert_allclose(scores, expected[part], rtol=1e-5, atol=1e-6)
    fitted = refit.fitted()
    assert fitted.blend is not None
    assert fitted.blend.channels == (name, *CHANNELS, "popularity")
    assert fitted.prerank is None


def test_a_pre_rank_network_beside_it_where_one_is_wanted(world: World, tmp_path: Path) -> None:
    wanted = World(tmp_path, world.recipe)
    config = UPDATE.model_copy(update={"prerank": True, "blend_counts": False})
    bundles = []
    for hours in ((0, 4), (4, 8), (8, 10)):
        wanted.pass_hours(*hours)
        bundles.append(wanted.registry.open_bundle(wanted.retrain(config=config)))
    assert [bundle.has(PRERANK_FILE) for bundle in bundles] == [False, True, True]
    gates = [bundle.manifest["gates"].get(PRERANK_GATE) for bundle in bundles]
    assert gates[0] is None
    for gate in gates[1:]:
        assert gate["targets"] > 10
        assert gate["passed"] == (gate["loss"] <= gate["loss_of_blend"])
    networks = [Prerank.from_tensors(bundle.tensors(PRERANK_FILE)) for bundle in bundles[1:]]
    assert set(networks[0].channels) == {*RECIPE.models, *CHANNELS, "popularity"}
    assert networks[0].signals == NAMES  # no feature, no segment
    assert len(networks[0].mean) == 1 + 2 * len(networks[0].channels) + len(NAMES)
    # The second goes on from the first; the blend beside it is as without.
    assert networks[0].mean.tobytes() == networks[1].mean.tobytes()
    assert networks[0].w2.tobytes() != networks[1].w2.tobytes()
    alone = blend_of(world.registry, world.registry.bundles()[1])
    both = Blend.from_tensors(bundles[1].tensors(BLEND_FILE))
    assert alone is not None
    assert both.weights.tobytes() == alone.weights.tobytes()
    assert not world.registry.open_bundle(world.registry.bundles()[1]).has(PRERANK_FILE)


def test_live_counts_are_blended_as_of_each_request(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every target's counts are those of the archive cut off where its request begins."""
    fitted: list[BlendRows] = []

    def noted(before: Blend, rows: BlendRows, seed: int) -> Blend:
        fitted.append(rows)
        return fit_blend(before, rows, seed)

    monkeypatch.setattr("updater.blend.fit_blend", noted)
    wanted = World(tmp_path, world.recipe)
    bundles = []
    for hours in ((0, 4), (4, 8)):
        wanted.pass_hours(*hours)
        bundles.append(wanted.retrain(config=UPDATE.model_copy(update={"blend_counts": True})))
    blend = blend_of(wanted.registry, bundles[1])
    assert blend is not None
    channels = (*RECIPE.models, *CHANNELS, "popularity")
    assert blend.channels == (*channels, *NAMES)
    weights = dict(zip(blend.channels, blend.weights.reshape(2, -1).T, strict=True))
    for name in NAMES:  # nothing but purchases: nobody was shown anything
        assert weights[name].all() == weights[name].any() == name.startswith("taken")
    opened = wanted.registry.open_bundle(bundles[1])
    assert not opened.has(PRERANK_FILE)
    assert PRERANK_GATE not in opened.manifest["gates"]

    alone = BlendRefit(
        wanted.registry.open_bundle(bundles[0]), RECIPE.positives, CHANNELS, UPDATE.blend_targets, 3
    )
    learner = Learner.load(wanted.registry.open_bundle(bundles[0]), "two_tower")
    events = wanted.reader.read(None, START + 8 * HOUR)
    samples = learner.prepare(wanted.reader.read(START + 4 * HOUR, START + 8 * HOUR), CatalogueColumns())
    alone.ask("two_tower", learner, samples)
    assert alone._asked is not None
    plain, ts_ms = BlendRows(channels), events["ts_ms"].to_numpy()
    said = alone._channels_of(alone._asked)
    every = pc.unique(pa.concat_arrays([one.keys for one in said.values()]))
    codes_of = {name: _Codes.of(one.keys, every) for name, one in said.items()}
    for at, taken in enumerate(alone._asked.targets.to_pylist()):
        scores = [codes_of[name].said(*one.scores(slice(at, at + 1))) for name, one in said.items()]
        codes, scores_CN = candidates(scores, 0)
        before = events.filter(ts_ms < alone._asked.asked_ms[at])  # every purchase is a request of its own
        counted = ItemSignals(RECIPE.positives)
        counted.observe(before)
        keys = every.take(pa.array(codes))
        signals = counted.values(counted.entries(keys), int(alone._asked.asked_ms[at]))
        place = keys.index(taken).as_py()
        plain.add(with_counts(scores_CN, signals), place)
    (rows,) = fitted
    assert rows.place == plain.place
    for found, expected in zip(rows.features, plain.features, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_requests_begin_with_their_first_event_of_any_kind() -> None:
    events = pa.table(
        {
            "ts_ms": pa.array([10, 20, 30, 40, 50], pa.int64()),
            "item_id": ["#1", "#2", "#1", "#1", "#2"],
            "kind": ["impression", "impression", "click", "click", "impression"],
            "request_id": ["r", "s", "r", "", ""],
        }
    )
    signals = RequestSignals(events, ("click",), AffinityCounts((), HOUR), [])
    hashes = hash_keys(pa.array(["r", "s", "t"]))
    asked_ms = signals.asked_ms(np.array([*hashes, -3]), np.array([30, 19, 45, 40]))
    assert asked_ms.tolist() == [10, 19, 45, 40]
    signals.ask(pa.array(["#1", "#2", "#3"]), moments_in("s", 2), np.zeros(2, np.int64))
    items = np.arange(3)
    assert not signals.of(items, 0, 10).any()
    counts = np.expm1(signals.of(items, 1, 41)[:, [3, 7]])  # taken and shown, by the longest half-life
    np.testing.assert_allclose(counts, [[2, 1], [0, 1], [0, 0]], rtol=1e-6)


def test_affinities_are_those_of_the_last_interval_that_had_ended() -> None:
    def shown(*items: str) -> pa.Table:
        n = len(items)
        return pa.table(
            {
                "ts_ms": pa.array(range(n), pa.int64()),
                "item_id": items,
                "kind": ["impression"] * n,
                "user_id": ["u"] * n,
                "request_id": [""] * n,
                "scene": ["s", "t"] * (n // 2),
            }
        )

    before, hours = shown("#1", "#2"), [shown("#1", "#3"), shown("#3", "#1", "#3", "#3")]
    ended = [
        table.append_column("interval_end_ms", pa.array([at * HOUR] * len(table), pa.int64()))
        for at, table in enumerate(hours, 1)
    ]
    stretch = (pa.concat_tables(ended), CatalogueColumns())
    counts = [AffinityCounts([FeatureConfig(name="scene", source="context")], HOUR) for _ in range(2)]
    for one in counts:
        one.observe(before, CatalogueColumns())
    signals = RequestSignals(pa.concat_tables([before, *hours]), ("click",), counts[0], [stretch])
    assert signals.named == (*NAMES, "lift by context.scene")
    keys = pa.array(["#1", "#2", "#3"])
    signals.ask(keys, moments_in("s", 3), np.zeros(3, np.int64))
    for moment, asked_ms in enumerate((HOUR - 1, HOUR, 3 * HOUR)):
        published = counts[1].published()
        askers = published.askers(moments_in("s", 1))
        found = signals.of(np.arange(3), moment, asked_ms)[:, -1]
        assert found.tolist() == published.of(published.places(keys), askers, 0)[:, 0].tolist()
        assert found.any()
        if moment < len(hours):
            counts[1].observe(hours[moment], CatalogueColumns())


def moments_in(scene: str, n: int) -> Moments:
    """n moments of one scene."""
    zeros, context = np.zeros(n + 1, np.int64), {"scene": pa.array([scene] * n)}
    return Moments(pa.array(["u"] * n), zeros[:n], pa.array([], pa.string()), zeros, zeros[:0], context)


def test_newest_by_hand() -> None:
    moments = Moments(
        user_id=pa.array(["a", "b", "c"]),
        ts_ms=np.array([9, 9, 9]),
        history_id=pa.array(["x", "y", "z", "p", "q"]),
        history_offsets=np.array([0, 3, 3, 5]),
        history_ts_ms=np.array([1, 2, 3, 4, 5]),
    )
    cut = newest(moments, slice(0, 3), 2)
    assert cut.history_id.to_pylist() == ["y", "z", "p", "q"]
    assert cut.history_offsets.tolist() == [0, 2, 2, 4]
    assert cut.history_ts_ms.tolist() == [2, 3, 4, 5]
    part = newest(moments, slice(1, 3), 1)
    assert part.user_id.to_pylist() == ["b", "c"]
    assert part.history_id.to_pylist() == ["q"]
    assert part.history_offsets.tolist() == [0, 0, 1]
