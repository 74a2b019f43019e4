"""What every recall model promises, whatever its options: what may move, save and load, determinism, finite
numbers, reads that change nothing.
"""

import numpy as np
import pyarrow as pa
import pytest

from models.learner import Learner, PublishedModel
from models.moments import one_moment
from models.retrieve import dense_scores
from tests.models.learning_data import (
    DAY_MS,
    FEW,
    HOUR_MS,
    KINDS,
    START_MS,
    VARIANTS,
    Files,
    catalogue,
    config,
    contents,
    events,
    trained,
    variant,
)

LATER_MS = START_MS + DAY_MS


def hour(seed=1, n=60, **changes):
    return events(n, seed=seed, start_ms=LATER_MS, span_ms=HOUR_MS, **changes)


def finite(learner):
    return all(
        np.isfinite(array).all()
        for part, arrays in learner.save().items()
        if part.startswith("table.") or part == "dense"
        for array in arrays.values()
        if array.dtype == np.float32
    )


@pytest.mark.parametrize(("kind", "option"), VARIANTS)
def test_save_load_save_is_byte_identical_and_training_goes_on_the_same(kind, option):
    learner = variant(kind, option)
    learner.train_incremental(learner.prepare(hour(), catalogue()))
    learner.observe(hour(seed=7), catalogue())  # and a delta that was not made yet
    loaded = Learner.load(Files(learner), "m")
    assert contents(loaded) == contents(learner)
    assert (loaded.config, loaded.features) == (learner.config, learner.features)
    shipped = [
        {table: rows.keys.to_pylist() for table, rows in one.touched().items()} for one in (learner, loaded)
    ]
    assert shipped[0] == shipped[1]
    later = events(150, seed=3, start_ms=LATER_MS + HOUR_MS)
    for each in (learner, loaded):
        assert np.isfinite(each.train_incremental(each.prepare(hour(seed=2, user_offset=5), catalogue())))
        assert np.isfinite(each.train_full(each.prepare(later, catalogue())))
        each.expire(LATER_MS + 2 * DAY_MS)
    assert finite(learner)
    assert contents(loaded) == contents(learner)


@pytest.mark.parametrize(("kind", "option"), VARIANTS)
def test_incremental_steps_move_and_ship_the_user_rows_that_were_read(kind, option):
    learner = variant(kind, option)
    learner.rebase(LATER_MS)
    before = learner.save()
    samples = learner.prepare(hour(user_offset=10), catalogue())  # users 10..29: ten of them new
    prepared = learner.save()["table.user"]["weights"]
    assert np.isfinite(learner.train_incremental(samples))
    after = learner.save()
    assert set(after["dense"]) == set(before["dense"])
    for name, array in before["dense"].items():
        assert after["dense"][name].tobytes() == array.tobytes(), name
    for part in before:
        if part.startswith("table.") and part != "table.user":
            had = len(before[part]["weights"])  # new items may have been given rows
            for name in ("weights", "momentum"):
                assert after[part][name][:had].tobytes() == before[part][name].tobytes(), (part, name)
    touched = np.unique(learner._tables.ids["user"].rows(samples.user))
    moved = np.flatnonzero((after["table.user"]["weights"] != prepared).any(1))
    if not learner.config.user_row:
        assert len(moved) == 0
    elif learner.config.loss == "pairwise_hinge":  # a row whose pairs keep the margin has no gradient
        assert set(moved) <= set(touched)
        assert len(moved)
    else:
        assert moved.tolist() == touched[touched > 0].tolist()
    for name in ("weights", "momentum"):
        assert after["table.user"][name][0].tobytes() == before["table.user"][name][0].tobytes()
    # What a delta ships: the rows that were read, as they are now.
    shipped = learner.touched()
    assert set(shipped) == {"user"} | ({"item"} if learner.config.popularity else set())
    ids, keys = learner._tables.ids["user"], shipped["user"].keys
    read = touched[touched > 0] if learner.config.user_row else touched[:0]
    assert sorted(ids.rows(ids.lookup(keys))) == read.tolist()
    assert (
        shipped["user"].rows.tobytes() == after["table.user"]["weights"][ids.rows(ids.lookup(keys))].tobytes()
    )
    assert shipped["user"].vectors is None
    learner.clear_touched()
    assert all(len(rows.keys) == 0 for rows in learner.touched().values())


@pytest.mark.parametrize(("kind", "option"), VARIANTS)
def test_reading_changes_nothing_and_everybody_is_answered(kind, option):
    learner = variant(kind, option)
    published = PublishedModel.load(Files(learner), "m")
    before, width = contents(learner), learner.item_vectors()[1].shape[1]
    stranger = one_moment(
        "never seen", LATER_MS, [("unknown item", LATER_MS - 5), ("i1", LATER_MS - 1)], {"device": "tv"},
        None, {"views": [("i2", LATER_MS - 9)]},
    )  # fmt: skip
    for moments in (stranger, one_moment("", LATER_MS, [])):
        for model in (learner, published):
            queries = model.queries(moments)
            interests = learner.config.interests if kind == "mind" else 1
            assert queries.vectors.shape == (1, interests, width)
            assert np.isfinite(queries.vectors).all()
            assert np.isfinite(queries.own_score).all()
    _, vectors = learner.item_vectors()
    assert np.isfinite(vectors).all()
    unknown = published.item_vectors(pa.array(["never seen"]), {"colour": pa.array(["c1"])})
    assert unknown.shape == (1, width)
    assert np.isfinite(unknown).all()
    learner.touched()
    assert contents(learner) == before
    if learner._model.towers.unit_length:
        lengths = np.linalg.norm(vectors[:, : learner.config.dim], axis=1)
        np.testing.assert_allclose(lengths, 1, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_two_runs_give_the_same_bytes_and_seeds_differ(kind):
    first = contents(variant(kind, "plain"))
    assert contents(trained(kind)) == first
    assert contents(trained(kind, seed=1)) != first


@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_the_loss(kind):
    learner = Learner.fresh(config(kind), FEW)
    samples = learner.prepare(events(), catalogue())
    losses = [learner.train_full(samples) for _ in range(5)]
    assert losses[-1] < 0.97 * losses[0]


@pytest.mark.parametrize("kind", KINDS)
def test_item_rows_ship_re_encoded_vectors_when_configured(kind):
    learner = trained(kind, FEW, trained_tables=("user", "item"), published_tables=("user", "item"))
    cold = learner.save()["table.item"]["weights"][0].copy()
    keys, before = learner.item_vectors()
    learner.train_incremental(learner.prepare(hour(items=45), catalogue()))
    item = learner.touched()["item"]
    keys, after = learner.item_vectors()
    at = {key: place for place, key in enumerate(keys.to_pylist())}
    places = [at[key] for key in item.keys.to_pylist()]
    np.testing.assert_allclose(item.vectors, after[places], atol=1e-6)
    changed = np.flatnonzero((after[: len(before)] != before).any(1))
    assert len(changed)
    assert set(changed) <= set(places)
    assert learner.save()["table.item"]["weights"][0].tobytes() == cold.tobytes()


def test_nce_fits_log_probabilities_with_its_constant():
    learner = Learner.fresh(config(loss="nce", popularity=({"half_life_h": 12},), tau=0.5), FEW)
    samples = learner.prepare(events(2000), catalogue())
    for _ in range(3):
        learner.train_full(samples)
    keys, vectors = learner.item_vectors()
    newest = samples.take(np.arange(len(samples) - 100, len(samples)))
    scores = dense_scores(learner.queries(learner.moments(newest)), keys, vectors)
    log_partition = np.log(np.exp(scores / 0.5).sum(1)).mean()
    constant = float(learner.save()["dense"]["weight.head.offset"][0])
    # exp(s + c) sums to about one: counts grow while the one constant is fitted to the whole day.
    assert constant == pytest.approx(-log_partition, rel=0.3)
    assert learner.save()["dense"]["weight.head.popularity.bias"][0] > 0.3  # popular items stay likely


@pytest.mark.parametrize(
    "loss", ["softmax", "nce", "pairwise_hinge", "pairwise_logistic", "listwise", "pointwise"]
)
@pytest.mark.parametrize("hard", [(), ("online", "offline", "rejects")])
def test_every_loss_trains_with_every_extra(loss, hard):
    extras = {"own_items": 4, "popularity": ({"half_life_h": 12},), "hard_ranks": (5, 20)}
    learner = Learner.fresh(config(loss=loss, hard_negatives=hard, **extras), FEW)
    samples = learner.prepare(events(250), catalogue())
    stage, rank = np.ones(len(samples), np.uint8), np.zeros(len(samples), np.int32)
    learner.rejects.observe(samples.user, samples.item[::-1].copy(), stage, rank, samples.ts_ms - 1)
    losses = [learner.train_full(samples) for _ in range(4)]
    assert np.isfinite(losses).all()
    if not hard:  # hard ones follow the model: their loss need not fall
        assert losses[3] < losses[0]
    assert np.isfinite(learner.train_incremental(learner.prepare(hour(), catalogue())))
    assert finite(learner)
