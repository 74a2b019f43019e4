"""Features and settings read off the tables."""

import numpy as np
import pyarrow as pa
import pytest

from deploy.backtest.derived import derived_features, derived_model, segments
from deploy.backtest.events import event_stream
from deploy.backtest.targets import targets_of
from models.catalogue_columns import CatalogueColumns
from models.model_config import FeatureConfig, ModelConfig
from tests.deploy.backtest_data import HOUR, START

N = 1000
SEGMENT = FeatureConfig(name="segment", source="user")
NOISE = FeatureConfig(name="noise", source="user")


def users(n: int = 40) -> pa.Table:
    """Odd and even users; noise says nothing about them."""
    return pa.table(
        {
            "user_id": [f"u{k}" for k in range(n)],
            "segment": [f"s{k % 2}" for k in range(n)],
            "noise": [f"n{k // 2 % 3}" for k in range(n)],
        }
    )


def table(n: int = 4000, repeats: bool = False, scenes: int = 3, seed: int = 0) -> pa.Table:
    """Clicks of 40 users, odd ones on odd items; every click has an impression, few have a like."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, 40, n)
    item = 2 * rng.integers(0, 5 if repeats else 5000, n) + user % 2
    kind = rng.choice(["click", "impression", "like"], n, p=[0.6, 0.38, 0.02])
    return pa.table(
        {
            "ts_ms": START + np.arange(n) * HOUR // 10,
            "user_id": [f"u{k}" for k in user],
            "item_id": [f"i{k}" for k in item],
            "kind": kind,
            "scene": [f"tab{k}" for k in rng.integers(0, scenes, n)],
            "request_id": [""] * n,
            "value": pa.nulls(n, pa.float64()),
        }
    )


def test_features_of_the_columns() -> None:
    items = pa.table(
        {
            "item_id": [f"i{k}" for k in range(N)],
            "author": np.arange(N),  # a value of its own for every row
            "code": [f"c{k}" for k in range(N)],
            "price": np.arange(N) / 7,
            "fans": np.arange(N) % 300,
            "kind": [f"k{k % 5}" for k in range(N)],
            "genres": [f"g{k % 3}|g{k % 7}" if k % 2 else f"g{k % 3}" for k in range(N)],
            "tags": [f"t{k % 3},t{k % 50}" for k in range(N)],
            "place": [f"Salt Lake, {k % 4}" for k in range(N)],  # prose, few values
            "title": [f"title {k}" for k in range(N)],
            "same": ["x"] * N,
        }
    )
    found = derived_features(CatalogueColumns(items=items), pa.array(["feed", "feed"]))
    assert {(one.source, one.name): (one.kind, one.separator) for one in found} == {
        ("item", "price"): ("number", ","),
        ("item", "fans"): ("number", ","),
        ("item", "kind"): ("category", ","),
        ("item", "genres"): ("categories", "|"),
        ("item", "tags"): ("categories", ","),
        ("item", "place"): ("category", ","),
        ("item", "title"): ("tokens", ","),
        ("time", "hour_of_day"): ("category", ","),
        ("time", "day_of_week"): ("category", ","),
    }


@pytest.mark.parametrize("seed", range(5))
def test_segments_are_those_that_tell_later_positives(seed: int) -> None:
    stream = event_stream(table(repeats=True, seed=seed))
    found = segments(targets_of(stream.events, ("click",)), CatalogueColumns(users=users()), (NOISE, SEGMENT))
    assert found[:1] == ["segment"]


def test_a_segment_without_meaning_is_left_out() -> None:
    shuffled = users().set_column(
        1, "segment", pa.array(np.random.default_rng(1).permutation(users()["segment"]))
    )
    rng = np.random.default_rng(2)
    clicks = table(repeats=True)
    clicks = clicks.set_column(2, "item_id", pa.array([f"i{k}" for k in rng.integers(0, 500, len(clicks))]))
    found = segments(
        targets_of(event_stream(clicks).events, ("click",)), CatalogueColumns(users=shuffled), (SEGMENT,)
    )
    assert found == []


def test_counts_follow_scenes_segments_and_kinds() -> None:
    stream = event_stream(table(repeats=True))
    catalogue = CatalogueColumns(users=users())
    fields = derived_model(stream.events, ("click",), catalogue, (SEGMENT, NOISE))
    counts = {(one.by, one.kinds) for one in fields["popularity"]}
    assert {
        ("", ()),
        ("scene", ()),
        ("segment", ()),
        ("", ("impression",)),
        ("scene", ("impression",)),
    } <= counts
    assert not any("like" in kinds for _, kinds in counts)  # too rare
    assert fields["own_items"] == 200
    assert fields["own_negatives"] == 16
    assert ModelConfig.model_validate({"kind": "two_tower", **fields}).popularity == fields["popularity"]


def test_many_scenes_and_no_repeats() -> None:
    stream = event_stream(table(scenes=40))
    fields = derived_model(stream.events, ("click", "impression"), CatalogueColumns(users=users()), ())
    assert all(not one.by and not one.kinds for one in fields["popularity"])
    assert fields["own_items"] == 50
