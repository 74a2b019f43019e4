"""Rows of half precision: what NumPy makes of them, served as float32 rows with the same numbers would be."""

import numpy as np
import pyarrow as pa
import pytest

from models.bundle import model_file
from models.frozen_ids import FrozenIds, read_only
from models.half_rows import half_rows, halved, rows_part
from models.learner import PublishedModel
from models.moments import one_moment
from tests.models.learning_data import FEW, OPTIONS, Files, trained

MODELS = [("two_tower", "plain"), ("youtube_dnn", "shared_items"), ("mind", "all"), ("fm", "all")]


class HalfFiles(Files):
    """The same bundle with rows of half precision for serving, and without those that they stand for."""

    def __init__(self, learner, name="m"):
        super().__init__(learner, name)
        self.manifest["models"][name]["rows"] = "float16"
        halves = half_rows(name, self._tensors)
        for file in halves:
            del self._tensors[file.replace("served.", "table.")]
        self._tensors |= halves


class RoundedFiles(Files):
    """The oracle: float32 rows that have the numbers of half precision."""

    def __init__(self, learner, name="m"):
        super().__init__(learner, name)
        for table in ("user", "item", "history_item"):
            part = self._tensors.get(model_file(name, f"table.{table}"), {})
            if part:
                part["weights"] = part["weights"].astype(np.float16).astype(np.float32)


def moments():
    times = 1_700_000_000_000 + np.arange(9)
    history = [(f"i{n}", int(time)) for n, time in enumerate(times)]
    return [one_moment(user, int(times[-1]) + 1, history) for user in ("u1", "u2", "u3", "new", "")]


def assert_same_answers(one, other):
    for moment in moments():
        ours, theirs = one.queries(moment), other.queries(moment)
        for name in ("vectors", "own_vectors", "own_score"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_every_finite_number_is_read_to_the_bit():
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)].reshape(-1, 32)  # zeros of both signs and subnormal ones too
    keys = pa.array([f"#{n}" for n in range(len(halves))])
    values = np.full(halves.shape, -1, np.float32)
    FrozenIds.of_unique(keys).read_rows(keys, read_only(halves), values)
    np.testing.assert_array_equal(values.view(np.uint32), halves.astype(np.float32).view(np.uint32))


def test_a_key_without_a_row_leaves_its_own_as_it_is():
    halves = np.arange(6, dtype=np.float16).reshape(3, 2)
    values = np.full((4, 2), -1, np.float32)
    FrozenIds.of_unique(pa.array(["a", "b", "c"])).read_rows(
        pa.array(["x", "c", "", "a"]), read_only(halves), values
    )
    assert values.tolist() == [[-1, -1], [4, 5], [-1, -1], [0, 1]]


@pytest.mark.parametrize(("kind", "option"), MODELS)
def test_answers_are_those_of_rounded_rows_and_near_those_of_whole_ones(kind, option):
    learner = trained(kind, FEW, **OPTIONS[option])
    half, whole = PublishedModel.load(HalfFiles(learner), "m"), PublishedModel.load(Files(learner), "m")
    assert_same_answers(half, PublishedModel.load(RoundedFiles(learner), "m"))
    differ = False
    for moment in moments():
        u, v = half.queries(moment).vectors, whole.queries(moment).vectors
        np.testing.assert_allclose(u, v, rtol=0, atol=2e-3 * np.abs(v).max())
        differ |= bool((u != v).any())
    assert differ
    items = pa.array(["i1", "i2", "never seen"])
    attributes = {"colour": pa.array(["red", "blue", "red"]), "price": pa.array([1.0, 2.0, 3.0])}
    rounded = PublishedModel.load(RoundedFiles(learner), "m")
    np.testing.assert_array_equal(
        half.item_vectors(items, attributes), rounded.item_vectors(items, attributes)
    )


@pytest.mark.parametrize(("kind", "option"), MODELS)
def test_rows_of_deltas_lie_over_it_in_its_precision(kind, option):
    """Twice, and what was removed falls back to the cold row, as it is served."""
    learner = trained(kind, FEW, **OPTIONS[option])
    rows = np.random.default_rng(3).standard_normal((3, learner.config.id_dim)).astype(np.float32)

    def laid_over(files, rows):
        model = PublishedModel.load(files(learner), "m")
        first = pa.array(["u1", "u3", "later"]), rows
        model = model.with_rows({"user": first}, {"user": pa.array(["u2"])})
        return model.with_rows({"user": (pa.array(["u2", "u4"]), rows[:2])}, {"user": pa.array(["u1"])})

    rounded = rows.astype(np.float16).astype(np.float32)
    half, oracle = laid_over(HalfFiles, rows), laid_over(RoundedFiles, rounded)
    assert half._overlays["user"].rows.dtype == np.float16
    assert_same_answers(half, oracle)
    cold = learner.save()["table.user"]["weights"][0].astype(np.float16).astype(np.float32)
    got = half._values_of("user", pa.array(["u1", "later", "u2", "nobody", "u4"]))
    np.testing.assert_array_equal(got, [cold, rounded[2], rounded[0], cold, rounded[1]])
    with pytest.raises(ValueError, match=r"table user: row 1: expected numbers within 65,504"):
        laid_over(HalfFiles, rows * np.float32([[1], [1e9], [1]]))


def test_tables_of_features_stay_as_they_are():
    entry = {"rows": "float16"}
    parts = [rows_part(table, entry) for table in ("user", "item", "history_item", "item.colour")]
    assert parts == ["served.user", "served.item", "served.history_item", "table.item.colour"]
    assert rows_part("user", {}) == "table.user"
    learner = trained("two_tower", FEW)
    held = {model_file("m", part): tensors for part, tensors in learner.save().items()}
    halves = half_rows("m", held)
    assert sorted(halves) == [
        model_file("m", f"served.{table}") for table in ("history_item", "item", "user")
    ]
    for file, part in halves.items():
        whole = held[file.replace("served.", "table.")]
        np.testing.assert_array_equal(part["weights"], whole["weights"].astype(np.float16))
        ids = {name: array for name, array in part.items() if name != "weights"}
        assert ids.keys() == (set() if "history" in file else {"ids.key_bytes", "ids.key_offsets", "ids.row"})
        for name, array in ids.items():
            np.testing.assert_array_equal(array, whole[name])


def test_a_row_that_does_not_fit_is_told():
    learner = trained("two_tower", FEW)
    held = {model_file("m", part): tensors for part, tensors in learner.save().items()}
    held[model_file("m", "table.item")]["weights"][7, 2] = -7e4
    said = r"model m: table item: row 7: expected numbers within 65,504.*got 70000"
    with pytest.raises(ValueError, match=said):
        half_rows("m", held)


def test_many_rows_are_those_of_numpy():
    rows = np.random.default_rng(0).standard_normal((40_000, 2)).astype(np.float32)
    np.testing.assert_array_equal(halved(rows, "x"), rows.astype(np.float16))
    rows[33_333] = np.inf
    with pytest.raises(ValueError, match=r"x: row 33333: expected numbers within 65,504.*got inf"):
        halved(rows, "x")
