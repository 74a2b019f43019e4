"""The update scheme over real files: deltas, hand-over, crashes at every seam."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from models.artifact import PublishConflict
from models.delta import Delta, DeltaFields
from models.learner import CatalogueColumns, FeatureConfig, Learner, PublishedModel, Samples
from models.moments import one_moment
from models.pointer import Pointer
from models.registry import DeltaRef
from tests.updater.world import CONFIG, HOUR, ITEMS, RECIPE, START, UPDATE, World
from updater.config import UpdateConfig
from updater.incremental import IncrementalUpdater
from updater.retrain import NothingToTrain
from updater.state import RecipeChanged, TrainingState

NAME = "two_tower"


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.pass_hours(0, 6)
    return world


def saved(updater: IncrementalUpdater) -> dict[str, dict[str, np.ndarray]]:
    assert updater.state is not None
    return updater.state.files()


def assert_same_bytes(one: dict[str, dict[str, np.ndarray]], other: dict[str, dict[str, np.ndarray]]) -> None:
    assert one.keys() == other.keys()
    for file in one:
        assert one[file].keys() == other[file].keys()
        for name in one[file]:
            assert one[file][name].tobytes() == other[file][name].tobytes(), f"{file}: {name}"


def test_first_bundle_is_served_and_next_ones_warm_start(world: World) -> None:
    with pytest.raises(NothingToTrain):
        World(world.root / "empty").retrain()
    first = world.retrain(6)
    assert world.pointer.get() == Pointer(bundle=first, delta=0, watermark_ms=START + 6 * HOUR, revision=1)
    with pytest.raises(NothingToTrain):
        world.retrain(6)
    world.pass_hours(6, 8)
    second = world.retrain(8)
    manifest = world.registry.open_bundle(second).manifest
    assert manifest["parent"] == first
    assert manifest["watermark_ms"] == START + 8 * HOUR
    assert manifest["gates"][NAME]["finite"]
    # The pointer waits for the catch-up delta.
    pointer = world.pointer.get()
    assert pointer is not None
    assert pointer.bundle == first


def test_the_same_archive_gives_the_same_bundle(world: World, tmp_path: Path) -> None:
    twin = World(tmp_path / "twin")
    twin.pass_hours(0, 6)
    assert twin.retrain(6) == world.retrain(6)  # the id holds the digest of every file


def test_incremental_moves_only_touched_user_rows(world: World) -> None:
    first = world.retrain(6)
    updater = world.updater()
    updater.advance()
    before = saved(updater)
    world.pass_hours(6, 8, count=5)
    assert updater.advance()
    after = saved(updater)

    rows = "models/two_tower/table.user.safetensors"
    touched = world.registry.open_delta(DeltaRef(first, 1, False)).tables[NAME]["user"].keys.to_pylist()
    touched += world.registry.open_delta(DeltaRef(first, 2, False)).tables[NAME]["user"].keys.to_pylist()
    assert 1 <= len(set(touched)) <= 10
    for part in ("dense", "request_numbers", "item_numbers"):
        file = f"models/two_tower/{part}.safetensors"
        assert {n: a.tobytes() for n, a in before[file].items()} == {
            n: a.tobytes() for n, a in after[file].items()
        }
    file = "models/two_tower/table.item.safetensors"
    for tensor in ("weights", "momentum"):
        kept = len(before[file][tensor])
        assert before[file][tensor].tobytes() == after[file][tensor][:kept].tobytes()
    old, new = before[rows]["weights"], after[rows]["weights"]
    changed = np.flatnonzero((old != new[: len(old)]).any(1))
    assert 0 not in changed
    assert 1 <= len(changed) <= len(set(touched))


@pytest.mark.parametrize(("tables", "told"), [(("user",), 1), (("user", "item"), 0)])
def test_a_model_that_no_hour_can_change_is_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, tables: tuple[str, ...], told: int
) -> None:
    model = CONFIG.model_copy(
        update={"user_row": False, "trained_tables": tables, "published_tables": tables}
    )
    world = World(tmp_path, replace(RECIPE, models={NAME: model}))
    world.pass_hours(0, 6)
    world.retrain(6)
    updater = world.updater()
    for hour in (6, 7):
        updater.advance()
        world.pass_hours(hour, hour + 1)
        world.retrain(hour + 1)
    said = [
        one.getMessage() for one in caplog.records if "add item to its trained_tables" in one.getMessage()
    ]
    assert len(said) == told
    assert all(text.startswith(f"model {NAME}: ") for text in said)


def test_deltas_laid_over_the_bundle_are_the_updaters_state(world: World) -> None:
    first = world.retrain(6)
    updater = world.updater()
    updater.advance()
    world.pass_hours(6, 11)
    updater.advance()
    assert updater.state is not None
    learner: Learner = updater.state.learners[NAME]

    served = PublishedModel.load(world.registry.open_bundle(first), NAME)
    whole = served
    for ref in world.registry.chain(first, 0, 5):
        rows = world.registry.open_delta(ref).tables[NAME]["user"]
        served = served.with_rows({"user": (rows.keys, rows.rows)}, {"user": rows.tombstones})
    cumulative = world.registry.open_delta(DeltaRef(first, 3, True)).tables[NAME]["user"]
    whole = whole.with_rows({"user": (cumulative.keys, cumulative.rows)}, {"user": cumulative.tombstones})
    for sequence in (4, 5):
        rows = world.registry.open_delta(DeltaRef(first, sequence, False)).tables[NAME]["user"]
        whole = whole.with_rows({"user": (rows.keys, rows.rows)}, {"user": rows.tombstones})

    probe = Learner.load(world.registry.open_bundle(first), NAME)
    samples = probe.prepare(world.reader.read(START + 6 * HOUR, START + 11 * HOUR), CatalogueColumns())
    moments = probe.moments(samples)
    np.testing.assert_allclose(
        served.queries(moments).vectors, learner.queries(moments).vectors, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(served.queries(moments).vectors, whole.queries(moments).vectors)
    stale = PublishedModel.load(world.registry.open_bundle(first), NAME).queries(moments).vectors
    assert np.abs(stale - served.queries(moments).vectors).max() > 1e-4  # the deltas did something


def test_rows_of_half_precision_are_served_and_never_trained_on(world: World, tmp_path: Path) -> None:
    """Two retrains with them and hourly updates between: every other file, and every delta, is to the byte
    what it is without them, and what is served comes from them alone.
    """
    halved = UPDATE.model_copy(update={"rows_precision": "float16"})
    bundles, worlds = [], (World(tmp_path / "whole"), world)
    worlds[0].pass_hours(0, 6)
    for one, config in zip(worlds, (UPDATE, halved), strict=True):
        first = one.retrain(6, config=config)
        updater = one.updater()
        updater.advance()
        one.pass_hours(6, 8)
        updater.advance()
        bundles.append([one.registry.open_bundle(name) for name in (first, one.retrain(8, config=config))])
    whole, half = bundles
    for one, other in zip(whole, half, strict=True):
        assert "rows" not in one.manifest["models"][NAME]
        assert other.manifest["models"][NAME]["rows"] == "float16"
        served = {f"models/{NAME}/served.{table}.safetensors" for table in ("user", "item", "history_item")}
        assert set(other.names()) - set(one.names()) == served
        for file in one.names():
            assert one.path(file).read_bytes() == other.path(file).read_bytes(), file
    deltas = [
        one.registry.open_delta(DeltaRef(b[0].root.name, 2, False))
        for one, b in zip(worlds, bundles, strict=True)
    ]
    rows = [delta.tables[NAME]["user"] for delta in deltas]
    assert rows[0].rows.tobytes() == rows[1].rows.tobytes()

    moments = one_moment("#1", START, [("i1", START - 1)])
    expected = PublishedModel.load(whole[1], NAME).queries(moments).vectors
    for file in half[1].names():
        if "/table." in file:
            half[1].path(file).write_bytes(b"x" * half[1].path(file).stat().st_size)
    opened = world.registry.open_bundle(half[1].root.name, verify="as_read")
    got = PublishedModel.load(opened, NAME).queries(moments).vectors
    np.testing.assert_allclose(got, expected, atol=2e-3)
    assert (got != expected).any()


def test_a_precision_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rows_precision(.|\n)*'float32' or 'float16'"):
        UpdateConfig.model_validate({"rows_precision": "int8"})


def test_empty_intervals_publish_empty_deltas(world: World) -> None:
    first = world.retrain(6)
    updater = world.updater()
    updater.advance()
    world.pass_hours(6, 8, count=0)
    updater.advance()
    delta = world.registry.open_delta(DeltaRef(first, 2, False))
    assert len(delta.tables[NAME]["user"].keys) == 0
    assert world.pointer.get() == Pointer(bundle=first, delta=2, watermark_ms=START + 8 * HOUR, revision=3)


def test_hand_over_never_takes_the_served_watermark_back(world: World) -> None:
    world.retrain(6)
    updater = world.updater()
    updater.advance()
    seen = [world.pointer.get()]
    world.pass_hours(6, 9)
    updater.advance()
    seen.append(world.pointer.get())
    second = world.retrain(8)  # while the stream is already an hour further
    seen.append(world.pointer.get())
    updater.advance()
    seen.append(world.pointer.get())
    world.pass_hours(9, 10)
    updater.advance()
    seen.append(world.pointer.get())
    pointers = [pointer for pointer in seen if pointer is not None]
    assert len(pointers) == 5
    watermarks = [pointer.watermark_ms for pointer in pointers]
    assert watermarks == sorted(watermarks)
    assert pointers[2].bundle != second  # not before the catch-up
    assert (pointers[3].bundle, pointers[3].delta) == (second, 1)
    assert (pointers[4].bundle, pointers[4].delta) == (second, 2)


def test_catching_up_many_intervals_is_one_cumulative_delta(world: World) -> None:
    world.pass_hours(6, 11)
    first = world.retrain(6)
    world.updater().advance()
    assert world.registry.deltas(first) == [DeltaRef(first, 5, True)]
    assert world.registry.chain(first, 0, 5) == [DeltaRef(first, 5, True)]


def test_a_killed_updater_comes_back_to_the_same_bytes(world: World) -> None:
    first = world.retrain(6)
    kept = world.updater()
    kept.advance()
    for hour in range(6, 10):
        world.pass_hours(hour, hour + 1)
        kept.advance()
    published = world.registry.deltas(first)
    restarted = world.updater()
    restarted.advance()
    assert_same_bytes(saved(kept), saved(restarted))
    assert world.registry.deltas(first) == published  # nothing was published twice
    world.pass_hours(10, 12)
    kept.advance()
    restarted.advance()  # publishes the same bytes again: no conflict
    assert_same_bytes(saved(kept), saved(restarted))


@pytest.mark.parametrize("step", ["publish_delta", "set"])
def test_a_crash_between_publish_and_pointer_is_repaired(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    first = world.retrain(6)
    updater = world.updater()
    updater.advance()
    world.pass_hours(6, 8)
    owner = world.registry if step == "publish_delta" else world.pointer

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, crash)
        with pytest.raises(KeyboardInterrupt):
            updater.advance()
    restarted = world.updater()
    restarted.advance()
    assert world.pointer.get() == Pointer(bundle=first, delta=2, watermark_ms=START + 8 * HOUR, revision=2)
    assert [ref.sequence for ref in world.registry.chain(first, 0, 2)][-1] == 2
    world.pass_hours(8, 9)
    restarted.advance()
    assert world.registry.chain(first, 2, 3)


def test_a_delta_of_another_content_under_a_taken_sequence_is_refused(world: World) -> None:
    first = world.retrain(6)
    updater = world.updater()
    updater.advance()
    world.pass_hours(6, 7)
    updater.advance()
    other = Delta(DeltaFields(base=first, sequence=1, previous_sequence=0, watermark_ms=1), {})
    with pytest.raises(PublishConflict):
        world.registry.publish_delta(other)


def test_recipe_hash_tells_recipes_apart() -> None:
    assert RECIPE.schema_hash == replace(RECIPE).schema_hash
    assert RECIPE.schema_hash != replace(RECIPE, positives=("click",)).schema_hash


def test_a_changed_recipe_leaves_deltas_servable_and_takes_effect_at_the_next_bundle(world: World) -> None:
    first = world.retrain(6)
    faster = CONFIG.model_copy(update={"lr_dense": 5e-3})
    world.recipe = replace(RECIPE, models={NAME: faster}, popularity_half_life_ms=HOUR)
    world.pass_hours(6, 8)
    world.updater().advance()
    bundle = world.registry.open_bundle(first).manifest
    delta = world.registry.open_delta(DeltaRef(first, 2, True))
    assert delta.fields.schema_hash == bundle["schema_hash"] != world.recipe.schema_hash
    second = world.registry.open_bundle(world.retrain(8))
    assert second.manifest["models"][NAME]["config"]["lr_dense"] == 5e-3
    assert TrainingState.load(second).popularity.half_life_ms == HOUR
    wider = replace(RECIPE, models={NAME: CONFIG.model_copy(update={"hidden": (64,)})})
    world.recipe = wider
    world.pass_hours(8, 9)
    with pytest.raises(RecipeChanged, match="model two_tower: expected hidden as in bundle"):
        world.retrain(9)


def test_a_damaged_bundle_stops_neither_deltas_nor_retrains(world: World) -> None:
    first = world.retrain(6)
    updater = world.updater()
    updater.advance()
    world.pass_hours(6, 8)
    second = world.retrain(8)
    (world.registry.root / "bundles" / second / "models" / NAME / "dense.safetensors").write_bytes(b"")
    while updater.advance():
        pass
    assert updater.base == first
    pointer = world.pointer.get()
    assert pointer is not None
    assert (pointer.bundle, pointer.delta) == (first, 2)
    world.pass_hours(8, 9)
    third = world.registry.open_bundle(world.retrain(9))
    assert third.manifest["parent"] == first
    updater.advance()
    assert updater.base == third.root.name


def test_a_first_bundle_that_the_updater_has_already_passed_is_fine(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.pass_hours(6, 8)
    real = world.pointer.get

    def nothing_yet() -> Pointer | None:
        monkeypatch.setattr(world.pointer, "get", real)
        world.updater().advance()  # between the retrain's look and its move
        return None

    monkeypatch.setattr(world.pointer, "get", nothing_yet)
    first = world.retrain(6)
    assert world.pointer.get() == Pointer(bundle=first, delta=2, watermark_ms=START + 8 * HOUR, revision=1)


def test_popularity_forgets_what_faded_away(world: World) -> None:
    world.recipe = replace(RECIPE, popularity_half_life_ms=HOUR // 10)
    first = TrainingState.load(world.registry.open_bundle(world.retrain(6)))
    world.pass_hours(6, 20, count=0)
    world.pass_hours(20, 21, count=3)
    second = TrainingState.load(world.registry.open_bundle(world.retrain(21)))
    assert len(first.popularity_list().keys) > 40
    assert 1 <= len(second.popularity_list().keys) <= 3


def test_item_rows_are_published_with_their_vectors_when_configured(tmp_path: Path) -> None:
    tables = ("user", "item")
    config = CONFIG.model_copy(update={"trained_tables": tables, "published_tables": tables})
    world = World(tmp_path, replace(RECIPE, models={NAME: config}))
    world.pass_hours(0, 6)
    first = world.retrain(6)
    updater = world.updater()
    updater.advance()
    world.pass_hours(6, 7)
    updater.advance()
    changed = world.registry.open_delta(DeltaRef(first, 1, False)).tables[NAME]["item"]
    assert updater.state is not None
    keys, vectors = updater.state.learners[NAME].item_vectors()
    at = {key: place for place, key in enumerate(keys.to_pylist())}
    expected = vectors[[at[key] for key in changed.keys.to_pylist()]]
    assert changed.vectors is not None
    assert len(changed.keys) > 10
    np.testing.assert_array_equal(changed.vectors, expected)
    dense = "models/two_tower/dense.safetensors"
    bundle = world.registry.open_bundle(first).tensors(dense)
    assert {n: a.tobytes() for n, a in saved(updater)[dense].items()} == {
        n: a.tobytes() for n, a in bundle.items()
    }


def test_users_unseen_for_long_leave_a_tombstone(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"expire_after_days": 2 / 24})
    world = World(tmp_path, replace(RECIPE, models={NAME: config}))
    world.pass_hours(0, 6)
    first = world.retrain(6)
    updater = world.updater()
    updater.advance()
    world.pass_hours(6, 9, count=10)
    updater.advance()
    gone = world.registry.open_delta(DeltaRef(first, 3, False)).tables[NAME]["user"].tombstones.to_pylist()
    recent = world.reader.read(START + 6 * HOUR, START + 9 * HOUR)["user_id"].to_pylist()
    assert gone
    assert not set(gone) & set(recent[-20:])


def test_attributes_are_never_from_the_future_of_their_interval(tmp_path: Path) -> None:
    feature = FeatureConfig(name="season", source="item")
    recipe = replace(RECIPE, features=(feature,))

    def catalogue(season: str) -> CatalogueColumns:
        items = pa.table({"item_id": [f"i{n}" for n in range(ITEMS)], "season": [season] * ITEMS})
        return CatalogueColumns(items, sequence=len(season))

    early, late = catalogue("dry"), catalogue("wet season")
    world = World(tmp_path, recipe, lambda ms: late if ms > START + 4 * HOUR else early)
    world.pass_hours(0, 4)
    first = world.retrain(4)
    assert world.registry.open_bundle(first).manifest["catalogue_sequence"] == 3

    seen: list[tuple[int, int, int]] = []
    original = Learner.prepare

    def noted(self: Learner, events: pa.Table, known: CatalogueColumns) -> Samples:
        ends = events["interval_end_ms"]
        seen.append((pc.min(ends).as_py(), pc.max(ends).as_py(), known.sequence))
        return original(self, events, known)

    whole = World(tmp_path / "whole", recipe, world.catalogue_at)
    whole.pass_hours(0, 6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "prepare", noted)
        bundle = whole.retrain(6)
    assert seen == [
        (START + HOUR, START + 4 * HOUR, early.sequence),
        (START + 5 * HOUR, START + 6 * HOUR, late.sequence),
    ]
    assert whole.registry.open_bundle(bundle).manifest["catalogue_sequence"] == late.sequence
