"""New items of a model without an item tower begin at the mean of the items that are most like them."""

import numpy as np
import pyarrow as pa
import pytest

from models.catalogue_columns import CatalogueColumns
from models.feature_config import FeatureConfig
from models.item_start import SIMILAR, similar_means
from models.learner import Learner, PublishedModel
from models.moments import one_moment
from models.retrieve import dense_scores
from tests.models.learning_data import DAY_MS, START_MS, Files, config, contents

FEATURES = (
    FeatureConfig(name="taste", source="item"),
    FeatureConfig(name="tags", source="item", kind="categories", length=3, separator="|"),
    FeatureConfig(name="title", source="item", kind="tokens", length=5),
)
SHIPPED = {"trained_tables": ("user", "item"), "published_tables": ("user", "item")}


def brute_force(new, trained, rows, most):
    """By sets and sums."""
    sets = [set(codes.tolist()) - {-1} for codes in trained]
    holders = {code: sum(code in one for one in sets) for one in sets for code in one}
    means, counts = np.zeros((len(new), rows.shape[1])), np.zeros(len(new), int)
    for n, codes in enumerate(new):
        shared = [(set(codes.tolist()) - {-1}) & one for one in sets]
        score = np.array([sum(np.log(1 + len(sets) / holders[code]) for code in both) for both in shared])
        if not score.any():
            continue
        least = np.sort(score)[::-1][min(most, len(score)) - 1]
        taken = (score > 0) & (score >= least - 1e-9)
        means[n], counts[n] = rows[taken].mean(0), taken.sum()
    return means, counts


@pytest.mark.parametrize(
    ("new", "trained", "values", "slots"), [(30, 200, 40, 4), (50, 7, 300, 3), (9, 90, 2, 1)]
)
@pytest.mark.parametrize("most", [1, 5, SIMILAR])
def test_is_the_mean_of_the_most_similar_by_brute_force(new, trained, values, slots, most):
    rng = np.random.default_rng(new)
    new_NC, trained_MC = (
        np.where(rng.random((n, slots)) < 0.3, -1, rng.integers(0, values, (n, slots)))
        for n in (new, trained)
    )
    new_NC[0], new_NC[1] = -1, values + 5  # nothing known, and a value that no trained item has
    rows_ME = rng.normal(size=(trained, 6)).astype(np.float32)
    before = new_NC.copy(), trained_MC.copy(), rows_ME.copy()
    means, counts = similar_means(new_NC, trained_MC, rows_ME, most)
    expected, expected_counts = brute_force(new_NC, trained_MC, rows_ME, most)
    np.testing.assert_array_equal(counts, expected_counts)
    np.testing.assert_allclose(means, expected, atol=1e-5)
    assert counts[:2].tolist() == [0, 0]
    assert counts.any()
    for array, copy in zip((new_NC, trained_MC, rows_ME), before, strict=True):
        assert array.tobytes() == copy.tobytes()


def test_nothing_trained_and_nothing_new():
    none, some, rows = np.empty((0, 2), np.int64), np.zeros((3, 2), np.int64), np.ones((3, 4), np.float32)
    assert similar_means(some, none, rows[:0])[1].tolist() == [0, 0, 0]
    assert similar_means(none, some, rows)[0].shape == (0, 4)


def events(users, items, start_ms=START_MS):
    n = len(users)
    return pa.table(
        {
            "user_id": [f"u{user}" for user in users],
            "item_id": [str(item) for item in items],
            "kind": ["purchase"] * n,
            "scene": [""] * n,
            "request_id": [""] * n,
            "ts_ms": start_ms + 1000 * np.arange(n, dtype=np.int64),
        }
    )


def checkerboard(n=3000):
    """Even users take even items of 60, odd users odd ones."""
    rng = np.random.default_rng(0)
    users = rng.integers(0, 40, n)
    return events(users, 2 * rng.integers(0, 30, n) + users % 2)


def catalogue(new=()):
    """Even items taste sweet, odd ones sour; new: (name, taste, tags, title) of further items."""
    items = [(str(at), "sour" if at % 2 else "sweet", f"all|t{at % 2}", f"no {at}") for at in range(60)]
    names, tastes, tags, titles = zip(*items, *new, strict=True)
    return CatalogueColumns(
        pa.table({"item_id": list(names), "taste": list(tastes), "tags": list(tags), "title": list(titles)})
    )


NEW = (("new sweet", "sweet", "t0", "fresh"), ("new sour", "sour", "t1", ""), ("plain", None, "", ""))


def trained(**changes):
    learner = Learner.fresh(config("youtube_dnn", **{**SHIPPED, **changes}), FEATURES)
    samples = learner.prepare(checkerboard(), catalogue())
    for _ in range(4):
        learner.train_full(samples)
    learner.rebase(START_MS + DAY_MS)
    return learner


def rows_of(learner, *keys):
    ids = learner._tables.ids["item"]
    return ids.rows(ids.lookup(pa.array(keys)))


def hour(n=1):
    """Somebody unknown takes each of the new items n times."""
    names = [name for name, *_ in NEW] * n
    return events([1000 + at for at in range(len(names))], names, START_MS + DAY_MS)


def rank_for(model, user, item, keys, vectors):
    """Place of an item among all for a user who took the first items of their taste."""
    history = [(str(2 * at + user % 2), START_MS + DAY_MS - 9000 + at) for at in range(5)]
    moment = one_moment(f"u{user}", START_MS + DAY_MS, history)
    order = np.argsort(-dense_scores(model.queries(moment), keys, vectors)[0], kind="stable")
    return keys.take(pa.array(order)).to_pylist().index(item)


@pytest.mark.parametrize(
    "changes",
    [
        SHIPPED,
        {"popularity": ({"half_life_h": 12},), "trained_tables": ("user",), "published_tables": ("user",)},
    ],
)
def test_a_new_item_is_retrieved_beside_those_like_it_before_any_step(changes):
    learner = trained(**changes)
    base = PublishedModel.load(Files(learner), "m")
    learner.prepare(hour(), catalogue(NEW))
    keys, vectors = learner.item_vectors()
    weights = learner.save()["table.item"]["weights"]
    sweet, sour = (rows_of(learner, *(str(at) for at in range(first, 60, 2))) for first in (0, 1))
    new_sweet, new_sour, plain = rows_of(learner, "new sweet", "new sour", "plain")
    # All sweet ones share as much with it, so that all are its most similar.
    np.testing.assert_allclose(weights[new_sweet], weights[sweet].mean(0), atol=1e-5)
    np.testing.assert_allclose(weights[new_sour], weights[sour].mean(0), atol=1e-5)
    assert weights[plain].tobytes() == weights[0].tobytes()
    for user, item, other in ((0, "new sweet", "new sour"), (1, "new sour", "new sweet")):
        assert rank_for(learner, user, item, keys, vectors) < 31  # among the 30 of their taste
        assert rank_for(learner, user, other, keys, vectors) > 30
    # A delta ships it like any changed item, and a server that has the delta sees the same row.
    shipped = learner.touched()["item"]
    assert {"new sweet", "new sour"} <= set(shipped.keys.to_pylist())
    served = base.with_rows({"item": (shipped.keys, shipped.rows)})
    at = keys.to_pylist().index("new sweet")
    assert (
        served._rows_of("item", pa.array(["new sweet"])).numpy()[0].tobytes() == weights[new_sweet].tobytes()
    )
    np.testing.assert_array_equal(vectors[at, : learner.config.dim], weights[new_sweet])


def test_without_features_a_new_item_stays_cold():
    learner = Learner.fresh(config("youtube_dnn", **SHIPPED), ())
    samples = learner.prepare(checkerboard(), catalogue())
    for _ in range(4):
        learner.train_full(samples)
    learner.rebase(START_MS + DAY_MS)
    learner.prepare(hour(), catalogue(NEW))
    weights = learner.save()["table.item"]["weights"]
    assert (weights[rows_of(learner, "new sweet", "new sour")] == weights[0]).all()
    assert len(learner.touched()["item"].keys) == 0
    keys, vectors = learner.item_vectors()
    assert rank_for(learner, 0, "new sweet", keys, vectors) > 20


def test_a_trained_row_is_left_alone_and_a_started_one_moves_by_training_only():
    learner = trained()
    before = learner.save()["table.item"]
    samples = learner.prepare(hour(), catalogue(NEW))
    started = learner.save()["table.item"]
    known = len(before["weights"])
    assert started["weights"][:known].tobytes() == before["weights"].tobytes()
    learner.train_incremental(samples)
    stepped = learner.save()["table.item"]
    rows = rows_of(learner, "new sweet", "new sour", "plain")
    assert (stepped["momentum"][rows] > 0).all()
    learner.observe(hour(2), catalogue(NEW))  # and other attributes of what is trained by now
    learner.observe(hour(3), catalogue([(name, "sour", "t1", "") for name, *_ in NEW]))
    assert learner.save()["table.item"]["weights"].tobytes() == stepped["weights"].tobytes()


def test_attributes_that_come_later_start_an_item_that_is_still_cold():
    learner = trained(popularity=({"half_life_h": 12},), trained_tables=("user",), published_tables=("user",))
    learner.train_incremental(learner.prepare(hour(), catalogue(NEW[:1])))
    new_sweet, new_sour = rows_of(learner, "new sweet", "new sour")
    weights = learner.save()["table.item"]["weights"]
    assert (weights[new_sweet] != weights[0]).any()
    assert (weights[new_sour] == weights[0]).all()
    learner.clear_touched()
    learner.observe(events([0], ["0"], START_MS + 2 * DAY_MS), catalogue(NEW))
    later = learner.save()["table.item"]["weights"]
    assert later[new_sweet].tobytes() == weights[new_sweet].tobytes()
    assert (later[new_sour] != later[0]).any()
    assert sorted(learner.touched()["item"].keys.to_pylist()) == ["0", "new sour"]


def test_full_training_starts_new_items_near_those_like_them():
    learner = trained()
    learner.train_full(learner.prepare(checkerboard(), catalogue(NEW)))
    learner.prepare(hour(), catalogue(NEW))
    before = learner.save()["table.item"]
    learner._training._begin(learner.prepare(checkerboard(), catalogue(NEW)))
    began = learner.save()["table.item"]
    sweet = rows_of(learner, *(str(at) for at in range(0, 60, 2)))
    new_sweet, plain = rows_of(learner, "new sweet", "plain")
    spread = learner.config.row_init
    assert 0 < np.abs(began["weights"][new_sweet] - began["weights"][sweet].mean(0)).max() <= 1.01 * spread
    assert 0 < np.abs(began["weights"][plain] - began["weights"][0]).max() <= 1.01 * spread
    moved = (began["weights"] != before["weights"]).any(1)
    assert (began["momentum"][moved] == 0).all()


def test_where_no_delta_ships_items_they_start_with_the_full_training():
    learner = trained(trained_tables=("user",), published_tables=("user",), shared_items=True)
    learner.prepare(hour(), catalogue(NEW))
    weights = learner.save()["table.item"]["weights"]
    assert (weights[rows_of(learner, "new sweet")] == weights[0]).all()  # as a server reads it


def test_save_and_load_go_on_the_same():
    learner = trained()
    learner.observe(hour(), catalogue(NEW[:1]))
    loaded = Learner.load(Files(learner), "m")
    assert contents(loaded) == contents(learner)
    for each in (learner, loaded):
        each.train_incremental(each.prepare(hour(2), catalogue(NEW)))
        each.train_full(each.prepare(hour(3), catalogue(NEW)))
    assert contents(loaded) == contents(learner)
    assert loaded.touched()["item"].rows.tobytes() == learner.touched()["item"].rows.tobytes()
