"""Events to samples and histories, against a plain replay of the events."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from models.catalogue_columns import CatalogueColumns
from models.encoding import moments_of
from models.feature_config import FeatureConfig
from models.features import FeatureColumns
from models.history import HistoryTable
from models.item_store import ItemStore
from models.learner import ModelConfig
from models.popularity_config import PopularityConfig
from models.popularity_dims import PopularityDims
from models.preparation import Preparation
from models.samples import Samples
from models.tables import Tables
from models.target_counts import TargetCounts

FEATURES = (
    FeatureConfig(name="town", source="user", dim=4),
    FeatureConfig(name="likes", source="user", dim=4, kind="categories", length=2),
    FeatureConfig(name="age", source="user", kind="number"),
    FeatureConfig(name="scene", source="context", dim=4),
    FeatureConfig(name="query", source="context", dim=4, kind="tokens", length=3),
    FeatureConfig(name="town_scene", source="context", dim=4, kind="cross", of=("town", "scene")),
    FeatureConfig(name="tags", source="item", dim=4, kind="categories", length=3),
    FeatureConfig(name="price", source="item", kind="number"),
)
CATALOGUE = CatalogueColumns(
    items=pa.table(
        {"item_id": ["i0", "i1", "i2"], "tags": ["a,b", None, "b,c,d,e"], "price": [1.0, None, 3.0]}
    ),
    users=pa.table(
        {"user_id": ["u0", "u1"], "town": ["t0", None], "likes": [["x"], ["y", "z"]], "age": ["30", ""]}
    ),
)
HISTORIES = {
    "views": {"kinds": ("view", "click"), "length": 4},
    "likes": {"kinds": ("like",), "length": 2},
}


class World:
    """One model's preparation and the tables it moves."""

    def __init__(self, **changes):
        given = {"dim": 8, "id_dim": 8, "hidden": (8,), "history_length": 3, "positives": ("click", "like"),
                 "weights": {"like": 2.0}, "histories": HISTORIES, "own_items": 0}  # fmt: skip
        self.config = ModelConfig(**{**given, **changes})
        self.features = FeatureColumns(FEATURES, ("user", "context", "time"), "UTC")
        self.tables = Tables(self.config, FEATURES)
        self.items = ItemStore(FeatureColumns(FEATURES, ("item",), "UTC"))
        self.history = HistoryTable(64)
        self.histories = {name: HistoryTable(64) for name in self.config.histories}
        self.popularity = PopularityDims((PopularityConfig(half_life_h=12),), self.config.positives)
        self.targets = TargetCounts()
        self.preparation = Preparation(
            self.config, self.features, self.tables, self.items, self.history, self.histories,
            self.popularity, self.targets,
        )  # fmt: skip

    def take(self, rows, with_samples=True):
        return self.preparation.take(table(rows), CATALOGUE, with_samples)

    def moments(self, samples):
        return moments_of(self.config, samples, self.tables.ids, self.features, self.history, self.histories)

    def lists(self, samples, name=None):
        """(item key, ts_ms) lists of the main or a further history at the samples' moments."""
        moments = self.moments(samples)
        lists = moments.history if name is None else moments.history_named(name)
        pairs = list(zip(lists.id.to_pylist(), lists.ts_ms.tolist(), strict=True))
        return [pairs[a:b] for a, b in pairwise(lists.offsets)]

    def keys(self, samples, name):
        return self.tables.ids[name].keys_of(getattr(samples, name)).to_pylist()


def event(user, item, kind, ts_s, request="", scene="", **context):
    return {"user_id": user, "item_id": item, "kind": kind, "ts_ms": 1000 * ts_s, "request_id": request,
            "scene": scene, "context": list(context.items())}  # fmt: skip


def table(rows):
    schema = pa.schema(
        [(name, pa.string()) for name in ("user_id", "item_id", "kind", "request_id", "scene")]
        + [("ts_ms", pa.int64()), ("context", pa.map_(pa.string(), pa.string()))]
    )
    return pa.Table.from_pylist(rows, schema=schema)


def random_events(n, seed):
    generator = np.random.default_rng(seed)
    times = np.sort(generator.integers(0, 200, n)).tolist()
    return [
        event(
            ["", "u0", "u1", "u2"][generator.integers(0, 4)],
            ["", "i0", "i1", "i2", "i3"][generator.integers(0, 5)],
            ["view", "click", "like", "other"][generator.integers(0, 4)],
            ts_s,
            f"r{ts_s // 7}" if generator.random() < 0.6 else "",
            ["", "home"][generator.integers(0, 2)],
            query=["", "red shoes", "shoes"][generator.integers(0, 3)],
        )
        for ts_s in times
    ]


def replayed(rows, kinds, length, moments):
    """Plain histories: moments are (user, ts_ms, request, place of the event)."""
    kept, seen = [], set()
    for place, row in enumerate(rows):
        if row["kind"] not in kinds or not row["item_id"] or not row["user_id"]:
            continue
        request = row["request_id"] or place
        if (row["user_id"], request, row["item_id"]) not in seen:
            seen.add((row["user_id"], request, row["item_id"]))
            kept.append((row["ts_ms"], row["user_id"], row["item_id"], request))
    kept.sort(key=lambda entry: entry[0])
    return [
        [(i, t) for t, u, i, r in kept if u == user and user and t < ts and r != request][-length:]
        for user, ts, request in moments
    ]


def targets(rows, positives=("click", "like")):
    """Places of the rows that make samples."""
    places, seen = [], set()
    for place, row in enumerate(rows):
        key = (row["user_id"], row["request_id"] or place, row["item_id"])
        if row["kind"] in positives and row["item_id"] and not (row["user_id"] and key in seen):
            places.append(place)
            seen.add(key)
    return places


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_samples_and_histories_equal_a_plain_replay(seed, parts):
    rows = random_events(150, seed)
    world = World()
    cuts = np.linspace(0, len(rows), parts + 1).astype(int)
    taken = [world.take(rows[a:b]) for a, b in pairwise(cuts)]
    samples = Samples.concatenate(taken)
    places = targets(rows)
    chosen = [rows[place] for place in places]
    assert world.keys(samples, "user") == [row["user_id"] for row in chosen]
    assert world.keys(samples, "item") == [row["item_id"] for row in chosen]
    assert samples.ts_ms.tolist() == [row["ts_ms"] for row in chosen]
    assert samples.weight.tolist() == [2.0 if row["kind"] == "like" else 1.0 for row in chosen]
    assert samples.sequence.tolist() == list(range(len(chosen)))
    moments = [
        (row["user_id"], row["ts_ms"], row["request_id"] or place)
        for place, row in zip(places, chosen, strict=True)
    ]
    assert world.lists(samples) == replayed(rows, ("click", "like"), 3, moments)
    assert world.lists(samples, "views") == replayed(rows, ("view", "click"), 4, moments)
    assert world.lists(samples, "likes") == replayed(rows, ("like",), 2, moments)


def test_events_of_one_request_are_one_moment_and_two_kinds_of_an_item_one_entry():
    world = World()
    world.take([event("u0", "i0", "click", 10)])
    samples = world.take([
        event("u0", "i1", "view", 20, "r"), event("u0", "i1", "click", 21, "r"),
        event("u0", "i1", "like", 22, "r"), event("u0", "i2", "click", 23, "r"),
    ])  # fmt: skip
    assert world.keys(samples, "item") == ["i1", "i2"]
    assert samples.request[0] == samples.request[1]
    assert world.lists(samples) == [[("i0", 10_000)]] * 2
    assert world.lists(samples, "views") == [[("i0", 10_000)]] * 2
    assert world.lists(samples, "likes") == [[], []]
    later = world.take([event("u0", "i3", "click", 30)])
    assert world.lists(later) == [[("i0", 10_000), ("i1", 21_000), ("i2", 23_000)]]
    assert world.lists(later, "views") == [[("i0", 10_000), ("i1", 20_000), ("i2", 23_000)]]
    assert world.lists(later, "likes") == [[("i1", 22_000)]]


def test_a_late_event_is_in_the_histories_of_moments_after_it_only():
    world = World()
    samples = world.take([event("u0", "i0", "click", 10), event("u0", "i1", "click", 30)])
    late = world.take([event("u0", "i2", "click", 20), event("u0", "i3", "view", 25)])
    assert world.lists(samples) == [[], [("i0", 10_000), ("i2", 20_000)]]
    assert world.lists(samples, "views") == [[], [("i0", 10_000), ("i2", 20_000), ("i3", 25_000)]]
    assert world.lists(late) == [[("i0", 10_000)]]


def test_events_without_a_request_stay_requests_of_their_own():
    world = World()
    first = world.take([event("u0", "i0", "click", 10), event("u0", "i0", "click", 10)])
    second = world.take([event("u0", "i0", "click", 10), event("u0", "i0", "click", 11)])
    assert len(first) == len(second) == 2
    assert len({*first.request.tolist(), *second.request.tolist()}) == 4
    assert world.lists(second)[1] == [("i0", 10_000)] * 3


def test_what_is_only_viewed_has_entries_but_is_no_target():
    world = World(admit_after=2)
    samples = world.take(
        [event("u1", "i3", "view", 1), event("u1", "i3", "view", 2), event("u0", "i0", "click", 3)]
    )
    assert world.keys(samples, "user") == ["u0"]
    ids = world.tables.ids
    user, item = ids["user"].lookup(pa.array(["u1", "u0"])), ids["item"].lookup(pa.array(["i3", "i0"]))
    assert (ids["user"].rows(user) > 0).tolist() == [True, False]  # every sighting counts for admission
    assert (ids["item"].rows(item) > 0).tolist() == [True, False]
    counted = world.popularity.published(item, 10**4, 10**4)[:, 0]
    assert counted[0] == 0 < counted[1]
    assert ids["item"].counts(item).tolist() == [2, 1]  # sightings
    assert world.targets.by_entry[item].tolist() == [0, 1]
    nobody = world.take([event("u1", "i9", "other", 4)])
    assert len(nobody) == 0
    assert ids["item"].lookup(pa.array(["i9"])).tolist() == [-1]  # of no history's kind


def test_features_are_those_of_the_event_and_its_user():
    world = World()
    samples = world.take([
        event("u0", "i0", "click", 1, scene="home", query="Red shoes"),
        event("u0", "i0", "view", 2, scene="home", query="never seen"),
        event("u1", "i1", "click", 3, scene="", query=""),
        event("u9", "i1", "click", 4, scene="home"),
    ])  # fmt: skip
    keys = {
        table: world.tables.ids[table].keys_of(samples.categories[:, place].ravel()).to_pylist()
        for table, place in world.features.layout.items()
    }
    assert keys == {
        "user.town": ["t0", "", ""],
        "user.likes": ["x", "", "y", "z", "", ""],
        "context.scene": ["home", "", "home"],
        "context.query": ["red", "shoes", "red shoes", "", "", "", "", "", ""],
        "context.town_scene": ["t0\x1fhome", "", ""],
    }
    assert len(world.tables.ids["context.query"]) == 3  # a view is no sample: its query trains nothing
    np.testing.assert_array_equal(samples.numbers, [[30], [np.nan], [np.nan]])


def test_item_attributes_by_entry_and_read_again_after_a_change_and_a_removal():
    world = World()
    world.take([event("u0", f"i{n}", "view", n) for n in (2, 0, 1, 5)])

    def tags():
        keys = world.tables.ids["item.tags"].keys_of(world.items.categories.ravel()).to_pylist()
        return [[key for key in keys[at : at + 3] if key] for at in range(0, len(keys), 3)]

    assert tags() == [["b", "c", "d"], ["a", "b"], [], []]
    np.testing.assert_array_equal(world.items.numbers[:, 0], [3.0, 1.0, np.nan, np.nan])
    changed = CatalogueColumns(items=pa.table({"item_id": ["i5", "i2"], "tags": [["e"], ["b", "f"]]}))
    world.preparation.take(table([event("u0", "i0", "view", 9)]), changed, True)
    assert tags() == [["b", "f"], [], [], ["e"]]
    again = ItemStore(FeatureColumns(FEATURES, ("item",), "UTC"))
    again.restore(world.items.state())
    np.testing.assert_array_equal(again.categories, world.items.categories)
    world.items.drop(np.array([0]))
    assert tags() == [[], [], [], ["e"]]


def test_taking_without_samples_leaves_the_same_state():
    rows = random_events(120, 9)
    with_samples, without = World(), World()
    samples, targets = with_samples.take(rows), without.take(rows, with_samples=False)
    for name in ("user", "item", "ts_ms", "request", "weight"):
        assert getattr(targets, name).tolist() == getattr(samples, name).tolist(), name
    assert (targets.categories.shape[1], targets.numbers.shape[1]) == (0, 0)
    assert set(targets.sequence.tolist()) == {-1}
    assert without.preparation.samples_made == 0
    assert without.preparation.events_taken == with_samples.preparation.events_taken
    hour = random_events(40, 10)
    left, right = with_samples.take(hour), without.take(hour)
    assert left.request.tolist() == right.request.tolist()
    for name in (None, "views", "likes"):
        assert with_samples.lists(left, name) == without.lists(right, name)


def test_nothing_to_take():
    world = World()
    for rows in ([], [event("u0", "", "click", 1)], [event("u0", "i0", "other", 1)]):
        samples = world.take(rows)
        assert len(samples) == 0
        assert samples.categories.shape == (0, world.features.slots)
        assert len(world.moments(samples)) == 0
    assert len(world.tables.ids["user"]) == 0


def test_a_part_of_a_table_whose_events_are_all_taken_is_read_where_it_lies():
    rows = [
        event(f"u{at % 3}", f"i{at % 4}", "click", at, f"r{at // 2}", "home", query=f"q{at % 5}")
        for at in range(30)
    ]
    alone, among = (World(positives=("click",), weights={}, histories={}) for _ in range(2))
    expected = alone.take(rows[7:21])
    found = among.preparation.take(table(rows).slice(7, 14), CATALOGUE, True)
    assert len(found) == 14
    for name in ("sequence", "ts_ms", "user", "item", "weight", "request", "categories", "numbers"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert among.lists(found) == alone.lists(expected)
    assert among.targets.by_entry.tolist() == alone.targets.by_entry.tolist() == [4, 4, 3, 3]


def test_samples_of_several_stretches_are_one():
    world = World()
    rows = random_events(80, 3)
    parts = [world.take(rows[:40]), world.take([]), world.take(rows[40:])]
    whole = Samples.concatenate([*parts, Samples.empty(world.features.slots, 1)])
    assert len(whole) == sum(len(part) for part in parts)
    assert whole.take(slice(0, len(parts[0]))).item.tolist() == parts[0].item.tolist()
    assert whole.take(np.array([3, 1])).item.tolist() == whole.item[[3, 1]].tolist()
    for name in ("item", "user", "categories"):
        assert getattr(whole, name).dtype == np.int32
    with pytest.raises(ValueError, match=r"Samples\.empty"):
        Samples.concatenate([])


def test_histories_of_other_names_are_refused():
    world = World()
    with pytest.raises(ValueError, match=r"names \['likes', 'views'\], got \['likes'\]"):
        Preparation(
            world.config, world.features, world.tables, world.items, world.history,
            {"likes": world.histories["likes"]}, world.popularity, world.targets,
        )  # fmt: skip
