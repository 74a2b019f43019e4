"""What a Learner promises, for both models: what may move, save and load, determinism, touched rows,
expiry.
"""

import numpy as np
import pyarrow as pa
import pytest

from models.learner import Learner, ModelConfig
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

KINDS = ("two_tower", "youtube_dnn")
LATER_MS = START_MS + DAY_MS


def hour(seed=1, n=60, **changes):
    return events(n, seed=seed, start_ms=LATER_MS, span_ms=HOUR_MS, **changes)


def weights(learner, table):
    return learner.save()[f"table.{table}"]["weights"]


@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_the_loss(kind):
    learner = Learner.fresh(config(kind), FEATURES)
    samples = learner.prepare(events(2000), catalogue())
    losses = [learner.train_full(samples) for _ in range(8)]
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_incremental_steps_move_touched_user_rows_only(kind):
    learner = trained(kind)
    before = learner.save()
    samples = learner.prepare(hour(user_offset=10), catalogue())  # users 10..29: ten of them new
    prepared = weights(learner, "user")
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
    ids = learner._tables.ids["user"]
    touched = np.unique(ids.rows(samples.user))
    moved = np.flatnonzero((after["table.user"]["weights"] != prepared).any(1))
    assert moved.tolist() == touched.tolist()
    assert after["table.user"]["weights"][0].tobytes() == before["table.user"]["weights"][0].tobytes()
    assert after["table.user"]["momentum"][0] == before["table.user"]["momentum"][0]


@pytest.mark.parametrize("kind", KINDS)
def test_touched_rows_are_the_moved_ones(kind):
    learner = trained(kind)
    samples = learner.prepare(hour(), catalogue())
    assert len(learner.touched()["user"].keys) == 0
    learner.train_incremental(samples)
    touched = learner.touched()
    assert set(touched) == {"user"}
    ids = learner._tables.ids["user"]
    assert set(touched["user"].keys.to_pylist()) == set(ids.keys_of(samples.user).to_pylist())
    rows = weights(learner, "user")[ids.rows(ids.lookup(touched["user"].keys))]
    assert touched["user"].rows.tobytes() == rows.tobytes()
    assert touched["user"].vectors is None
    learner.clear_touched()
    assert len(learner.touched()["user"].keys) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_item_rows_ship_re_encoded_vectors_when_configured(kind):
    learner = trained(kind, trained_tables=("user", "item"), published_tables=("user", "item"))
    cold = weights(learner, "item")[0].copy()
    keys, before = learner.item_vectors()
    learner.train_incremental(learner.prepare(hour(items=45), catalogue()))
    item = learner.touched()["item"]
    keys, after = learner.item_vectors()
    at = {key: place for place, key in enumerate(keys.to_pylist())}
    places = [at[key] for key in item.keys.to_pylist()]
    np.testing.assert_allclose(item.vectors, after[places], atol=1e-6)
    changed = np.flatnonzero((after[: len(before)] != before).any(1))
    assert set(changed) <= set(places)
    assert weights(learner, "item")[0].tobytes() == cold.tobytes()


def test_new_users_start_from_the_cold_row():
    learner = trained()
    cold = weights(learner, "user")[0]
    assert np.abs(cold).sum() > 0  # some samples were trained as unknown users
    learner.prepare(hour(user_offset=100), catalogue())
    ids = learner._tables.ids["user"]
    row = ids.rows(ids.lookup(pa.array(["u100"])))[0]
    assert row > 0
    assert weights(learner, "user")[row].tobytes() == cold.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_save_load_save_is_byte_identical_and_training_goes_on_the_same(kind):
    learner = trained(kind)
    learner.train_incremental(learner.prepare(hour(), catalogue()))
    loaded = Learner.load(Files(learner), "m")
    assert contents(loaded) == contents(learner)
    assert loaded.config == learner.config
    assert loaded.features == learner.features
    for each in (learner, loaded):
        each.train_incremental(each.prepare(hour(seed=2, user_offset=5), catalogue()))
        each.train_full(each.prepare(events(300, seed=3, start_ms=LATER_MS + HOUR_MS), catalogue()))
        each.expire(LATER_MS + 2 * DAY_MS)
    assert contents(loaded) == contents(learner)


@pytest.mark.parametrize("kind", KINDS)
def test_two_runs_give_the_same_bytes(kind):
    def run():
        learner = trained(kind)
        learner.train_incremental(learner.prepare(hour(), catalogue()))
        return contents(learner)

    assert run() == run()


def test_seeds_differ():
    assert contents(trained(seed=1)) != contents(trained(seed=2))


def test_observed_events_move_histories_as_prepared_ones_do():
    prepared, observed = (Learner.fresh(config(), FEATURES) for _ in range(2))
    prepared.prepare(events(), catalogue())
    observed.observe(events(), catalogue())
    assert contents(prepared)["history", "items"] == contents(observed)["history", "items"]
    left, right = prepared.prepare(hour(), catalogue()), observed.prepare(hour(), catalogue())
    assert left.history.tolist() == right.history.tolist()


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


def test_expiry_removes_users_and_items_everywhere():
    learner = trained(expire_after_days=1)
    learner.train_incremental(learner.prepare(hour(), catalogue()))
    kept = set(hour().filter(pa.compute.equal(hour()["kind"], "purchase"))["user_id"].to_pylist())
    removed = learner.expire(LATER_MS + DAY_MS)
    assert kept.isdisjoint(removed["user"].to_pylist())
    ids = learner._tables.ids["user"]
    assert set(ids.keys_of(ids.live_entries()).to_pylist()) == kept
    keys, vectors = learner.item_vectors()
    assert set(keys.to_pylist()).isdisjoint(removed["item"].to_pylist())
    assert len(vectors) == len(keys)
    history = learner.save()["history"]["items"]
    assert np.isin(history, learner._tables.ids["item"].live_entries()).all()
    everyone = learner.expire(LATER_MS + 100 * DAY_MS)
    assert set(everyone["user"].to_pylist()) == kept
    assert len(learner.touched()["user"].keys) == 0
    learner.train_full(learner.prepare(events(seed=5, start_ms=LATER_MS + 100 * DAY_MS), catalogue()))


def test_no_samples_train_nothing():
    learner = trained()
    before = contents(learner)
    none = learner.prepare(events(0), catalogue())
    assert np.isnan(learner.train_full(none))
    assert np.isnan(learner.train_incremental(none))
    assert contents(learner) == before


def test_configuration_refuses_what_cannot_be_meant():
    with pytest.raises(ValueError, match="impression"):
        ModelConfig(positives=("impression",))
    with pytest.raises(ValueError, match="never trained"):
        ModelConfig(trained_tables=("user",), published_tables=("user", "item"))
    with pytest.raises(ValueError, match="shared_items"):
        ModelConfig(kind="youtube_dnn", dim=32, id_dim=64, shared_items=True)
    with pytest.raises(KeyError, match="no model 'x'"):
        Learner.load(Files(trained()), "x")
