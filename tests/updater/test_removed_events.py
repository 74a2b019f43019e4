"""Training over an archive whose old events go: the same bytes as over a whole one, or an error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from models.item_to_item import ItemToItemConfig
from stream.archive import ArchiveConfig
from stream.errors import EventsRemoved
from stream.retention import Retention
from tests.updater.world import HOUR, RECIPE, START, UPDATE, World
from updater.state import TrainingState


def trained_ms(world: World) -> int | None:
    return min((int(one["watermark_ms"]) for one in world.registry.manifests()), default=None)


def test_removal_changes_no_bundle_and_no_delta(tmp_path: Path) -> None:
    update = UPDATE.model_copy(update={"keep_bundles": 2})
    found = {}
    for name, keep_days in (("whole", 0.0), ("shrinking", 1 / 24)):
        world = World(tmp_path / name)
        retention = Retention(
            world.archive, ArchiveConfig(keep_days=keep_days), {"training": lambda w=world: trained_ms(w)}
        )
        updater, published = world.updater(), []
        for hour in range(2, 12, 2):
            world.pass_hours(hour - 2, hour, count=25)
            retention.apply()
            if hour % 4 == 0:
                published.append(world.retrain(hour, config=update))
            while updater.advance():
                retention.apply()
            pointer = world.pointer.get()
            published.append(str(pointer))
        found[name] = published, sorted(
            (str(p.relative_to(world.root)), p.read_bytes())
            for p in (world.root / "registry" / "deltas").rglob("*") if p.is_file()
        )  # fmt: skip
        removed = retention.size.removed
        assert (removed > 3) == (keep_days > 0)
    assert found["whole"] == found["shrinking"]


def test_a_parent_that_lacks_removed_events_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.pass_hours(0, 3)
    world.retrain(2)
    world.pass_hours(3, 7)
    assert world.archive.remove(START + 5 * HOUR) == 5
    for act in (world.retrain, world.updater().advance):
        with pytest.raises(EventsRemoved, match=f"after {START + 2 * HOUR}"):
            act()


def test_from_scratch_it_trains_on_what_is_kept_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path)
    world.pass_hours(0, 6)
    world.archive.remove(START + 4 * HOUR)
    bundle = world.registry.open_bundle(world.retrain())
    assert bundle.manifest["watermark_ms"] == START + 6 * HOUR
    assert f"events up to {START + 4 * HOUR} were removed; training on the rest" in caplog.text
    items, _ = TrainingState.load(bundle).popularity.top(1_000)
    kept = world.reader.read(None, START + 6 * HOUR)["item_id"]
    assert sorted(items.to_pylist()) == sorted(kept.unique().to_pylist())
    channel = replace(RECIPE, channels={"cf": ItemToItemConfig(kind="item_cf", positives=("purchase",))})
    world.recipe = channel
    world.pass_hours(6, 7)
    world.retrain(config=UPDATE.model_copy(update={"prerank": True}))
    assert "channels cf begin there" in caplog.text
    assert "live counts begin at" in caplog.text
