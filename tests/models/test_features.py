import numpy as np
import pyarrow as pa
import pytest

from models.features import FeatureColumns, category_keys, number_values, time_category
from models.learner import FeatureConfig

SUNDAY_2300_UTC = 1_700_434_800_000  # 2023-11-19T23:00Z, already Monday morning in Shanghai


def test_hours_and_days_are_local():
    ts = np.array([SUNDAY_2300_UTC])
    assert time_category("hour_of_day", ts, "UTC").to_pylist() == ["23"]
    assert time_category("day_of_week", ts, "UTC").to_pylist() == ["6"]
    assert time_category("hour_of_day", ts, "Asia/Shanghai").to_pylist() == ["7"]
    assert time_category("day_of_week", ts, "Asia/Shanghai").to_pylist() == ["0"]


def test_numbers_from_text_and_types():
    texts = pa.array(["1.5", " -2e1 ", "", "abc", None, "nan", "inf"])
    np.testing.assert_array_equal(number_values(texts, 7), [1.5, -20, np.nan, np.nan, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(number_values(pa.array([1, None]), 2), [1, np.nan])
    np.testing.assert_array_equal(number_values(None, 2), [np.nan, np.nan])


def test_categories_from_numbers_and_nulls():
    assert category_keys(pa.array([3, None]), 2).to_pylist() == ["3", ""]
    assert category_keys(None, 3).to_pylist() == ["", "", ""]
    assert category_keys(pa.array(["a", "b"]).dictionary_encode(), 2).to_pylist() == ["a", "b"]


def test_standardised_numbers_by_hand():
    feature = FeatureConfig(name="x", source="user", kind="number", transforms=("square", "sqrt", "log"))
    columns = FeatureColumns([feature], ("user",), "UTC")
    assert columns.side_width == 5
    raw = columns.raw_numbers({("user", "x"): pa.array([1.0, 9.0, None])}, np.zeros(3, np.int64))
    columns.fit(raw)
    expected = [[-1, -1, -1, -1, 0], [1, 1, 1, 1, 0], [0, 0, 0, 0, 1]]
    np.testing.assert_allclose(columns.standardised(raw), expected, atol=1e-5)
    restored = FeatureColumns([feature], ("user",), "UTC")
    restored.restore(columns.state())
    assert restored.standardised(raw).tobytes() == columns.standardised(raw).tobytes()


def test_example_age_is_fed_in_training_and_zero_in_serving():
    columns = FeatureColumns(
        [FeatureConfig(name="example_age", source="time", kind="number")], ("time",), "UTC"
    )
    raw = columns.raw_numbers({}, np.zeros(2, np.int64))
    assert raw.tolist() == [[0], [0]]
    assert columns.with_age(raw, np.array([0, 86_400_000 * 3])).tolist() == [[0], [3]]


def test_unknown_time_feature_is_refused():
    with pytest.raises(ValueError, match="hour_of_day"):
        FeatureColumns([FeatureConfig(name="hours", source="time")], ("time",), "UTC")


@pytest.mark.parametrize(
    ("name", "kind"), [("example_age", "category"), ("hour_of_day", "number"), ("day_of_week", "number")]
)
def test_a_time_feature_of_the_wrong_kind_is_refused(name, kind):
    """It was silently read as the day of the week, or as the example's age."""
    with pytest.raises(ValueError, match=f"{name}: expected kind"):
        FeatureColumns([FeatureConfig(name=name, source="time", kind=kind)], ("time",), "UTC")


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu", "America/New_York"])
@pytest.mark.parametrize("name", ["hour_of_day", "day_of_week"])
def test_one_moment_has_the_time_it_has_among_many(name, zone):
    ts = SUNDAY_2300_UTC + np.arange(-50, 50) * 1_234_567
    many = time_category(name, ts, zone).to_pylist()
    assert [time_category(name, ts[at : at + 1], zone)[0].as_py() for at in range(len(ts))] == many
