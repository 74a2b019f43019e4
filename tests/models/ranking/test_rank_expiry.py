"""What a ranker has not seen for long is gone: rows, counts and pairs; whoever comes then begins anew."""

import numpy as np
import pyarrow as pa
import pytest

from models.ranking.counts import COUNTED
from models.ranking.rank_learner import RankLearner
from models.ranking.row_space import PAIRS
from tests.models.learning_data import DAY_MS, FEATURES, START_MS, catalogue
from tests.models.ranking.ranking_data import KINDS, Files, config, contents, joined


def stretch(number: int, **changes) -> pa.Table:
    """A day of rows, ten days after the one before; users and items are its own."""
    rows = joined(120, seed=number, start_ms=START_MS + 10 * number * DAY_MS, **changes)
    for name in ("user_id", "item_id"):
        own = pa.array([key and f"{number}-{key}" for key in rows[name].to_pylist()])
        rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), own)
    return rows


def taught(kind: str, stretches: range, days: float) -> RankLearner:
    learner = RankLearner.fresh(config(kind, expire_after_days=days), FEATURES)
    for number in stretches:
        learner.train(learner.prepare(stretch(number), catalogue()))
        learner.expire(START_MS + (10 * number + 1) * DAY_MS)
    return learner


@pytest.mark.parametrize("kind", KINDS)
def test_unseen_ones_are_as_if_they_had_never_been(kind):
    learner = taught(kind, range(2), days=5)
    parts, space = learner._parts, learner._parts.space
    gone, kept = stretch(0), stretch(1)
    for field, column in (("user", "user_id"), ("item", "item_id")):
        known = {key for key in kept[column].to_pylist() if key}
        ids = space.ids[field]
        assert set(ids.keys_of(ids.live_entries()).to_pylist()) == known
        assert (ids.lookup(gone[column]) == -1).all()
    strangers = gone.set_column(
        gone.column_names.index("user_id"), gone.schema.field("user_id"), pa.array(["stranger"] * len(gone))
    )
    strangers = strangers.set_column(
        gone.column_names.index("item_id"), gone.schema.field("item_id"), pa.array(["strange"] * len(gone))
    )
    for head, values in learner.predict(gone, catalogue()).items():
        np.testing.assert_array_equal(values, learner.predict(strangers, catalogue())[head])
    # Oracle: exposures by hand, of the kept stretch only.
    for name in COUNTED:
        ids, held = space.ids[name], parts.counts._of[name]
        live = ids.live_entries()
        free = np.setdiff1d(np.arange(len(held)), live)
        assert not held[free].any()
        if name in ("user", "item"):
            shown = kept[f"{name}_id"].to_pylist()
            for entry in live[live < len(held)]:
                assert held[entry, 0] == shown.count(ids.keys_of(np.array([entry]))[0].as_py())


@pytest.mark.parametrize("kind", ["logistic", "pepnet"])
def test_a_freed_row_begins_anew_and_files_hold_what_is_left(kind):
    learner = taught(kind, range(2), days=5)
    loaded = RankLearner.load(Files(learner), "r")
    assert contents(loaded) == contents(learner)
    for one in (learner, loaded):
        samples = one.prepare(stretch(2), catalogue())
        space = one._parts.space
        ids = space.ids["user"]
        fresh = ids.lookup(stretch(2)["user_id"])
        rows = space._places["user"][ids.rows(fresh[fresh >= 0])]
        cold = space.cold("user")
        if space.rows is not None:
            weights, momentum = space.rows.weights.numpy(), space.rows.momentum.numpy()
            assert np.abs(weights[rows] - weights[cold]).max() <= one.config.row_init * (1 + 1e-6)
            assert not momentum[rows].any()
        if space.first is not None:
            assert (space.first.weights[rows] == space.first.weights[cold]).all()
            assert not space.first.momentum[rows].any()
        one.train(samples)
    assert contents(loaded) == contents(learner)


def test_what_a_ranker_holds_does_not_grow_with_time():
    bounded, unbounded = taught("logistic", range(8), days=5), taught("logistic", range(8), days=400)
    for field in ("user", "item", PAIRS):
        two = taught("logistic", range(2), days=400)._parts.space.ids[field].entry_capacity
        assert bounded._parts.space.ids[field].entry_capacity <= 1.5 * two  # they differ by chance
        assert unbounded._parts.space.ids[field].entry_capacity >= 3 * two
