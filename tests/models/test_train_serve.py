"""The same moments give the same scores, whoever is asked: a training step, a Learner, a published model with
deltas, many moments or one.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from models.candidates import Negatives, draw_candidates
from models.learner import Learner, Moments, PublishedModel
from models.lookup import Lookup
from models.moments import HistoryLists, one_moment
from models.pacing import BLOCK_BYTES
from models.retrieve import dense_scores
from models.samplers import UnigramSampler
from models.steps import StepPlan
from models.time_features import local_midnight_ms
from tests.models.learning_data import (
    DAY_MS,
    FEATURES,
    FEW,
    HOUR_MS,
    KINDS,
    OPTIONS,
    START_MS,
    VARIANTS,
    Files,
    catalogue,
    config,
    events,
    trained,
    variant,
)


def step_scores(learner, samples):
    """(user vectors, candidates, scores) of samples as a training step computes them, from entries."""
    stepper, ids = learner._training.stepper, learner._tables.ids["item"]
    sampler = UnigramSampler(ids.entry_rows > 0, np.ones(ids.entry_capacity), 0.0, 0)
    plan = StepPlan(
        trained=frozenset(),
        negatives=Negatives(sampler, None, 0),
        numbers=learner._request_features.standardised(samples.numbers),
        item_numbers=learner._item_features.standardised(learner._items.numbers),
        companions=np.empty((len(samples), 0), np.int64),
        offline=None,
        user_dropout=0.0,
        item_dropout=0.0,
    )
    targets = samples.item.astype(np.int64)[:, None]
    candidates = draw_candidates(
        learner.config, samples, targets, stepper._own(samples), None, plan.negatives, learner._estimator, 0
    )
    lookup = Lookup(learner._tables, plan.trained)
    users = stepper._users(samples, slice(None), plan, lookup)
    items = stepper._items(candidates.entries, plan, lookup, 0)
    lookup.run()
    with torch.no_grad():
        towers, inputs = learner._model.towers, users()
        v_UD, u_BVD = towers.item_vectors(items()), towers.user_vectors(inputs)
        u_BD = towers.for_target(u_BVD, v_UD[torch.from_numpy(candidates.positive[:, 0])])
        scores = stepper._scores(samples, candidates, inputs, u_BD, v_UD)
    return u_BVD.numpy(), candidates, scores


@pytest.mark.parametrize(("kind", "option"), VARIANTS)
def test_training_learner_and_server_agree(kind, option):
    learner = variant(kind, option)
    samples = learner.prepare(events(120, users=25, seed=4, start_ms=START_MS + DAY_MS), catalogue())
    moments, dim = learner.moments(samples), learner.config.dim
    queries = learner.queries(moments)
    keys, vectors = learner.item_vectors()
    u_BVD, candidates, scores = step_scores(learner, samples)
    np.testing.assert_allclose(u_BVD, queries.vectors[:, :, :dim], atol=1e-6)
    # A row of mind is trained with one of its vectors, and popularity counts as of the row's own hour.
    if kind != "mind" and option != "all":
        dense = dense_scores(queries, keys, vectors)
        column = learner._tables.ids["item"].keys_of(candidates.entries)
        column = pa.compute.index_in(column, keys).to_numpy(zero_copy_only=False)
        row = np.arange(len(samples))[:, None]
        np.testing.assert_allclose(scores.positive, dense[row, column[candidates.positive]], atol=1e-5)
        of_rows = dense[row, column[candidates.rows]]
        np.testing.assert_allclose(
            scores.rows.numpy()[~candidates.rows_hit], of_rows[~candidates.rows_hit], atol=1e-5
        )
        shared = np.broadcast_to(dense[:, column[candidates.shared]], candidates.shared_hit.shape)
        np.testing.assert_allclose(
            scores.shared.numpy()[~candidates.shared_hit], shared[~candidates.shared_hit], atol=1e-5
        )
    published = PublishedModel.load(Files(learner), "m")
    served = published.queries(moments)
    np.testing.assert_allclose(served.vectors, queries.vectors, atol=1e-6)
    np.testing.assert_allclose(served.own_score, queries.own_score, atol=1e-6)
    np.testing.assert_allclose(served.own_vectors, queries.own_vectors, atol=1e-6)
    assert served.own_id.equals(queries.own_id)
    assert served.own_offsets.tolist() == queries.own_offsets.tolist()
    for place in (3, 60):
        assert_alone_as_among_many(published, moments, place, served)
    items = catalogue().items.take(pa.array(catalogue().item_positions(keys)))
    attributes = {name: items[name].combine_chunks() for name in ("colour", "tags", "price")}
    np.testing.assert_allclose(published.item_vectors(keys, attributes)[:, :dim], vectors[:, :dim], atol=1e-6)


@pytest.mark.parametrize("kind", ["two_tower", "fm", "youtube_dnn"])
def test_own_items_with_popularity_score_alike(kind):
    """A step at the very next instant reads the counts that the published vectors hold."""
    counts = ({"half_life_h": 12}, {"half_life_h": 3, "floor": 2.0}, {"half_life_h": 24, "by": "scene"})
    learner = trained(kind, FEW, popularity=counts, popularity_every_s=1, own_items=8, own_negatives=4)
    head = learner._model.head
    assert (head.own_popularity.weight != 0).any()
    assert head.own_similarity.item() != 1.0
    keys, vectors = learner.item_vectors()
    next_ms = (learner._preparation.newest_ms // 1000 + 1) * 1000
    assert local_midnight_ms(next_ms, "UTC") == local_midnight_ms(next_ms - 1000, "UTC")
    samples = learner.prepare(events(200, users=20, seed=5, start_ms=next_ms, span_ms=1), catalogue())
    _, candidates, scores = step_scores(learner, samples)
    dense = dense_scores(learner.queries(learner.moments(samples)), keys, vectors)
    place = pc.index_in(learner._tables.ids["item"].keys_of(candidates.entries), keys)
    place = pc.fill_null(place, -1).to_numpy(zero_copy_only=False)
    row = np.arange(len(samples))[:, None]
    for part, among, own, left_out in (
        (scores.positive, candidates.positive, candidates.own_positive, ~candidates.known),
        (scores.rows, candidates.rows, candidates.own_rows, candidates.rows_hit),
    ):
        known = (place[among] >= 0) & ~left_out
        assert (known & (own >= 0)).any()
        np.testing.assert_allclose(part.numpy()[known], dense[row, place[among]][known], atol=1e-5)


def assert_alone_as_among_many(published, moments, place, queries):
    """The request of one moment, as a server gets it, gives the moment's query."""

    def entries(lists):
        part = range(int(lists.offsets[place]), int(lists.offsets[place + 1]))
        return [(lists.id[at].as_py(), int(lists.ts_ms[at])) for at in part]

    one = one_moment(
        moments.user_id[place].as_py(),
        int(moments.ts_ms[place]),
        entries(moments.history),
        {name: column[place].as_py() for name, column in moments.context.items()},
        {name: column[place].as_py() for name, column in moments.user_attributes.items()},
        {name: entries(lists) for name, lists in moments.histories.items()},
    )
    alone = published.queries(one)
    np.testing.assert_allclose(alone.vectors[0], queries.vectors[place], atol=1e-6)
    part = slice(queries.own_offsets[place], queries.own_offsets[place + 1])
    assert alone.own_id.to_pylist() == queries.own_id[part].to_pylist()
    np.testing.assert_allclose(alone.own_score, queries.own_score[part], atol=1e-6)
    np.testing.assert_allclose(alone.own_vectors[0], queries.own_vectors[place], atol=1e-6)


DELTAS = [*((kind, "plain") for kind in KINDS), ("two_tower", "all"), ("fm", "all"), ("mind", "all")]


@pytest.mark.parametrize(("kind", "option"), DELTAS)
def test_bundle_and_deltas_equal_the_learner(kind, option):
    tables = {"trained_tables": ("user", "item"), "published_tables": ("user", "item")}
    learner = trained(kind, FEW, **OPTIONS[option], **tables, expire_after_days=0.5)
    learner.rebase(START_MS + DAY_MS)
    base = PublishedModel.load(Files(learner), "m")
    published = base
    items = dict(zip(*(part.tolist() for part in learner.item_vectors()), strict=True))
    for number in range(3):
        start_ms = START_MS + DAY_MS + number * HOUR_MS
        hour = events(50, users=30, items=50, seed=10 + number, start_ms=start_ms, span_ms=HOUR_MS)
        samples = learner.prepare(hour, catalogue())
        learner.train_incremental(samples)
        touched = learner.touched()
        removed = learner.expire(start_ms + HOUR_MS)
        gone = {name: set(keys.to_pylist()) for name, keys in removed.items()}
        live = {
            name: [key not in gone[name] for key in rows.keys.to_pylist()] for name, rows in touched.items()
        }
        rows = {
            name: (t.keys.filter(pa.array(live[name])), t.rows[live[name]]) for name, t in touched.items()
        }
        published = published.with_rows(rows, removed)
        items |= dict(zip(touched["item"].keys.to_pylist(), touched["item"].vectors.tolist(), strict=True))
        items = {key: vector for key, vector in items.items() if key not in gone["item"]}
        learner.clear_touched()
    moments = one_moments(learner)
    expected = learner.queries(moments)
    assert np.abs(base.queries(moments).vectors - expected.vectors).max() > 1e-6
    np.testing.assert_allclose(published.queries(moments).vectors, expected.vectors, atol=1e-6)
    np.testing.assert_allclose(published.queries(moments).own_score, expected.own_score, atol=1e-6)
    np.testing.assert_allclose(published.queries(moments).own_vectors, expected.own_vectors, atol=1e-6)
    keys, vectors = learner.item_vectors()
    assert set(keys.to_pylist()) == set(items)
    shipped = np.array([items[key] for key in keys.to_pylist()], np.float32)
    dim = learner.config.dim
    assert np.abs(shipped[:, dim:] - vectors[:, dim:]).max(initial=0) < 1e-4  # popularity, in one frame
    moved_alone = np.abs(shipped[:, :dim] - vectors[:, :dim]).max(1) > 1e-5
    assert not moved_alone.any()


@pytest.mark.parametrize(("kind", "option"), DELTAS)
def test_what_is_encoded_together_is_to_the_bit_what_it_is_alone(kind, option):
    learner = trained(kind, FEW, **OPTIONS[option])
    published, moments = PublishedModel.load(Files(learner), "m"), one_moments(learner)
    sizes = [size for size in (2, 5, published.together) if size <= published.together]
    assert sizes or kind not in ("two_tower", "youtube_dnn")
    for size in sizes:
        few = Moments(
            moments.user_id.slice(0, size),
            moments.ts_ms[:size],
            moments.history_id,
            moments.history_offsets[: size + 1],
            moments.history_ts_ms,
            {name: column.slice(0, size) for name, column in moments.context.items()},
            {name: column.slice(0, size) for name, column in moments.user_attributes.items()},
            {
                name: HistoryLists(lists.id, lists.offsets[: size + 1], lists.ts_ms)
                for name, lists in moments.histories.items()
            },
        )
        queries = published.queries(few)
        for place in range(size):
            alone, here = published.queries(moments.row(place)), queries.part(slice(place, place + 1))
            np.testing.assert_array_equal(alone.vectors, here.vectors)
            np.testing.assert_array_equal(alone.own_vectors, here.own_vectors)
            np.testing.assert_array_equal(alone.own_score, here.own_score)
            assert alone.own_id.to_pylist() == here.own_id.to_pylist()


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
    assert lists == rows


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


def test_deltas_of_many_blocks_lie_over_each_other():
    """More rows than are copied in one go: of both deltas, of the later one, and of neither."""
    published, rng = PublishedModel.load(Files(trained()), "m"), np.random.default_rng(8)
    first, second = (rng.normal(size=(40_000, 16)).astype(np.float32) for _ in range(2))
    assert first.nbytes > 2 * BLOCK_BYTES
    names = np.array([f"late{n}" for n in range(60_000)])
    order = rng.permutation(40_000)
    laid = published.with_rows({"user": (pa.array(names[:40_000]), first)})
    both = laid.with_rows({"user": (pa.array(names[20_000:][order]), second[order])})
    found = both._values_of("user", pa.array([*names, "nobody"]))
    np.testing.assert_array_equal(found[:20_000], first[:20_000])
    np.testing.assert_array_equal(found[20_000:-1], second)
    np.testing.assert_array_equal(found[-1], published._values_of("user", pa.array(["nobody"]))[0])
    np.testing.assert_array_equal(laid._values_of("user", pa.array(names[:40_000])), first)
