"""What a Learner does with events, beyond the contract of every kind: new users, expiry, repeated events,
the start of item rows, refusals.
"""

import numpy as np
import pyarrow as pa
import pytest

from models.item2vec import item2vec
from models.learner import Learner, ModelConfig
from tests.models.learning_data import (
    DAY_MS,
    FEATURES,
    FEW,
    HOUR_MS,
    START_MS,
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


def weights(learner, table):
    return learner.save()[f"table.{table}"]["weights"]


def test_new_users_start_from_the_cold_row():
    learner = variant("two_tower", "plain")
    cold = weights(learner, "user")[0]
    assert np.abs(cold).sum() > 0  # some samples were trained as unknown users
    learner.prepare(hour(user_offset=100), catalogue())
    ids = learner._tables.ids["user"]
    row = ids.rows(ids.lookup(pa.array(["u100"])))[0]
    assert row > 0
    assert weights(learner, "user")[row].tobytes() == cold.tobytes()


def test_observed_events_move_histories_as_prepared_ones_do():
    prepared, observed = (Learner.fresh(config(own_items=5), FEATURES) for _ in range(2))
    prepared.prepare(events(), catalogue())
    observed.observe(events(), catalogue())
    left, right = prepared.save(), observed.save()
    for part in ("history", "targets", "table.item", "table.user"):
        for name, array in left[part].items():
            assert array.tobytes() == right[part][name].tobytes(), (part, name)
    left, right = (each.moments(each.prepare(hour(), catalogue())) for each in (prepared, observed))
    assert len(left.history_id) > len(left)
    assert left.history_id.equals(right.history_id)
    assert left.history_offsets.tolist() == right.history_offsets.tolist()


def test_one_target_per_user_request_and_item_across_intervals():
    learner = Learner.fresh(config(positives=("click", "like")), ())
    table = pa.table(
        {
            "user_id": ["a"] * 5,
            "item_id": ["x", "x", "x", "y", ""],
            "kind": ["click", "like", "click", "view", "click"],
            "scene": [""] * 5,
            "request_id": ["r1", "r1", "r2", "r1", "r1"],
            "ts_ms": [1000, 2000, 3000, 4000, 5000],
        }
    )
    samples = learner.prepare(table, catalogue())
    assert samples.ts_ms.tolist() == [1000, 3000]
    assert learner.prepare(table.slice(1, 1), catalogue()).ts_ms.tolist() == []
    assert learner.target_keys(samples).to_pylist() == ["x", "x"]


@pytest.mark.parametrize("option", ["plain", "all"])
def test_expiry_removes_users_and_items_everywhere(option):
    learner = variant("two_tower", option)
    learner.config = learner.config.model_copy(update={"expire_after_days": 1})
    learner.train_incremental(learner.prepare(hour(), catalogue()))
    kinds = ["purchase"] if option == "plain" else ["purchase", "view"]
    seen = hour().filter(pa.compute.is_in(hour()["kind"], pa.array(kinds)))
    kept = set(seen["user_id"].to_pylist())
    removed = learner.expire(LATER_MS + DAY_MS)
    assert kept.isdisjoint(removed["user"].to_pylist())
    ids = learner._tables.ids
    assert set(ids["user"].keys_of(ids["user"].live_entries()).to_pylist()) == kept
    keys, vectors = learner.item_vectors()
    assert set(keys.to_pylist()).isdisjoint(removed["item"].to_pylist())
    assert len(removed["item"])
    assert len(vectors) == len(keys)
    live, saved = ids["item"].live_entries(), learner.save()
    for part in [name for name in saved if name.startswith("history")]:
        assert np.isin(saved[part]["items"], live).all()
    assert np.isin(np.flatnonzero(saved["targets"]["counts"]), live).all()
    everyone = learner.expire(LATER_MS + 100 * DAY_MS)
    assert set(everyone["user"].to_pylist()) == kept
    assert not learner.save()["targets"]["counts"].any()
    assert len(learner.touched()["user"].keys) == 0
    again = events(seed=5, start_ms=LATER_MS + 100 * DAY_MS)
    assert np.isfinite(learner.train_full(learner.prepare(again, catalogue())))


def test_no_samples_train_nothing():
    learner = variant("two_tower", "plain")
    before = contents(learner)
    none = learner.prepare(events(0), catalogue())
    assert np.isnan(learner.train_full(none))
    assert np.isnan(learner.train_incremental(none))
    assert contents(learner) == before


def test_negatives_follow_targets_and_not_sightings():
    """An item that everybody views and nobody takes is drawn as a negative as rarely as any."""
    learner = Learner.fresh(config(histories={"views": {"kinds": ("view",)}}, popular_threshold=0.3), ())
    n = 400
    taken = np.arange(n) % 4 == 0
    table = pa.table(
        {
            "user_id": [f"u{at % 9}" for at in range(n)],
            "item_id": np.where(taken, [f"i{at % 3}" for at in range(n)], "seen"),
            "kind": np.where(taken, "purchase", "view"),
            "scene": [""] * n,
            "request_id": [""] * n,
            "ts_ms": START_MS + np.arange(n),
        }
    )
    samples = learner.prepare(table, catalogue())
    ids = learner._tables.ids["item"]
    entries = ids.lookup(pa.array(["i0", "i1", "i2", "seen"]))
    counts = learner.save()["targets"]["counts"][entries]
    assert counts.tolist() == [34, 33, 33, 0]
    assert ids.counts(entries).tolist() == [34, 33, 33, 300]
    sampler = learner._training._sampler()
    share = np.array([34, 33, 33, 1]) ** 0.75
    np.testing.assert_allclose(sampler.log_expected(entries, 10), np.log(10 * share / share.sum()), rtol=1e-5)
    learner.train_full(samples)
    keep = np.sqrt(0.3 / (counts[:3] / 100))  # drop probabilities of what is taken more than 3 in 10 times
    assert abs(learner.resampled["dropped"] - (counts[:3] * (1 - np.minimum(keep, 1))).sum()) < 12
    learner.prepare(table.slice(0, 8), catalogue())
    assert learner.save()["targets"]["counts"][entries].sum() == 102  # over the model's whole life


def test_item_rows_start_where_skip_gram_puts_the_items_that_were_taken():
    """item2vec changes rows of seen items only, in their own scale; with no training step behind it."""

    def started(passes):
        views = {"views": {"kinds": ("view",)}}
        learner = Learner.fresh(config(item2vec_passes=passes, histories=views, id_dropout=0.0), FEW)
        table = events()
        unseen = pa.array(["only viewed" if kind == "view" else item for kind, item in zip(
            table["kind"].to_pylist(), table["item_id"].to_pylist(), strict=True)])  # fmt: skip
        samples = learner.prepare(table.set_column(1, "item_id", unseen), catalogue())
        learner._tables.spread({"item", "history_item"})
        if passes:
            learner._training._start_items(samples)
        return learner, samples

    (plain, samples), (learner, _) = started(0), started(2)
    ids = learner._tables.ids["item"]
    seen = np.unique(samples.item)
    rows = ids.rows(seen)
    unseen = ids.rows(ids.lookup(pa.array(["only viewed"])))
    assert unseen[0] > 0
    vectors = item2vec(samples.user, samples.item, ids.entry_capacity, 16, 2, learner.config.seed)[seen]
    expected = vectors * learner.config.row_init / np.abs(vectors).mean()
    for table in ("item", "history_item"):
        changed = (weights(learner, table) != weights(plain, table)).any(1)
        assert np.flatnonzero(changed).tolist() == sorted(rows)
        np.testing.assert_allclose(weights(learner, table)[rows], expected, rtol=1e-4, atol=1e-7)
    assert np.isfinite(learner.train_full(samples))


def test_pointwise_takes_few_negatives():
    pointwise = config(loss="pointwise")
    assert (pointwise.negatives_per_row, pointwise.negative_source) == (3, "unigram")
    assert config("dssm", loss="pointwise").negatives_per_row == 3
    assert config(loss="pointwise", negatives_per_row=5).negatives_per_row == 5
    with pytest.raises(ValueError, match=r"negatives_per_row: got 6 with loss pointwise, expected at most 5"):
        config(loss="pointwise", negatives_per_row=6)


def test_configuration_refuses_what_cannot_be_meant():
    with pytest.raises(ValueError, match="impression"):
        ModelConfig(positives=("impression",))
    with pytest.raises(ValueError, match="impressed-but-not-clicked"):
        ModelConfig(hard_negatives=("impressions",))
    with pytest.raises(ValueError, match="never trained"):
        ModelConfig(trained_tables=("user",), published_tables=("user", "item"))
    with pytest.raises(ValueError, match="shared_items"):
        ModelConfig(kind="youtube_dnn", dim=32, id_dim=64, shared_items=True)
    with pytest.raises(ValueError, match="kind fm: needs dim = id_dim"):
        ModelConfig(kind="fm", dim=32, id_dim=64)
    with pytest.raises(ValueError, match="know nobody"):
        ModelConfig(user_row=False, use_history=False)
    with pytest.raises(ValueError, match="got in_batch"):
        ModelConfig(loss="listwise", negative_source="in_batch")
    with pytest.raises(ValueError, match="logq cannot be off"):
        ModelConfig(loss="nce", logq=False)
    with pytest.raises(ValueError, match="needs loss softmax"):
        ModelConfig(loss="nce", num_true=2)
    with pytest.raises(ValueError, match="1 <= first <= last"):
        ModelConfig(hard_ranks=(5, 4))
    with pytest.raises(KeyError, match="no model 'x'"):
        Learner.load(Files(trained()), "x")
