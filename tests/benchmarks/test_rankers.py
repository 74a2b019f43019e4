"""Figures of the study against plain definitions, and its join of kuairand's events."""

import re
import tomllib

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.rankers import page, results
from benchmarks.rankers.experiments import EXPERIMENTS, chosen
from benchmarks.rankers.joined_events import joined_of
from benchmarks.rankers.metrics import DRAWS, Impressions, auc, interval, weighted_auc
from benchmarks.rankers.runs import Run
from models.ranking.joined import checked
from models.ranking.rank_config import RankConfig


def plain_auc(labels, scores):
    difference = scores[labels > 0][:, None] - scores[labels == 0][None]
    return (difference > 0).mean() + 0.5 * (difference == 0).mean()


def test_auc_counts_pairs_and_halves_ties():
    random = np.random.default_rng(0)
    labels, scores = (random.random(200) < 0.3).astype(float), random.integers(0, 9, 200) / 4
    assert auc(labels, scores) == pytest.approx(plain_auc(labels, scores))
    assert np.isnan(auc(np.ones(5), np.arange(5.0)))
    times = random.integers(0, 3, 200)
    again = np.repeat(np.arange(200), times)
    weighted = weighted_auc(labels, scores, times[None].astype(float))[0]
    assert weighted == pytest.approx(plain_auc(labels[again], scores[again]))


def test_resampling_users_repeats_their_impressions():
    random = np.random.default_rng(1)
    user, labels = random.integers(0, 12, 150), (random.random((150, 1)) < 0.4).astype(float)
    scores = random.random(150)
    day = random.integers(0, 3, 150)
    rows = Impressions(user, np.array(["a"] * 150), labels, day)
    aucs, gaucs, by_day = rows.aucs(0, scores), rows.gaucs(0, scores), rows.gaucs(0, scores, by_day=True)
    assert len(aucs) == len(gaucs) == len(by_day) == 1 + DRAWS
    for draw in (0, 7):
        places = np.concatenate(
            [np.tile(np.flatnonzero(user == one), int(rows.draws[draw, one])) for one in range(12)]
        )
        assert aucs[draw] == pytest.approx(plain_auc(labels[places, 0], scores[places]), rel=1e-5)
        users = [(one, user == one) for one in range(12)]
        of_days = [(one, mine & (day == today)) for one, mine in users for today in range(3)]
        for found, groups in ((gaucs, users), (by_day, of_days)):
            values = [
                (rows.draws[draw, one] * mine.sum(), plain_auc(labels[mine, 0], scores[mine]))
                for one, mine in groups
                if 0 < labels[mine].sum() < mine.sum()
            ]
            expected = sum(n * value for n, value in values) / sum(n for n, _ in values)
            assert found[draw] == pytest.approx(expected, rel=1e-5)
    found = interval(aucs)
    assert found["low"] < found["value"] < found["high"]


def test_events_become_joined_rows():
    events = pa.table(
        {
            "ts_ms": [1, 2, 3, 4, 5, 6],
            "user_id": ["u", "u", "v", "u", "v", "v"],
            "item_id": ["a", "a", "b", "a", "b", "c"],
            "kind": ["impression", "click", "impression", "view", "view", "impression"],
            "scene": ["s"] * 6,
            "request_id": ["0", "0", "1", "0", "1", "2"],
            "value": [1.0, 1.0, 1.0, 900.0, 50.0, 1.0],
        }
    )
    joined = checked(joined_of(events))
    assert joined["item_id"].to_pylist() == ["a", "b", "c"]
    assert joined["actions"].to_pylist() == [[("click", 1.0), ("view", 900.0)], [("view", 50.0)], []]
    with pytest.raises(ValueError, match="an action without its impression"):
        joined_of(events.slice(1))


def test_experiments_are_configurations():
    names = [one.name for one in EXPERIMENTS]
    assert len(set(names)) == len(names)
    for one in EXPERIMENTS:
        made = RankConfig.model_validate(one.configuration(1))
        assert made.names == one.tasks
        assert one.against in names
    assert [one.name for one in chosen(("presets",))] == [
        "pepnet, published", "mmoe, published", "deepfm, published",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no experiment wide; there are: "):
        chosen(("wide",))


def test_what_was_not_run_again_is_kept_if_it_is_unchanged(tmp_path):
    names = ("logistic", "mmoe", "mmoe, alone", "mmoe, not wide")
    runs = [
        Run(one, seed, tmp_path, "d") for one in EXPERIMENTS if one.name in names for seed in range(one.seeds)
    ]
    keys = {name: [run.key for run in runs if run.experiment.name == name] for name in names}

    def collected(git, entries, differences):
        return {
            "about": {"git": git},
            "experiments": [{"name": name, "keys": of, "from": git} for name, of in entries.items()],
            "differences": [{"name": a, "against": b, "from": git} for a, b in differences],
        }

    pairs = [("mmoe", "logistic"), ("mmoe, alone", "mmoe"), ("mmoe, not wide", "mmoe, alone")]
    earlier = collected("old", {**keys, "mmoe": ["other"]}, pairs)
    found = collected("new", {name: keys[name] for name in ("logistic", "mmoe")}, pairs[:1])
    both = results.with_earlier(found, earlier, runs)
    told = [(one["name"], one["from"], one["git"]) for one in both["experiments"]]
    assert told == [
        ("logistic", "new", "new"),
        ("mmoe", "new", "new"),
        ("mmoe, alone", "old", "old"),
        ("mmoe, not wide", "old", "old"),
    ]
    # mmoe itself was another one: what was measured against it is no more
    assert [(one["name"], one["from"]) for one in both["differences"]] == [
        ("mmoe", "new"), ("mmoe, not wide", "old"),
    ]  # fmt: skip
    assert results.with_earlier(found, both, runs) == both


def test_the_example_of_the_page_is_valid():
    (example,) = re.findall(r"```toml\n(.*?)```", page.PAGE.read_text(encoding="utf-8"), re.DOTALL)
    made = RankConfig.model_validate(tomllib.loads(example)["rankers"]["rank"])
    assert (made.kind, made.names) == ("pepnet", ("click", "long_view", "like"))


def test_the_page_is_written_from_the_figures():
    assert page.main(check=True) == 0
    with pytest.raises(ValueError, match="expected one of setup"):
        page.filled("<!-- rankers: cost -->\n<!-- end of rankers -->", {})
