"""A ranker as a whole: learns, reads no future, serves what it trained, survives its files."""

import copy

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from models.ranking.counts import Counts
from models.ranking.rank_learner import RankLearner
from models.ranking.rank_published import PublishedRanker
from models.ranking.rank_samples import RankSamples
from models.ranking.rank_training import RankTraining
from tests.models.learning_data import DAY_MS, FEATURES, START_MS, catalogue
from tests.models.ranking.ranking_data import KINDS, Files, config, contents, joined, trained

TESTED = joined(200, seed=9, start_ms=START_MS + DAY_MS)


def ordered_well(labels, scores):
    """Share of (positive, negative) pairs in the right order."""
    difference = scores[labels > 0][:, None] - scores[labels == 0][None]
    return (difference > 0).mean() + 0.5 * (difference == 0).mean()


@pytest.mark.parametrize("kind", KINDS)
def test_learns_which_users_click_what(kind):
    """Nothing but the pair of user and item tells: a plain logistic regression stays near chance."""
    changes = {"epochs_first": 8, "lr_rows": 0.1, "lr_dense": 0.01, "row_init": 0.5, "id_dropout": 0.05}
    if kind not in ("logistic", "weighted_lr"):
        changes["linear_share"] = 0.5
    learner = RankLearner.fresh(config(kind, author="", bins=0, **changes), ())
    learner.train(learner.prepare(joined(1500, users=10, items=12), catalogue()))
    later = joined(400, users=10, items=12, seed=9, start_ms=START_MS + DAY_MS)
    labels = learner.prepare(later, catalogue()).labels[:, 0]
    ordered = ordered_well(labels, learner.predict(later, catalogue())["click"])
    assert ordered < 0.6 if kind == "logistic" else ordered > 0.68


def test_logistic_regression_is_one():
    """Its logits are linear in one weight per row, head and number: fitted on them, nothing is left."""
    learner = RankLearner.fresh(config("logistic", epochs_first=10, author=""), ())
    samples = learner.prepare(joined(800), catalogue())
    first = learner.train(samples)
    assert first["click"] < 0.68
    p = learner.predict(TESTED, catalogue())["click"]
    assert abs(p.mean() - samples.labels[:, 0].mean()) < 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_serving_scores_what_training_reads(kind, monkeypatch):
    """The network's inputs in a step, through entries and the fused update, are those of predict()."""
    learner = trained(kind)
    samples = learner.prepare(TESTED, catalogue())  # gives new keys their entries first
    parts = learner._parts
    table = TESTED.combine_chunks()
    request, item = learner._columns(table, catalogue())
    served = parts.inputs(
        parts.request_rows(table["user_id"].combine_chunks(), request, np.array(table["ts_ms"])),
        parts.item_rows(table["item_id"].combine_chunks(), item),
    )
    request_raw = parts.request_raw(samples.request, samples.pair, samples.request_numbers)
    u = parts.request.rows(parts.space, samples.request, request_raw)
    i = parts.item.rows(parts.space, samples.item, parts.item_raw(samples.item, samples.item_numbers))
    read = learner._training._inputs(
        np.concatenate([u.rows, i.rows], 1),
        np.concatenate([u.factors, i.factors], 1),
        np.concatenate([u.numbers, i.numbers], 1),
    )
    torch.testing.assert_close(read.rows, served.rows)
    torch.testing.assert_close(read.linear, served.linear)
    assert torch.equal(read.numbers, served.numbers)


@pytest.mark.parametrize("kind", KINDS)
def test_a_published_ranker_scores_as_its_learner(kind):
    learner = trained(kind)
    published = PublishedRanker.load(Files(learner), "r")
    expected = learner.predict(TESTED, catalogue())
    items, users = catalogue().items, catalogue().users.to_pylist()
    by_user = {row.pop("user_id"): row for row in users}
    for at in range(0, 200, 23):
        row = TESTED.slice(at, 1).to_pylist()[0]
        position = catalogue().item_positions(pa.array([row["item_id"]]))
        found = published.scores(
            row["user_id"],
            pa.array([row["item_id"], "never seen"]),
            {**dict(row["context"]), "scene": row["scene"]},
            by_user.get(row["user_id"], {}),
            {
                name: pa.concat_arrays(
                    [items[name].take(pa.array(position)).combine_chunks(), pa.nulls(1, items[name].type)]
                )
                for name in published.reads()["item"]
            },
            row["ts_ms"],
        )
        assert found.keys() == expected.keys()
        for name, values in found.items():
            assert values.dtype == np.float32
            assert values.shape == (2,)
            np.testing.assert_allclose(values[0], expected[name][at], rtol=2e-5, atol=1e-6)


def test_encoded_items_may_be_kept_and_taken():
    published = PublishedRanker.load(Files(trained()), "r")
    keys = pa.array([f"i{value}" for value in range(40)])
    attributes = {name: catalogue().items[name].combine_chunks() for name in published.reads()["item"]}
    asked = ({"scene": "home"}, {"town": "t1"}, START_MS + DAY_MS)
    whole = published.scores("u2", keys, asked[0], asked[1], attributes, asked[2])
    some = published.items(keys, attributes).take(np.array([30, 3]))
    part = published.scores_of("u2", some, *asked)
    np.testing.assert_allclose(part["score"], whole["score"][[30, 3]], rtol=1e-6)
    assert len(some) == 2
    with pytest.raises(ValueError, match="attribute 'colour': expected 40 values, got 1"):
        published.items(keys, {"colour": pa.array(["c1"])})
    assert published.scores("", keys[:0], {}, {}, {}, 0)["score"].shape == (0,)


@pytest.mark.parametrize("kind", KINDS)
def test_files_hold_everything_and_training_goes_on_from_them(kind):
    learner = trained(kind, dropout=0.2, admit_after=2)
    loaded = RankLearner.load(Files(learner), "r")
    assert contents(loaded) == contents(learner)
    for one in (learner, loaded):
        one.train(one.prepare(TESTED, catalogue()))
    assert contents(loaded) == contents(learner)
    assert learner.describe() == loaded.describe()
    with pytest.raises(KeyError, match="no ranker 'x'; it has r"):
        RankLearner.load(Files(learner), "x")


def test_state_is_a_function_of_what_was_given():
    torch.manual_seed(1)
    first = contents(trained(dropout=0.2))
    torch.manual_seed(2)
    assert contents(trained(dropout=0.2)) == first
    assert contents(trained(dropout=0.2, seed=1)) != first


def test_predicting_moves_nothing():
    learner = trained()
    before = contents(learner)
    p = learner.predict(TESTED, catalogue())
    assert contents(learner) == before
    assert all(np.isfinite(values).all() for values in p.values())
    np.testing.assert_allclose(p["score"], p["click"] + p["long_view"] + p["like"], rtol=1e-5)


def test_counts_read_only_what_was_given_out_before(monkeypatch):
    """Two days in one call: the first day's rows see nothing, the second's see the first day."""
    table = pa.concat_tables([joined(120, seed=1), joined(120, seed=2, start_ms=START_MS + DAY_MS)])
    learner = RankLearner.fresh(config("logistic", author=""), ())
    samples = learner.prepare(table, catalogue())
    kept = copy.deepcopy(learner)
    raw = {}
    numbers = RankTraining._numbers

    def kept_numbers(training, given):
        raw["request"], raw["item"] = numbers(training, given)
        return raw["request"], raw["item"]

    monkeypatch.setattr(RankTraining, "_numbers", kept_numbers)
    learner.train(samples)
    day = samples.emitted_ms // DAY_MS
    assert len(set(day.tolist())) == 3  # the samples begin in the middle of a day
    for one in sorted(set(day.tolist())):
        before = Counts(3, kept.config.smoothing)
        earlier = day < one
        before.add(
            {
                "user": samples.request[earlier, 0],
                "user_scene": samples.pair[earlier],
                "context.scene": samples.request[earlier, 1],
                "item": samples.item[earlier, 0],
            },
            samples.labels[earlier],
        )
        now = day == one
        np.testing.assert_array_equal(raw["item"][now], before.read("item", samples.item[now, 0]))
        np.testing.assert_array_equal(raw["request"][now, :4], before.read("user", samples.request[now, 0]))
        np.testing.assert_array_equal(raw["request"][now, 4:8], before.read("user_scene", samples.pair[now]))
    # Serving reads them all: what training of the next day would read.
    assert learner._parts.counts.state()["total"][0] == 240


def test_later_rows_do_not_change_what_earlier_ones_read():
    """Counts of a call's first stretch are the same whatever follows in the call."""
    learner = trained("logistic")
    seen = {}
    for end in (60, 200):
        again = RankLearner.load(Files(learner), "r")
        samples = again.prepare(TESTED.slice(0, end), catalogue())
        seen[end] = again._training._numbers(samples)[1][:60]
    first = samples.emitted_ms[:60] // DAY_MS == samples.emitted_ms[0] // DAY_MS
    np.testing.assert_array_equal(seen[60][first], seen[200][first])


def test_without_stretches_counts_move_after_the_call():
    learner = RankLearner.fresh(config("logistic", stretch_h=0, author=""), ())
    samples = learner.prepare(joined(100), catalogue())
    assert [len(one) for one in learner._training.stretches(samples)] == [100]
    assert np.isnan(learner._training._numbers(samples)[1]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_of_one_class_and_a_single_row_are_fine(kind):
    table = joined(80)
    never = pc.is_valid(pc.map_lookup(table["actions"].combine_chunks(), "click", "last"))
    for rows in (table.filter(pc.invert(never)), table.filter(never), table.slice(0, 1)):
        learner = RankLearner.fresh(config(kind), FEATURES)
        losses = learner.train(learner.prepare(rows, catalogue()))
        assert all(np.isfinite(value) for value in losses.values())
        assert all(np.isfinite(values).all() for values in learner.predict(TESTED, catalogue()).values())


@pytest.mark.parametrize("kind", ["deepfm", "pepnet"])
def test_numbers_may_stay_without_bins(kind):
    learner, binned = trained(kind, bins=0), trained(kind)
    numbers = sum(side.encoding.numbers for side in (learner._parts.request, learner._parts.item))
    assert binned._parts.layout.fields - learner._parts.layout.fields == numbers
    assert len(learner._parts.layout.domain_fields) == 1
    assert len(binned._parts.layout.domain_fields) == 9  # the scene, and 2 x (exposures, 3 tasks)
    published = PublishedRanker.load(Files(learner), "r")
    assert contents(RankLearner.load(Files(learner), "r")) == contents(learner)
    assert np.isfinite(published.scores("u2", pa.array(["i1"]), {"scene": "home"}, {}, {}, 0)["click"]).all()


@pytest.mark.parametrize("key", ["linear_share", "pairwise"])
def test_a_bundle_from_before_a_key_is_what_it_was(key):
    learner = trained(**{key: 0.0})
    files = Files(learner)
    del files.manifest["rankers"]["r"]["config"][key]
    loaded = RankLearner.load(files, "r")
    assert contents(loaded) == contents(learner)
    for one in (loaded, learner):
        one.train(one.prepare(TESTED, catalogue()))
    assert contents(loaded) == contents(learner)


def test_nothing_to_train_on():
    learner = trained()
    before = contents(learner)
    assert learner.train(learner.prepare(joined(5).slice(0, 0), catalogue())) == {}
    assert contents(learner) == before
    assert RankLearner.fresh(config(author=""), ()).predict(TESTED, catalogue())["click"].shape == (200,)


def test_a_loss_that_is_not_finite_is_an_error():
    learner = trained("weighted_lr")
    with torch.no_grad():
        learner._parts.network.output_biases()[0].fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite; lower lr_dense"):
        learner.train(learner.prepare(TESTED, catalogue()))


@pytest.mark.parametrize("kind", ["weighted_lr", "mmoe", "pepnet"])
def test_the_logistic_regression_beside_a_network_is_one_of_its_own(kind):
    """Neither hears of the other's loss: each is what it is when it is trained alone."""
    shared = {
        "wide": False,
        "epochs_first": 2,
        "final_rate": 0.5,
        "watch": {},
        "warm_rate": 1.0,
        "pairwise": 0.3,
    }
    both = RankLearner.fresh(config(kind, linear_share=0.3, **shared), FEATURES)
    linear, deep = (
        RankLearner.fresh(config(alone, linear_share=0.0, **shared), FEATURES) for alone in ("logistic", kind)
    )
    for learner in (both, linear, deep):
        for seed in (0, 1):
            learner.train(learner.prepare(joined(300, seed=seed), catalogue()))
    torch.testing.assert_close(both._parts.space.first.weights, linear._parts.space.first.weights)
    torch.testing.assert_close(both._parts.space.rows.weights, deep._parts.space.rows.weights)
    mean, first, second = (learner.predict(TESTED, catalogue()) for learner in (both, linear, deep))

    def logit(p):
        return np.log(p) - np.log1p(-p)

    for task in ("click", "long_view", "like"):
        expected = 0.3 * logit(first[task]) + 0.7 * logit(second[task])
        np.testing.assert_allclose(logit(mean[task]), expected, rtol=1e-4, atol=1e-4)


def test_unknown_users_and_items_are_trained_too():
    """Dropped IDs train the cold row, which is what strangers are scored with."""
    learner = trained(id_dropout=0.5)
    space = learner._parts.space
    cold = [space.cold("user"), space.cold("item")]
    assert (space.rows.momentum[cold] > 0).all()
    untouched = trained(id_dropout=0.0)._parts.space
    assert untouched.rows.momentum[untouched.cold("item")] == 0


def test_progress_and_passes():
    learner = RankLearner.fresh(config(epochs_first=2, batch_size=200, author=""), ())
    seen = []
    learner.train(learner.prepare(joined(500), catalogue()), lambda done, of: seen.append((done, of)))
    assert seen == [(done, 1000) for done in (200, 400, 500, 700, 900, 1000)]
    samples = learner.prepare(TESTED, catalogue())
    learner.train(RankSamples.concatenate([samples.take(slice(0, 50)), samples.take(slice(50, 200))]))
    assert learner.save()["progress"]["counters"].tolist() == [2, 3]
    with pytest.raises(ValueError, match="nothing to concatenate"):
        RankSamples.concatenate([])


def test_passes_go_through_the_stretches_in_order(monkeypatch):
    table = pa.concat_tables([joined(120, seed=1), joined(120, seed=2, start_ms=START_MS + DAY_MS)])
    steps = []
    step = RankTraining._step
    monkeypatch.setattr(
        RankTraining, "_step", lambda *given: [steps.extend(given[2].tolist()), step(*given)][1]
    )
    for order in ("stretches", "shuffled"):
        learner = RankLearner.fresh(config("logistic", order=order, epochs_first=2, author=""), ())
        samples = learner.prepare(table, catalogue())
        steps.clear()
        learner.train(samples)
        day = samples.emitted_ms[steps] // DAY_MS
        first, second = np.array(steps[:240]), np.array(steps[240:])
        assert sorted(first) == sorted(second) == list(range(240))
        assert (first != second).any()
        assert (np.diff(day[:240]) >= 0).all() == (order == "stretches")


def test_rows_begin_anew_in_every_pass_of_the_first_training():
    """After k passes rows have met each sample once, dense layers k times."""
    changes = {"lr_dense": 1e-12, "id_dropout": 0.0, "batch_size": 1000, "fresh_rows": True, "author": ""}
    changes["pairwise"] = 0.0  # which rows are pairs differs by the pass
    made = {}
    for passes in (1, 3):
        learner = RankLearner.fresh(config(epochs_first=passes, **changes), ())
        learner.train(learner.prepare(joined(), catalogue()))
        made[passes] = learner._parts.space.rows
    # One step a pass over all rows, dense layers that stand still: three passes end where one does.
    torch.testing.assert_close(made[3].weights, made[1].weights, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(made[3].momentum, made[1].momentum, rtol=1e-4, atol=1e-12)
    before = learner._parts.space.rows.momentum.clone()
    learner.train(learner.prepare(TESTED, catalogue()))
    assert (learner._parts.space.rows.momentum[: len(before)] >= before).all()  # later trainings go on


def test_step_sizes_fall_over_a_call(monkeypatch):
    rates = []
    monkeypatch.setattr(RankTraining, "_set_rates", lambda _, rate: rates.append(rate))
    learner = RankLearner.fresh(
        config(epochs_first=2, batch_size=250, final_rate=0.2, warm_rate=0.5, author=""), ()
    )
    learner.train(learner.prepare(joined(500), catalogue()))
    np.testing.assert_allclose(rates, [1.0, 0.8, 0.6, 0.4])
    learner.train(learner.prepare(TESTED, catalogue()))
    np.testing.assert_allclose(rates[4:], [0.5])
