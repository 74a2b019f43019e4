"""Item-to-item channels through bundles, deltas, hand-overs and restarts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from models.bundle import neighbours_file
from models.item_to_item import ItemToItem, ItemToItemConfig
from models.neighbour_rows import NeighbourRows
from models.registry import DeltaRef
from tests.updater.test_loop import assert_same_bytes, saved
from tests.updater.world import HOUR, RECIPE, START, World
from updater.item_channels import COLUMNS
from updater.state import TrainingState

CHANNELS = {
    "cf": ItemToItemConfig(positives=("purchase",), window=12, neighbours=15, gap_half_life_h=2),
    "swing": ItemToItemConfig(
        kind="swing", positives=("purchase",), window=12, neighbours=15, expire_after_days=0.25
    ),
}
WITH_CHANNELS = replace(RECIPE, channels=CHANNELS)
Table = dict[str, dict[str, float]]


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path, WITH_CHANNELS)
    world.pass_hours(0, 6)
    return world


def as_table(rows: NeighbourRows) -> Table:
    names = rows.items.to_pylist()
    return {
        trigger: {
            names[rows.neighbours[at]]: float(rows.scores[at])
            for at in range(rows.offsets[place], rows.offsets[place + 1])
        }
        for place, trigger in enumerate(rows.triggers.to_pylist())
    }


def from_scratch(world: World, name: str, hours: int) -> Table:
    """Neighbours after everything up to an hour, of a channel that saw it at one stroke."""
    channel = ItemToItem(CHANNELS[name])
    events = world.reader.read(None, START + hours * HOUR, COLUMNS)
    channel.observe(events["user_id"], events["item_id"], events["ts_ms"].to_numpy())
    channel.expire(START + hours * HOUR - int(CHANNELS[name].expire_after_days * 24 * HOUR))
    return as_table(channel.neighbours())


def held_by(world: World, bundle: str, name: str) -> Table:
    return as_table(
        NeighbourRows.from_tensors(world.registry.open_bundle(bundle).tensors(neighbours_file(name)))
    )


def test_a_bundle_holds_the_neighbours_of_everything_before_it(world: World) -> None:
    first = world.retrain(6)
    entries = world.registry.open_bundle(first).manifest["channels"]
    assert {name: entry["kind"] for name, entry in entries.items()} == {"cf": "item_cf", "swing": "swing"}
    for name in CHANNELS:
        assert held_by(world, first, name) == from_scratch(world, name, 6)
        assert entries[name]["triggers"] == len(from_scratch(world, name, 6)) > 20
    world.pass_hours(6, 9)
    second = world.retrain(9)
    for name in CHANNELS:
        assert held_by(world, second, name) == from_scratch(world, name, 9)


@pytest.mark.parametrize("name", CHANNELS)
def test_deltas_bring_a_served_channel_to_the_updaters_state(world: World, name: str) -> None:
    first = world.retrain(6)
    updater = world.updater()
    updater.advance()
    world.pass_hours(6, 11, count=6)
    updater.advance()
    chain = held_by(world, first, name)
    whole = dict(chain)
    sizes = []
    for sequence in range(1, 6):
        rows = world.registry.open_delta(DeltaRef(first, sequence, False)).channels[name]
        sizes.append(len(rows))
        chain |= as_table(rows)
        if sequence > 3:
            whole |= as_table(rows)
        elif sequence == 3:
            whole |= as_table(world.registry.open_delta(DeltaRef(first, 3, True)).channels[name])
    assert all(0 < size < 80 for size in sizes)
    assert chain == whole
    expected = from_scratch(world, name, 11)
    # Rows that no interval changed keep the norms of the bundle; whom they name is the same.
    assert {trigger: set(row) for trigger, row in chain.items() if row} == {
        t: set(r) for t, r in expected.items()
    }
    newest = as_table(world.registry.open_delta(DeltaRef(first, 5, False)).channels[name])
    assert newest == {trigger: expected.get(trigger, {}) for trigger in newest}
    if name == "swing":
        assert {trigger: row for trigger, row in chain.items() if row} == expected
        assert any(not row for row in chain.values())  # six hours after its last event an item is gone


def test_a_restarted_updater_holds_the_same_channels(world: World) -> None:
    world.retrain(6)
    kept, restarted = world.updater(), world.updater()
    kept.advance()
    world.pass_hours(6, 9)
    kept.advance()
    restarted.advance()
    assert_same_bytes(saved(kept), saved(restarted))
    kept.advance()
    world.pass_hours(9, 10)
    kept.advance()
    restarted.advance()
    assert_same_bytes(saved(kept), saved(restarted))


def test_a_channel_that_joins_reads_the_archive(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.pass_hours(0, 6)
    first = world.retrain(6)
    assert "channels" not in world.registry.open_bundle(first).manifest
    assert TrainingState.load(world.registry.open_bundle(first)).channels.held == {}
    world.recipe = WITH_CHANNELS
    world.pass_hours(6, 8)
    joined = world.retrain(8)
    assert held_by(world, joined, "cf") == from_scratch(world, "cf", 8)
    world.recipe = replace(RECIPE, channels={"cf": CHANNELS["swing"]})
    world.pass_hours(8, 9)
    other = world.retrain(9)  # from the windows it has, now with the other similarity
    assert held_by(world, other, "cf") == from_scratch(world, "swing", 9)
    world.recipe = RECIPE
    world.pass_hours(9, 10)
    assert "channels" not in world.registry.open_bundle(world.retrain(10)).manifest


def test_events_of_other_kinds_do_not_count(world: World) -> None:
    state = TrainingState.fresh(replace(RECIPE, channels={"cf": ItemToItemConfig(positives=("click",))}))
    state.channels.observe(world.reader.read(None, START + 6 * HOUR))
    assert len(state.channels.neighbours()["cf"]) == 0
    assert state.channels.take_changes()["cf"].triggers.equals(pa.array([], pa.string()))
    assert state.channels.files().keys() == {"channels/cf/state.safetensors"}
    assert state.channels.held["cf"].state()["newest_ms"].tolist() == np.zeros(1).tolist()
