"""The same moments give the same vectors, whoever is asked: training tables, a Learner, a published model
with deltas.
"""

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.learner import Learner, Moments, PublishedModel
from models.moments import one_moment
from tests.models.learning_data import (
    DAY_MS,
    FEATURES,
    HOUR_MS,
    START_MS,
    Files,
    catalogue,
    config,
    contents,
    events,
    trained,
)

VARIANTS = [
    pytest.param("two_tower", {}, id="two_tower"),
    pytest.param(
        "two_tower", {"shared_items": True, "history_half_life_days": 0.2}, id="two_tower-shared-rows"
    ),
    pytest.param("two_tower", {"admit_after": 3}, id="two_tower-admission"),
    pytest.param("youtube_dnn", {}, id="youtube_dnn"),
    pytest.param("youtube_dnn", {"shared_items": True}, id="youtube_dnn-shared-rows"),
    pytest.param("youtube_dnn", {"id_dim": 8}, id="youtube_dnn-narrow-ids"),
]


def step_inputs(learner, samples):
    """User vectors of samples as a training step computes them, from entries."""
    from models.steps import StepPlan, _Lookup

    stepper = learner._stepper
    numbers = learner._request_features.standardised(samples.numbers)
    item_numbers = learner._item_features.standardised(learner._items.numbers)
    plan = StepPlan(frozenset(), False, None, numbers, item_numbers, 0.0, 0.0, 0)
    lookup = _Lookup(learner._tables, plan.trained)
    with torch.no_grad():
        users = stepper._user_inputs(samples, plan, slice(None), lookup)
        pooled, _ = stepper._history_and_items(samples, samples.item.astype(np.int64), plan, lookup)
        return learner._model.user_vectors(users(pooled)).numpy()


@pytest.mark.parametrize(("kind", "changes"), VARIANTS)
def test_training_learner_and_server_agree(kind, changes):
    learner = trained(kind, **changes)
    samples = learner.prepare(events(200, users=25, seed=4, start_ms=START_MS + DAY_MS), catalogue())
    moments = learner.moments(samples)
    from_keys = learner.user_vectors(moments)
    np.testing.assert_allclose(step_inputs(learner, samples), from_keys, atol=1e-6)
    published = PublishedModel.load(Files(learner), "m")
    assert published.user_vectors(moments).tobytes() == from_keys.tobytes()
    one = one_moment(
        moments.user_id[150].as_py(),
        int(moments.ts_ms[150]),
        [
            (moments.history_id[place].as_py(), int(moments.history_ts_ms[place]))
            for place in range(moments.history_offsets[150], moments.history_offsets[151])
        ],
        {name: column[150].as_py() for name, column in moments.context.items()},
        {name: column[150].as_py() for name, column in moments.user_attributes.items()},
    )
    np.testing.assert_allclose(published.user_vectors(one)[0], from_keys[150], atol=1e-6)
    keys, vectors = learner.item_vectors()
    items = catalogue().items.take(pa.array(catalogue().item_positions(keys)))
    attributes = {name: items[name].combine_chunks() for name in ("colour", "tags", "price")}
    np.testing.assert_allclose(published.item_vectors(keys, attributes), vectors, atol=1e-6)


@pytest.mark.parametrize(("kind", "changes"), VARIANTS)
def test_bundle_and_deltas_equal_the_learner(kind, changes):
    tables = {"trained_tables": ("user", "item"), "published_tables": ("user", "item")}
    learner = trained(kind, **changes, **tables, expire_after_days=0.5)
    base = PublishedModel.load(Files(learner), "m")
    published = base
    samples = None
    for number in range(3):
        start_ms = START_MS + DAY_MS + number * HOUR_MS
        hour = events(50, users=30, items=50, seed=10 + number, start_ms=start_ms, span_ms=HOUR_MS)
        samples = learner.prepare(hour, catalogue())
        learner.train_incremental(samples)
        touched = learner.touched()
        removed = learner.expire(start_ms + HOUR_MS)
        live = {
            name: [key not in set(removed[name].to_pylist()) for key in rows.keys.to_pylist()]
            for name, rows in touched.items()
        }
        rows = {
            name: (t.keys.filter(pa.array(live[name])), t.rows[live[name]]) for name, t in touched.items()
        }
        published = published.with_rows(rows, removed)
        learner.clear_touched()
        moments = learner.moments(learner.prepare(hour.slice(0, 0), catalogue()))
        assert len(moments) == 0
    moments = one_moments(learner)
    assert np.abs(base.user_vectors(moments) - learner.user_vectors(moments)).max() > 1e-6
    np.testing.assert_allclose(published.user_vectors(moments), learner.user_vectors(moments), atol=1e-6)


def one_moments(learner):
    """Every user with a history of known, removed and unknown items."""
    users = [f"#{n}" if n % 2 else f"u{n}" for n in range(40)]
    history = [[f"i{(n * 7 + k) % 60}" for k in range(n % 9)] for n in range(40)]
    flat = [key for keys in history for key in keys]
    return Moments(
        user_id=pa.array(users),
        ts_ms=np.full(40, START_MS + 2 * DAY_MS),
        history_id=pa.array(flat, pa.string()),
        history_offsets=np.concatenate([[0], np.cumsum([len(keys) for keys in history])]),
        history_ts_ms=np.full(len(flat), START_MS + DAY_MS),
    )


@pytest.mark.parametrize("kind", ["two_tower", "youtube_dnn"])
def test_unknown_users_are_answered_and_reading_changes_nothing(kind):
    learner = trained(kind)
    before = contents(learner)
    moments = one_moment(
        "never seen", START_MS, [("unknown item", START_MS - 5), ("i1", START_MS - 1)], {"device": "tv"}
    )
    vector = learner.user_vectors(moments)
    assert vector.shape == (1, 16)
    assert np.isfinite(vector).all()
    nothing = learner.user_vectors(one_moment("", START_MS, []))
    assert np.isfinite(nothing).all()
    assert contents(learner) == before
    if kind == "two_tower":
        assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)


def test_histories_as_given_equal_histories_of_the_table():
    learner = Learner.fresh(config(), FEATURES)
    table = events(600)
    samples = learner.prepare(table, catalogue())
    moments = learner.moments(samples)
    positives = table.filter(pa.compute.equal(table["kind"], "purchase")).to_pylist()
    seen, rows = {}, []
    for number, event in enumerate(positives):
        request = event["request_id"] or number
        past = seen.setdefault(event["user_id"], [])
        if any(one[0] == event["item_id"] and one[2] == request for one in past):
            continue
        rows.append([one[0] for one in past if one[1] < event["ts_ms"] and one[2] != request][-6:])
        past.append((event["item_id"], event["ts_ms"], request))
    lists = [
        moments.history_id[int(begin) : int(end)].to_pylist()
        for begin, end in zip(moments.history_offsets[:-1], moments.history_offsets[1:], strict=True)
    ]
    assert len(lists) == len(rows)
    full = [place for place, row in enumerate(rows) if len(row) == len(lists[place])]
    assert len(full) > 0.95 * len(rows)  # the table forgets beyond twice the length read
    assert [lists[place] for place in full] == [rows[place] for place in full]


def test_moments_of_unequal_columns_are_refused():
    with pytest.raises(ValueError, match="ts_ms has 2 rows, user_id has 1"):
        Moments(
            pa.array(["a"]),
            np.zeros(2, np.int64),
            pa.array([], pa.string()),
            np.zeros(2, np.int64),
            np.zeros(0, np.int64),
        )
    with pytest.raises(ValueError, match="history_offsets end at 3"):
        Moments(
            pa.array(["a"]), np.zeros(1, np.int64), pa.array(["x"]), np.array([0, 3]), np.zeros(1, np.int64)
        )


def test_deltas_of_another_shape_are_refused():
    published = PublishedModel.load(Files(trained()), "m")
    with pytest.raises(KeyError, match="nothing"):
        published.with_rows({"nothing": (pa.array(["a"]), np.zeros((1, 16), np.float32))})
    with pytest.raises(ValueError, match=r"expected rows \(1, 16\)"):
        published.with_rows({"user": (pa.array(["a"]), np.zeros((1, 8), np.float32))})
