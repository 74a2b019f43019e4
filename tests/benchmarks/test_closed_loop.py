"""The closed loop's arms are configurations, its figures plain sums, its page what the results say."""

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from benchmarks.closed_loop import page
from benchmarks.closed_loop.arms import ARMS, RUN, chosen
from benchmarks.closed_loop.by_user import drawn, rates
from benchmarks.closed_loop.plot import svg
from benchmarks.closed_loop.results import collect, interval, measured
from benchmarks.closed_loop.runs import Run, execute, read
from deploy.simulate.config import RunConfig


def test_arms_are_configurations():
    names = [arm.name for arm in ARMS]
    assert len(set(names)) == len(names)
    for arm in ARMS:
        assert not arm.against or arm.against in names
        if arm.changes is not None:
            config = arm.config(Path("data"), 3)
            assert config.models["fm"].seed == 3
    rejects = next(arm for arm in ARMS if arm.name == "pre-rank + rejects").config(Path("data"), 3)
    assert rejects.models["fm"].hard_negatives == ("rejects",)
    assert rejects.serving.prerank.model in rejects.rankers
    with pytest.raises(ValueError, match="no arm best; there are: random, popular"):
        chosen(("best",))


def test_a_run_of_random_is_kept_and_collected(tmp_path):
    short = RunConfig(days=0.1, warm_days=0.0, requests_per_day=2000, explore=RUN.explore)
    runs = [Run(arm, 3, short, tmp_path) for arm in chosen(("random", "popular"))]
    for run in runs:
        assert not run.done
        execute(run)
        assert run.done
    kept, about = read(runs[0])
    days = about["figures"]["by_day"]
    assert kept["impressions"].sum() == days[0]["actions"]["impression"]
    assert kept["clicks"].sum() == days[0]["actions"]["click"]
    shown = kept["expected"].sum() / kept["impressions"].sum()
    assert shown == pytest.approx(days[0]["expected_clicks_per_impression"], abs=1e-6)
    popular, _ = read(runs[1])
    np.testing.assert_array_equal(popular["impressions"], kept["impressions"])  # the same users came
    found = collect(runs, "command")
    assert found["about"]["simulation"] is True
    assert [arm["name"] for arm in found["arms"]] == ["random", "popular"]
    clicks = found["arms"][0]["figures"]["clicks"]
    assert clicks["value"] == pytest.approx(days[0]["clicks_per_impression"], abs=1e-5)
    assert clicks["low"] < clicks["value"] < clicks["high"]
    # A page of some of the arms says which are not there.
    parts = "\n".join(page.PARTS[name](found) for name in page.PARTS)
    assert "| `random` | uniformly drawn items | 0.0" in parts
    assert "| `daily` | full retrain every midnight | Not measured yet." in parts
    assert ET.fromstring(svg(found)).tag.endswith("svg")


def test_rates_repeat_drawn_users():
    clicks, shown = np.array([1.0, 0.0, 4.0]), np.array([10.0, 10.0, 20.0])
    draws = drawn(3, 0)
    found = rates(clicks, shown, draws)
    assert found[0] == pytest.approx(5 / 40)
    again = np.repeat(np.arange(3), draws[7])
    assert len(again) == 3
    assert found[7] == pytest.approx(clicks[again].sum() / shown[again].sum())
    assert interval(found)["value"] == 0.125


def test_the_page_and_its_plot_are_written_from_the_figures():
    assert page.main(check=True) == 0
    with pytest.raises(ValueError, match="expected one of setup"):
        page.filled("<!-- closed loop: cost -->\n<!-- end of closed loop -->", {})
    picture = page.PLOT.read_text(encoding="utf-8")
    assert ET.fromstring(picture).tag.endswith("svg")
    assert "SIMULATED" in picture
    assert measured()["about"]["simulation"] is True
