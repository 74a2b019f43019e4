"""What comes in: joined rows, labels, counts, numbers, configuration."""

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from models.ranking.counts import COUNTED, Counts
from models.ranking.joined import JOINED, checked, corrected
from models.ranking.labels import task_labels, watch_seconds
from models.ranking.number_encoding import NumberEncoding
from models.ranking.rank_config import RankConfig, WatchConfig
from models.ranking.rank_learner import RankLearner
from tests.models.learning_data import FEATURES, catalogue
from tests.models.ranking.ranking_data import TASKS, config, joined


def actions(*rows):
    return pa.array([list(row.items()) for row in rows], JOINED.field("actions").type)


def test_a_label_is_any_of_the_kinds_whatever_its_value():
    found = task_labels(
        config(), actions({}, {"click": 0.0}, {"finish": 1.0, "view": 3.0}, {"click": 1.0, "long_view": 2.0})
    )
    assert found.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]]


def test_a_label_after_another_needs_it():
    tasks = (TASKS[0], {**TASKS[1], "after": "click"})
    found = task_labels(config(tasks=tasks), actions({"long_view": 1.0}, {"click": 1.0, "long_view": 1.0}))
    assert found.tolist() == [[0, 0], [1, 1]]


def test_watch_time_in_seconds():
    watch = WatchConfig(cap_s=10.0)
    found = watch_seconds(watch, actions({}, {"view": 2500.0}, {"view": 99_999.0}))
    assert found.tolist() == [0.0, 2.5, 10.0]
    for value in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"row 1: view: expected a value of 0 or more"):
            watch_seconds(watch, actions({}, {"view": value}))


def test_joined_rows_are_checked():
    assert checked(joined(5)).schema == JOINED
    large = joined(5).set_column(2, "user_id", joined(5)["user_id"].cast(pa.large_string()))
    assert checked(large).schema == JOINED
    with pytest.raises(ValueError, match="no column scene, late; expected event_id"):
        checked(joined(5).drop_columns(["scene", "late"]))
    with pytest.raises(ValueError, match="joined samples: expected"):
        checked(joined(5).set_column(1, "ts_ms", pa.array(["noon"] * 5)))
    with pytest.raises(ValueError, match="1 of 5 rows have no item_id"):
        checked(joined(5).set_column(3, "item_id", pa.array(["a", "b", None, "c", "d"])))
    with pytest.raises(ValueError, match="emitted_ms: expected a time"):
        checked(joined(2).set_column(9, "emitted_ms", pa.array([1, None], pa.int64())))


def test_a_late_row_takes_the_place_of_the_first():
    table = joined(6)
    assert corrected(table) is table
    late = table.take([4, 1]).set_column(8, "late", pa.array([True, True]))
    both = corrected(pa.concat_tables([table, late]))
    assert both["event_id"].to_pylist() == ["e0-0", "e0-2", "e0-3", "e0-5", "e0-4", "e0-1"]
    assert both["late"].to_pylist() == [False] * 4 + [True] * 2
    alone = corrected(late)  # its first row was learned before
    assert alone.num_rows == 2
    learner = RankLearner.fresh(config(author=""), ())
    assert len(learner.prepare(pa.concat_tables([table, late]), catalogue())) == 6


def test_counts_against_plain_sums():
    rng = np.random.default_rng(0)
    counts = Counts(tasks=2, smoothing=5.0)
    assert np.isnan(counts.read("item", np.array([0, -1]))).all()  # nothing is known of any rate
    seen = {name: rng.integers(-1, 6, 50).astype(np.int32) for name in COUNTED}
    labels = (rng.random((50, 2)) < 0.3).astype(np.float32)
    counts.add({name: one[:20] for name, one in seen.items()}, labels[:20])
    counts.add({name: one[20:] for name, one in seen.items()}, labels[20:])
    asked = np.array([0, 3, 99, -1])
    for name in COUNTED:
        found = counts.read(name, asked)
        for row, entry in enumerate(asked):
            mine = seen[name] == entry if entry >= 0 else np.zeros(50, bool)
            prior = (labels.sum(0) + 1) / 52
            rate = (labels[mine].sum(0) + 5 * prior) / (mine.sum() + 5)
            expected = [np.log1p(mine.sum()), *np.log(rate / (1 - rate))]
            np.testing.assert_allclose(found[row], expected, rtol=1e-5)
    again = Counts(2, 5.0)
    again.restore(counts.state())
    np.testing.assert_array_equal(again.read("user", asked), counts.read("user", asked))
    assert {k: v.tobytes() for k, v in again.state().items()} == {
        k: v.tobytes() for k, v in counts.state().items()
    }


def test_numbers_scaled_and_binned():
    feature = FEATURES[-1]  # price, with its log
    encoding = NumberEncoding([None, feature], 4, "minmax")
    assert (encoding.numbers, encoding.width, encoding.rows_each) == (2, 3, 5)
    raw = np.stack([np.arange(9), 2.0 ** np.arange(9)], axis=1).astype(np.float32)
    raw[4, 0] = np.nan
    encoding.fit(raw)
    scaled, bins = encoding.scaled(raw), encoding.binned(raw)
    np.testing.assert_allclose(scaled[:, 0], [0, 0.125, 0.25, 0.375, 0, 0.625, 0.75, 0.875, 1], atol=1e-6)
    low, high = np.log1p(1), np.log1p(256)
    np.testing.assert_allclose(scaled[:, 2], (np.log1p(raw[:, 1]) - low) / (high - low), atol=1e-6)
    assert bins[4, 0] == 0
    assert sorted(set(bins[:, 1])) == [1, 2, 3, 4]
    wild = np.array([[np.inf, -1e30], [1e30, np.nan]], np.float32)
    assert encoding.scaled(wild).tolist() == [[0, 0, 0], [1, 0, 0]]
    assert encoding.binned(wild).tolist() == [[0, 1], [4, 0]]
    encoding.fit(raw * 3)  # the range widens, the bins stay
    np.testing.assert_array_equal(encoding.binned(raw), bins)
    assert encoding.scaled(raw)[8, 0] == pytest.approx(1 / 3)
    again = NumberEncoding([None, feature], 4, "minmax")
    again.restore(encoding.state())
    np.testing.assert_array_equal(again.scaled(raw), encoding.scaled(raw))


def test_numbers_by_mean_and_deviation():
    encoding = NumberEncoding([None, FEATURES[-1]], bins=0)
    raw = np.random.default_rng(0).normal(3.0, 2.0, (50, 2)).astype(np.float32)
    raw[3, 0] = np.nan
    encoding.fit(raw[:20])
    encoding.fit(raw[20:])
    x = np.stack([raw[:, 0], raw[:, 1], np.sign(raw[:, 1]) * np.log1p(np.abs(raw[:, 1]))], axis=1)
    expected = (x - np.nanmean(x, 0)) / np.nanstd(x, 0)
    np.testing.assert_allclose(encoding.scaled(raw), np.nan_to_num(expected), rtol=1e-4, atol=1e-5)
    assert np.abs(encoding.scaled(raw * 1e9)).max() == 5.0
    assert encoding.rows_each == 0


def test_numbers_without_any_value_are_missing():
    encoding = NumberEncoding([None], bins=3)
    assert encoding.scaled(np.array([[np.inf]], np.float32)).tolist() == [[0]]
    raw = np.array([[1.0], [np.nan]], np.float32)
    assert encoding.binned(raw).tolist() == [[1], [0]]
    encoding.fit(raw[1:])
    assert encoding.scaled(raw).tolist() == [[0], [0]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "mmoes"}, "'logistic', 'weighted_lr', 'deepfm', 'mmoe' or 'pepnet'"),
        ({"experst": 3}, "experst"),
        ({"tasks": ()}, "at least 1"),
        ({"tasks": (TASKS[0], TASKS[0])}, "'click' is there twice"),
        (
            {"tasks": ({"name": "buy", "kinds": ("buy",), "after": "tap"},)},
            "'tap' is no earlier task",
        ),
        ({"tasks": ({"name": "shown", "kinds": ("impression",)},)}, "every row is an impression"),
        ({"tasks": ({"name": "click", "kinds": ("click",), "blend": 0.0},)}, "expected one above 0"),
        ({"kind": "weighted_lr"}, "expected a section watch"),
        ({"watch": {"click": "tap"}}, "'tap' is no task"),
        ({"dim": 6}, "multiple of 4"),
        ({"linear_share": 1.0}, "less than 1"),
        ({"kind": "logistic", "linear_share": 0.5}, "expected linear_share 0, got 0.5"),
        ({"watch": {"cap_s": float("inf")}}, "finite"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        RankConfig.model_validate({"kind": "pepnet", **given})


def test_presets_and_explicit_values():
    published = RankConfig(preset="published")
    assert (published.lr_rows, published.lr_dense, published.dim, published.gamma) == (0.05, 5e-6, 16, 2.0)
    assert RankConfig(preset="published", dim=8).dim == 8
    assert RankConfig.model_validate(published.model_dump(mode="json")) == published


def test_learner_refuses_what_it_cannot_build():
    with pytest.raises(ValueError, match=r"got 'maker'; there are: item\.colour"):
        RankLearner.fresh(config(author="maker"), FEATURES)
    with pytest.raises(ValueError, match="expected hidden layers"):
        RankLearner.fresh(config("mmoe", hidden=()), FEATURES)
    with pytest.raises(ValueError, match="expected epnet = true"):
        RankLearner.fresh(config(epnet=False, ppnet_gate="epnet_gate"), FEATURES)
    with pytest.raises(ValueError, match="no column actions"):
        RankLearner.fresh(config(), FEATURES).prepare(joined(4).drop_columns("actions"), catalogue())
