"""Rejects from the stream into the pool of hard negatives."""

import numpy as np
import pyarrow as pa

from models.learner import CatalogueColumns, Learner
from models.model_config import ModelConfig
from models.reject_events import rejects_among

MAP = pa.map_(pa.string(), pa.string())
NOTHING = CatalogueColumns()


def table(*rows):
    """(ts_ms, user, item, kind, context)."""
    ts_ms, user, item, kind, context = (list(column) for column in zip(*rows, strict=True))
    return pa.table(
        {
            "ts_ms": pa.array(ts_ms, pa.int64()),
            "user_id": pa.array(user, pa.string()),
            "item_id": pa.array(item, pa.string()),
            "kind": pa.array(kind, pa.string()),
            "scene": pa.array([""] * len(rows), pa.string()),
            "request_id": pa.array([f"r{n}" for n in range(len(rows))], pa.string()),
            "value": pa.array([0.5] * len(rows)),
            "context": pa.array([list(one.items()) for one in context], MAP),
        }
    )


def reject(ts_ms, user, item, stage, rank="7"):
    return (ts_ms, user, item, "reject", {"stage": stage, "rank": rank})


def test_columns_of_rejects():
    events = table(
        reject(5, "a", "x", "prerank", "63"),
        (6, "a", "y", "click", {}),
        reject(7, "b", "y", "rank", "not a number"),
        reject(8, "b", "z", "nobody knows"),
        (9, "b", "z", "reject", {}),
    )
    found = rejects_among(events)
    assert found.user_id.to_pylist() == ["a", "b"]
    assert found.item_id.to_pylist() == ["x", "y"]
    assert (found.stage.tolist(), found.rank.tolist(), found.ts_ms.tolist()) == ([0, 1], [63, 0], [5, 7])
    assert len(rejects_among(events.slice(1, 1))) == 0
    assert len(rejects_among(events.drop_columns(["context"]))) == 0


def learner(**changes):
    config = ModelConfig(
        kind="two_tower", positives=("click",), dim=8, id_dim=8, hidden=(8,), history_length=4,
        loss="listwise", negative_source="unigram", hard_negatives=("rejects",), rejects_days=1, **changes,
    )  # fmt: skip
    return Learner.fresh(config)


HOUR = 3_600_000
CLICKS = [(n * 1000 + 1, user, item, "click", {}) for n, (user, item) in enumerate(
    (user, item) for user in "ab" for item in "vwxyz" if (user, item) != ("a", "z")
)]  # fmt: skip


def drawn(one, user, now_ms=10 * HOUR):
    entries = one._tables.ids["user"].lookup(pa.array([user])).astype(np.int32)
    found = one.rejects.draw(entries, 5, np.array([now_ms]), np.array([1]), 0, 0.5)[0]
    return set(one._tables.ids["item"].keys_of(found[found >= 0]).to_pylist())


def test_the_learner_keeps_what_was_turned_down_until_it_is_taken():
    one = learner()
    events = table(
        *CLICKS,
        reject(HOUR, "a", "z", "prerank"),
        reject(HOUR, "b", "nobody met it", "rank"),
        reject(HOUR, "stranger", "x", "rank"),
    )
    before = len(events)
    samples = one.prepare(events, NOTHING)
    assert len(samples) == len(CLICKS) < before  # a reject is no target and no history
    assert drawn(one, "a") == {"z"}
    assert drawn(one, "b") == set()
    assert drawn(one, "a", now_ms=HOUR) == set()  # nothing from the moment itself
    one.train_full(samples)
    one.observe(table((2 * HOUR, "a", "z", "click", {})), NOTHING)
    assert drawn(one, "a") == set()
    again = table(reject(3 * HOUR, "a", "z", "rank"), (4 * HOUR, "b", "v", "click", {}))
    one.observe(again, NOTHING)
    assert drawn(one, "a") == {"z"}  # turned down after it was taken
    one.expire(26 * HOUR)
    assert drawn(one, "a") == {"z"}
    one.expire(28 * HOUR)
    assert drawn(one, "a") == set()


def test_models_that_do_not_ask_for_them_learn_the_same_without():
    with_rejects, without = (Learner.fresh(ModelConfig(positives=("click",), dim=8, id_dim=8)) for _ in "ab")
    plain = table(*CLICKS)
    mixed = table(*CLICKS, reject(HOUR, "a", "z", "prerank"))
    with_rejects.train_full(with_rejects.prepare(mixed, NOTHING))
    without.train_full(without.prepare(plain, NOTHING))
    for part, tensors in without.save().items():
        for name, array in tensors.items():
            np.testing.assert_array_equal(with_rejects.save()[part][name], array)
