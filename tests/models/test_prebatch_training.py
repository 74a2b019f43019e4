"""Training from rows written ahead is training with the same negatives drawn in the step."""

from dataclasses import replace

import numpy as np
import pytest

from models.learner import Learner
from models.model_config import PER_ROW_LOSSES
from models.prebatch_file import read_prebatch, write_prebatch
from models.prebatch_step import distinct_items, written_candidates
from tests.models.learning_data import (
    DAY_MS,
    FEATURES,
    KINDS,
    START_MS,
    Files,
    catalogue,
    config,
    contents,
    events,
)

PLAIN = {
    "hard_negatives": (), "popularity": (), "own_items": 0, "loss": "listwise", "negative_source": "unigram",
    "negatives_per_row": 5,
}  # fmt: skip


def prepared(kind="two_tower", **changes):
    learner = Learner.fresh(config(kind, **{**PLAIN, **changes}), FEATURES)
    return learner, learner.prepare(events(), catalogue())


def assert_close(left, right):
    """All rows and weights of two learners, but for the order in which sums were taken: a first step of
    Adagrad or Adam is a full step, however small its gradient.
    """
    others = right.save()
    for part, arrays in left.save().items():
        for name, array in arrays.items():
            other = others[part][name]
            if array.dtype == np.float32:
                np.testing.assert_allclose(array, other, rtol=0.02, atol=2e-3, err_msg=f"{part} {name}")
            else:
                np.testing.assert_array_equal(array, other, err_msg=f"{part} {name}")


@pytest.mark.parametrize("kind", KINDS)
def test_equal_losses_on_the_same_draws(kind, tmp_path):
    (in_step, samples), (ahead, same) = prepared(kind), prepared(kind)
    done = []
    for number in range(2):  # the second pass has another order, other draws and trained rows
        path = tmp_path / f"{number}.arrow"
        before = contents(ahead)
        assert write_prebatch(path, ahead.prebatch(same), "b") == len(same)
        assert contents(ahead) == before
        loss = ahead.train_prebatched(
            lambda path=path: read_prebatch(path, "b"), lambda n, of: done.append((n, of))
        )
        assert loss == pytest.approx(in_step.train_full(samples), rel=1e-4)
        assert done[-1] == (len(same), len(same))
    assert_close(ahead, in_step)


@pytest.mark.parametrize("loss", PER_ROW_LOSSES)
def test_every_loss_row_by_row(loss):
    changes = {"loss": loss, "negative_source": "uniform"}
    (in_step, samples), (ahead, same) = prepared(**changes), prepared(**changes)
    batches = list(ahead.prebatch(same))
    assert ahead.train_prebatched(lambda: batches) == pytest.approx(in_step.train_full(samples), rel=1e-4)
    assert_close(ahead, in_step)


@pytest.mark.parametrize(("kind", "loss"), [("two_tower", "softmax"), ("youtube_dnn", "listwise")])
def test_the_switch_is_writing_and_training_in_one_call(kind, loss, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    changes = {"loss": loss, "prebatch": True, "samples_per_user": 12, "cold_repeats": 2}
    (by_switch, samples), (by_hand, same) = prepared(kind, **changes), prepared(kind, **changes)
    path, done = tmp_path / "rows.arrow", []
    for order in (None, np.random.default_rng(0).permutation(len(samples))):
        written = write_prebatch(path, by_hand.prebatch(same, order), "b")
        mean = by_hand.train_prebatched(lambda: read_prebatch(path, "b"))
        assert by_switch.train_full(samples, order, lambda n, of: done.append((n, of))) == mean
        assert done[-1] == (written, written)
        assert by_switch.resampled["capped"] > 0 < by_switch.resampled["repeated"]
    assert contents(by_switch) == contents(by_hand)
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.arrow"]  # its own file is gone
    hour = events(60, seed=1, start_ms=START_MS + DAY_MS)
    assert np.isfinite(by_switch.train_incremental(by_switch.prepare(hour, catalogue())))
    assert Learner.load(Files(by_switch), "m").config.prebatch


def test_the_switch_with_nothing_left_to_train():
    learner, samples = prepared(prebatch=True, popular_threshold=1e-12)
    before = contents(learner)
    assert np.isnan(learner.train_full(samples))
    assert learner.resampled["dropped"] == len(samples)
    assert contents(learner) == before


def test_users_are_capped_and_cold_items_repeated_when_rows_are_written():
    changes = {"samples_per_user": 12, "cold_repeats": 2}
    (in_step, samples), (ahead, same) = prepared(**changes), prepared(**changes)
    in_step.train_full(samples)
    changed = in_step.resampled
    assert changed["capped"] > 0 < changed["repeated"]
    written = sum(map(len, ahead.prebatch(same)))
    assert written == len(same) - changed["capped"] + changed["repeated"]


@pytest.mark.parametrize("loss", ["softmax", "nce"])
def test_losses_over_shared_negatives_take_the_rows_own_ones(loss):
    learner, samples = prepared(loss=loss)
    batches = list(learner.prebatch(samples))
    found = written_candidates(learner.config, batches[0], *distinct_items(batches[0]))
    np.testing.assert_array_equal(found.log_expected_rows, batches[0].log_expected[:, 1:])
    np.testing.assert_array_equal(found.log_expected_positive, batches[0].log_expected[:, :1])
    losses = [learner.train_prebatched(lambda: batches) for _ in range(4)]
    assert losses[-1] < losses[0]


def test_an_item_is_encoded_once_for_each_of_its_forms():
    learner, samples = prepared()
    rows = next(learner.prebatch(samples))
    first, places = distinct_items(rows)
    assert len(first) == len(np.unique(rows.items)) < rows.items.size
    np.testing.assert_array_equal(rows.items.ravel()[first][places], rows.items)
    item = rows.items[0, 0]
    at = np.argwhere(rows.items == item)
    rows.item_categories[tuple(at[-1])] += 1  # another colour since
    first, places = distinct_items(rows)
    assert len(first) == len(np.unique(rows.items)) + 1
    for name in ("item_categories", "item_numbers"):
        held = getattr(rows, name)
        np.testing.assert_array_equal(held.reshape(rows.items.size, -1)[first][places], held)
    assert places[tuple(at[-1])] != places[tuple(at[0])]


def test_rows_keep_what_was_true_when_they_were_written():
    """What happens after the writing moves no row: only new scales of numbers do, and there are none here."""
    written, unmoved = prepared(), prepared()
    batches = [list(learner.prebatch(samples)) for learner, samples in (written, unmoved)]
    learner = written[0]
    items = catalogue().items
    colour = items.schema.get_field_index("colour")
    learner._items.categories[:] = -1  # every item's attributes were taken away since
    assert items.column(colour).null_count < len(items)
    losses = [
        one.train_prebatched(lambda rows=rows: rows)
        for (one, _), rows in zip((written, unmoved), batches, strict=True)
    ]
    assert losses[0] == losses[1]


def test_nothing_to_train_and_rows_of_another_length():
    learner, samples = prepared()
    assert list(learner.prebatch(samples.take(slice(0, 0)))) == []
    assert np.isnan(learner.train_prebatched(list))
    batches = [
        replace(rows, history=rows.history[:, 1:], history_age_s=rows.history_age_s[:, 1:])
        for rows in learner.prebatch(samples)
    ]
    with pytest.raises(ValueError, match="histories of 5 items, the model reads 6"):
        learner.train_prebatched(lambda: batches)
    with pytest.raises(ValueError, match="expected hard_negatives off"):
        list(Learner.fresh(config("ebr"), ()).prebatch(samples))
    assert Learner.load(Files(learner), "m").config == learner.config
