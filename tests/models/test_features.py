"""Every kind of feature against plain Python, alone and among many rows."""

import re
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from models.feature_config import FeatureConfig, HistoryConfig, check_features
from models.features import FeatureColumns, category_keys
from models.id_table import IdTable
from models.key_bags import KeyBags, bag_slots, slot_bags
from models.number_features import number_values
from models.text_tokens import joined_words, text_tokens
from models.time_features import local_midnight_ms, time_category
from models.value_lists import value_lists

SUNDAY_2300_UTC = 1_700_434_800_000  # 2023-11-19T23:00Z, already Monday morning in Shanghai
REQUEST = ("user", "context", "time")
FEATURES = (
    FeatureConfig(name="town_by_hour", source="context", kind="cross", of=("town", "hour_of_day", "device")),
    FeatureConfig(name="town", source="user"),
    FeatureConfig(name="interests", source="user", kind="categories", length=3, separator="|"),
    FeatureConfig(name="age", source="user", kind="number", transforms=("log",)),
    FeatureConfig(name="age", source="user"),
    FeatureConfig(name="device", source="context"),
    FeatureConfig(name="query", source="context", kind="tokens", length=5),
    FeatureConfig(name="hour_of_day", source="time"),
    FeatureConfig(name="brand", source="item"),
    FeatureConfig(name="group", source="item"),
    FeatureConfig(name="brand_group", source="item", kind="cross", of=("item.brand", "group")),
)


def columns(n=60):
    """Columns of n request rows with all sorts of missing values."""
    place = np.arange(n)
    words = ["red", "Shoes", "", " , ", "size-42", "中国", "ÉTÉ"]
    return {
        ("user", "town"): pa.array([None if at % 5 == 0 else f"t{at % 3}" for at in place]),
        ("user", "interests"): pa.array(["|".join(f" i{at % 7} " for at in range(at % 6)) for at in place]),
        ("user", "age"): pa.array([None if at % 4 == 0 else str(20 + at % 9) for at in place]),
        ("context", "device"): pa.array(["" if at % 11 == 0 else f"d{at % 2}" for at in place]),
        ("context", "query"): pa.array([" ".join(words[k % 7] for k in range(at, 2 * at)) for at in place]),
    }, SUNDAY_2300_UTC + place * 5_000_000


def plain_values(text, separator, length):
    return [value.strip() for value in (text or "").split(separator) if value.strip()][:length]


def plain_tokens(text, length):
    words = re.findall(r"[a-z0-9à-öø-ÿ]+|[一-鿿]", (text or "").lower())
    return (words + [f"{a} {b}" for a, b in pairwise(words)])[:length]


def observing(ids):
    return lambda table, keys, ts_ms: ids.setdefault(table, IdTable()).observe(keys, ts_ms)


def test_hours_and_days_are_local():
    ts = np.array([SUNDAY_2300_UTC])
    assert time_category("hour_of_day", ts, "UTC").to_pylist() == ["23"]
    assert time_category("day_of_week", ts, "UTC").to_pylist() == ["6"]
    assert time_category("hour_of_day", ts, "Asia/Shanghai").to_pylist() == ["7"]
    assert time_category("day_of_week", ts, "Asia/Shanghai").to_pylist() == ["0"]
    assert local_midnight_ms(SUNDAY_2300_UTC + 5, "UTC") == SUNDAY_2300_UTC - 23 * 3_600_000
    assert local_midnight_ms(SUNDAY_2300_UTC + 5, "Asia/Shanghai") == SUNDAY_2300_UTC - 7 * 3_600_000


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu", "America/New_York"])
@pytest.mark.parametrize("name", ["hour_of_day", "day_of_week"])
def test_one_moment_has_the_time_it_has_among_many(name, zone):
    ts = SUNDAY_2300_UTC + np.arange(-50, 50) * 1_234_567
    many = time_category(name, ts, zone).to_pylist()
    assert [time_category(name, ts[at : at + 1], zone)[0].as_py() for at in range(len(ts))] == many


def test_numbers_from_text_and_types():
    texts = pa.array(["1.5", " -2e1 ", "", "abc", None, "nan", "inf"])
    np.testing.assert_array_equal(number_values(texts, 7), [1.5, -20, np.nan, np.nan, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(number_values(pa.array([1, None]), 2), [1, np.nan])
    np.testing.assert_array_equal(number_values(None, 2), [np.nan, np.nan])


def test_categories_from_numbers_and_nulls():
    assert category_keys(pa.array([3, None]), 2).to_pylist() == ["3", ""]
    assert category_keys(None, 3).to_pylist() == ["", "", ""]
    assert category_keys(pa.array(["a", "b"]).dictionary_encode(), 2).to_pylist() == ["a", "b"]
    with pytest.raises(TypeError, match="kind 'categories'"):
        category_keys(pa.array([["a"]]), 1)


@pytest.mark.parametrize("separator", [",", "||", "，"])
@pytest.mark.parametrize("length", [1, 3])
def test_values_of_texts_are_those_of_a_plain_split(separator, length):
    texts = ["a, b ,c", "", None, ",,", " x||y|z ||", "一，二，，三，四", "||", "a"]
    for column in (
        pa.array(texts),
        pa.array(["other", *texts]).slice(1),
        pa.array(texts).dictionary_encode(),
    ):
        assert value_lists(column, separator, length).lists() == [
            plain_values(text, separator, length) for text in texts
        ]


def test_values_of_lists_need_no_separator():
    column = pa.array([["z"], ["a,b", " c "], None, [], ["", None, "d", "e", "f"]]).slice(1)
    expected = [["a,b", "c"], [], [], ["d", "e"]]
    assert value_lists(column, ",", 2).lists() == expected
    assert value_lists(column.cast(pa.large_list(pa.string())), ",", 2).lists() == expected
    assert value_lists(pa.array([[1, 2], [3]]), ",", 2).lists() == [["1", "2"], ["3"]]


def test_tokens_are_words_then_pairs_cut_to_the_length():
    texts = pa.array(["Red  SHOES, size-42!", "one", None, "", "?!", "中国 abc"])
    assert text_tokens(texts, 6).lists() == [
        ["red", "shoes", "size", "42", "red shoes", "shoes size"],
        ["one"], [], [], [],
        ["中", "国", "abc", "中 国", "国 abc"],
    ]  # fmt: skip
    assert text_tokens(texts, 2).lists()[0] == ["red", "shoes"]
    assert text_tokens(pa.array(["don’t—stop「か」ｘ，ｙ 100€"]), 99).lists()[0][:8] == [
        "don", "t", "stop", "か", "ｘ", "ｙ", "100€", "don t",
    ]  # fmt: skip


def test_tokens_equal_a_regular_expression_and_can_be_joined_again():
    generator = np.random.default_rng(0)
    letters = list("abcXYZ09 ,.-éÉ中文\t")
    texts = ["".join(generator.choice(letters, size)) for size in generator.integers(0, 40, 200)]
    for length in (1, 4, 100):
        bags = text_tokens(pa.array(texts), length)
        assert bags.lists() == [plain_tokens(text, length) for text in texts]
        again = text_tokens(joined_words(bags.keys, bags.offsets), length)
        assert again.lists() == bags.lists()


def test_keys_of_every_kind_by_hand_and_alone_as_among_many():
    side = FeatureColumns(FEATURES, REQUEST, "UTC")
    given, ts_ms = columns()
    many = {f.table: bags.lists() for f, bags in zip(side.categories, side.keys(given, ts_ms), strict=True)}
    plain = {name: column.to_pylist() for (_, name), column in given.items()}
    hours = [str(ts // 3_600_000 % 24) for ts in ts_ms.tolist()]
    assert many["user.town"] == [[town] if town else [] for town in plain["town"]]
    assert many["user.age"] == [[age] if age else [] for age in plain["age"]]
    assert many["user.interests"] == [plain_values(text, "|", 3) for text in plain["interests"]]
    assert many["context.query"] == [plain_tokens(text, 5) for text in plain["query"]]
    assert many["time.hour_of_day"] == [[hour] for hour in hours]
    assert many["context.town_by_hour"] == [
        [f"{town}\x1f{hour}\x1f{device}"] if town and device else []
        for town, hour, device in zip(plain["town"], hours, plain["device"], strict=True)
    ]
    for at in range(len(ts_ms)):
        one = {name: column.slice(at, 1) for name, column in given.items()}
        for feature, bags in zip(side.categories, side.keys(one, ts_ms[at : at + 1]), strict=True):
            assert bags.lists() == [many[feature.table][at]]


def test_a_column_that_is_not_there_is_missing_everywhere():
    side = FeatureColumns(FEATURES, REQUEST, "UTC")
    for n in (1, 3):
        ts_ms = np.full(n, SUNDAY_2300_UTC)
        for feature, bags in zip(side.categories, side.keys({}, ts_ms), strict=True):
            assert bags.lists() == [["23"] if feature.source == "time" else []] * n
        slots = side.entries({}, ts_ms, observing({}))
        assert slots.shape == (n, side.slots)
        assert (slots[:, side.layout["time.hour_of_day"]] == 0).all()
        assert (slots >= 0).sum() == n
        assert np.isnan(side.raw_numbers({}, ts_ms)).all()


def test_columns_of_other_types_are_read_as_texts_or_refused():
    side = FeatureColumns(FEATURES, REQUEST, "UTC")
    numbers = {("user", "interests"): pa.array([3, None]), ("context", "query"): pa.array([4.5, 2.0])}
    keys = dict(zip(side.layout, side.keys(numbers, np.zeros(2, np.int64)), strict=True))
    assert keys["user.interests"].lists() == [["3"], []]
    assert keys["context.query"].lists() == [["4", "5", "4 5"], ["2"]]
    with pytest.raises(TypeError, match=r"got list.*declare kind 'categories'"):
        side.keys({("context", "query"): pa.array([["a"]])}, np.zeros(1, np.int64))


def test_entries_lie_where_the_layout_says():
    side = FeatureColumns(FEATURES, REQUEST, "UTC")
    assert [feature.name for feature in side.categories] == [
        "town_by_hour", "town", "interests", "age", "device", "query", "hour_of_day",
    ]  # fmt: skip
    assert side.slots == 1 + 1 + 3 + 1 + 1 + 5 + 1
    assert side.layout["user.interests"] == slice(2, 5)
    assert side.layout["context.query"] == slice(7, 12)
    assert side.side_width == 7 * 8 + 3
    given, ts_ms = columns()
    ids = {}
    slots = side.entries(given, ts_ms, observing(ids))
    assert slots.dtype == np.int32
    for feature, bags in zip(side.categories, side.keys(given, ts_ms), strict=True):
        part = slots[:, side.layout[feature.table]]
        assert [
            [key for key in ids[feature.table].keys_of(row[row >= 0]).to_pylist() if key] for row in part
        ] == bags.lists()
        assert (np.diff((part < 0).astype(int), axis=1) >= 0).all()  # nothing behind the first -1
    read_only = side.entries(given, ts_ms, lambda table, keys, _: ids[table].lookup(keys))
    np.testing.assert_array_equal(read_only, slots)


def test_each_key_is_seen_at_the_time_of_its_row():
    feature = FeatureConfig(name="tags", source="item", kind="categories", length=3)
    ids = {}
    FeatureColumns([feature], ("item",), "UTC").entries(
        {("item", "tags"): pa.array(["a,b", "", "b,c"])}, np.array([10, 20, 30]), observing(ids)
    )
    assert ids["item.tags"].last_seen_ms(ids["item.tags"].lookup(pa.array(["a", "b", "c"]))).tolist() == [
        10, 30, 30,
    ]  # fmt: skip


def test_columns_of_entries_give_the_same_entries():
    side = FeatureColumns(FEATURES, REQUEST, "UTC")
    given, ts_ms = columns()
    ids = {}
    slots, raw = side.entries(given, ts_ms, observing(ids)), side.raw_numbers(given, ts_ms)
    for rows in (slice(None), slice(7, 8), slice(0, 0)):
        again = side.columns_of(slots[rows], raw[rows], ids)
        read = side.entries(again, ts_ms[rows], lambda table, keys, _: ids[table].lookup(keys))
        np.testing.assert_array_equal(read, slots[rows])
        np.testing.assert_array_equal(side.raw_numbers(again, ts_ms[rows]), raw[rows])


def test_bags_of_slots_average_what_is_known():
    slots = np.array([[4, 2, -1], [-1, -1, -1], [7, 8, 9]], np.int32)
    entries, offsets, weights = slot_bags(slots)
    assert entries.tolist() == [4, 2, -1, 7, 8, 9]
    assert offsets.tolist() == [0, 2, 3, 6]
    np.testing.assert_allclose(weights, [0.5, 0.5, 1, 1 / 3, 1 / 3, 1 / 3])
    assert bag_slots(entries, offsets, 3).tolist() == slots.tolist()
    wide = np.array([[5, 4, 2, -1], [5, -1, -1, -1], [5, 7, 8, 9]], np.int32)
    assert slot_bags(wide[:, 1:])[0].tolist() == entries.tolist()
    assert slot_bags(np.empty((2, 0), np.int32))[0].tolist() == [-1, -1]
    with pytest.raises(ValueError, match="3 keys does not fit 2 slots"):
        bag_slots(entries, offsets, 2)
    assert KeyBags(pa.array(["a", "b", ""]), np.array([0, 2, 3])).times(np.array([5, 9])).tolist() == [
        5,
        5,
        9,
    ]


def test_standardised_numbers_by_hand():
    feature = FeatureConfig(name="x", source="user", kind="number", transforms=("square", "sqrt", "log"))
    side = FeatureColumns([feature], ("user",), "UTC")
    assert side.side_width == 5
    raw = side.raw_numbers({("user", "x"): pa.array([1.0, 9.0, None])}, np.zeros(3, np.int64))
    side.fit(raw)
    expected = [[-1, -1, -1, -1, 0], [1, 1, 1, 1, 0], [0, 0, 0, 0, 1]]
    np.testing.assert_allclose(side.standardised(raw), expected, atol=1e-5)
    restored = FeatureColumns([feature], ("user",), "UTC")
    restored.restore(side.state())
    assert restored.standardised(raw).tobytes() == side.standardised(raw).tobytes()


def test_example_age_is_fed_in_training_and_zero_in_serving():
    side = FeatureColumns([FeatureConfig(name="example_age", source="time", kind="number")], ("time",), "UTC")
    raw = side.raw_numbers({}, np.zeros(2, np.int64))
    assert raw.tolist() == [[0], [0]]
    assert side.with_age(raw, np.array([0, 86_400_000 * 3])).tolist() == [[0], [3]]


def test_crosses_of_item_features_are_the_item_tower_s():
    side = FeatureColumns(FEATURES, ("item",), "UTC")
    attributes = {("item", "brand"): pa.array(["x", "x", None]), ("item", "group"): pa.array(["g", "", "g"])}
    keys = side.keys(attributes, np.zeros(3, np.int64))
    assert keys[2].lists() == [["x\x1fg"], [], []]
    assert side.reads("item") == ["brand", "group"]
    assert FeatureColumns(FEATURES, REQUEST, "UTC").reads("context") == ["device", "query"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"name": "hours", "source": "time"}, "known: hour_of_day, day_of_week, example_age"),
        ({"name": "example_age", "source": "time"}, "example_age: expected kind 'number'"),
        (
            {"name": "hour_of_day", "source": "time", "kind": "number"},
            "hour_of_day: expected kind 'category'",
        ),
        ({"name": "day_of_week", "source": "time", "kind": "tokens"}, "day_of_week: expected kind"),
        ({"transforms": ("log",)}, "transforms are of numbers"),
        ({"length": 3}, "length is of categories and tokens"),
        ({"kind": "number", "length": 3}, "length is of categories and tokens"),
        ({"kind": "tokens", "separator": "|"}, "separator is of kind 'categories'"),
        ({"of": ("a", "b")}, "of names the parts of a cross"),
        ({"kind": "cross", "source": "item", "of": ("a",)}, "two or more different features"),
        ({"kind": "cross", "source": "item", "of": ("a", "a")}, "two or more different features"),
        ({"kind": "cross", "of": ("a", "b")}, "'item' .* or 'context'"),
        ({"kind": "colour"}, "Input should be"),
        ({"kind": "tokens", "length": 0}, "greater than or equal to 1"),
    ],
)
def test_declarations_that_mean_nothing_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        FeatureConfig(**{"name": "x", "source": "user", **wrong})


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (
            "nothing",
            r"'nothing' is not declared; categories of this side: user.town, user.age, context.device",
        ),
        ("brand", "item.brand, of the other side"),
        ("query", "of kind 'tokens'; expected a category"),
        ("town_by_hour", "of kind 'cross'; expected a category"),
        ("age", "user.age and context.age; write one"),
    ],
)
def test_crosses_of_what_cannot_be_crossed_are_refused(part, says):
    cross = FeatureConfig(name="new", source="context", kind="cross", of=("town", part))
    features = (*FEATURES, cross)
    if part == "age":
        features = (*features, FeatureConfig(name="age", source="context"))
    with pytest.raises(ValueError, match=says):
        FeatureColumns(features, REQUEST, "UTC")
    with pytest.raises(ValueError, match=says):
        FeatureColumns(features, ("item",), "UTC")  # whichever side is built first


def test_a_column_declared_twice_is_refused():
    check_features(FEATURES)
    with pytest.raises(ValueError, match=r"user.town is declared 2 times, as category, tokens"):
        check_features((*FEATURES, FeatureConfig(name="town", source="user", kind="tokens")))
    with pytest.raises(ValueError, match=r"user.town is declared 2 times"):
        check_features((*FEATURES, FEATURES[1]))


def test_declarations_survive_a_manifest():
    for feature in FEATURES:
        assert FeatureConfig.model_validate(feature.model_dump(mode="json")) == feature
    assert FeatureConfig(name="x", source="item", kind="categories").slots == 8
    assert FeatureConfig(name="x", source="item", kind="tokens").slots == 16
    with pytest.raises(ValueError, match="kinds"):
        HistoryConfig(kinds=())
