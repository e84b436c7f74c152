"""The rule for the simple set: means of held-out training images, and ratios that say which test set is likelier."""

import csv
import math

import numpy as np
import pytest

from oodgen.papers import choice
from oodgen.runs import results


def row(inlier, out, value, score="l>0", metric="nats"):
    return results.Row("e", "f", 0, inlier, out, score, metric, value, math.nan, math.nan, "full", 9, 9)


@pytest.fixture
def done(tmp_path):
    random = np.random.default_rng(0)
    means = {"fashion_mnist": -320.0, "mnist": -120.0, "cifar10": -560.0}
    found = {}
    for name, mean in means.items():
        rows = [row(name, out, 2 * mean if out == name else mean / 2) for out in means]
        rows += [row(name, name, 7.0, metric="bpd"), row(name, name, 7.0, score="kl")]
        folder = tmp_path / "runs" / "eval" / f"simple_{name}" / "abc"
        found[name] = choice.TrainedVAE(random.normal(mean, 80, 3000), rows, folder, "official train split")
    return found


def held(done):
    return {name: trained.held for name, trained in done.items()}


def test_a_set_qualifies_where_its_own_model_finds_it_likelier_than_the_basic_one(done):
    judged = {item.name: item for item in choice.judge(held(done), "fashion_mnist")}
    assert {name: item.verdict for name, item in judged.items()} == {
        "fashion_mnist": "does not",
        "mnist": "qualifies",
        "cifar10": "does not",
    }
    assert judged["mnist"].difference == pytest.approx(200, abs=6) and judged["mnist"].n == 3000
    assert judged["cifar10"].mean == pytest.approx(-560, abs=5) and judged["cifar10"].basic == judged["mnist"].basic


@pytest.mark.parametrize(
    ("shift", "verdict"), [(-30, "does not"), (-5, "undecided"), (5, "undecided"), (30, "qualifies")]
)
def test_a_difference_within_its_own_error_decides_nothing(shift, verdict):
    basic = np.random.default_rng(0).normal(-300, 90, 400)  # the error of the difference is about 6, its interval 12
    item = choice.judge({"basic": basic, "other": basic + shift}, "basic")[1]
    assert item.verdict == verdict and (item.low < 0 < item.high) == (verdict == "undecided")


def test_the_interval_holds_the_true_difference_as_often_as_it_says():
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        sets = {"basic": random.normal(-300, 90, 200), "other": random.normal(-310, 30, 50)}
        item = choice.judge(sets, "basic")[1]
        hits += item.low <= -10 <= item.high
    assert 0.92 <= hits / 400 <= 0.98


def test_a_ratio_is_below_one_where_the_test_set_is_likelier(done):
    found = choice.likelihood_ratios(done)
    assert found["mnist"]["cifar10"] == pytest.approx(0.5, abs=0.02), "half as far below 0"
    assert found["mnist"]["mnist"] == pytest.approx(2, abs=0.08)


def test_a_ratio_of_positive_densities_says_nothing(done):
    positive = done["mnist"]._replace(held=-done["mnist"].held)
    assert all(math.isnan(value) for value in choice.likelihood_ratios({"mnist": positive})["mnist"].values())


def test_tables_and_figures_hold_what_was_judged(done, tmp_path):
    choice.write(tmp_path / "out", done, choice.judge(held(done), "fashion_mnist"))
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["figure_2a.svg", "figure_2b.svg", "ratios.csv", "simple_set.csv"]
    with (tmp_path / "out" / "simple_set.csv").open() as file:
        lines = {line["name"]: line for line in csv.DictReader(file)}
    assert lines["mnist"]["verdict"] == "qualifies" and lines["mnist"]["run"] == "eval/simple_mnist/abc"
    assert float(lines["mnist"]["mean"]) == pytest.approx(done["mnist"].held.mean(), abs=1e-3)
    with (tmp_path / "out" / "ratios.csv").open() as file:
        ratios = {(line["trained_on"], line["test_set"]): float(line["ratio"]) for line in csv.DictReader(file)}
    assert len(ratios) == 9 and ratios["cifar10", "mnist"] == pytest.approx(0.5, abs=0.02)
    assert not any(str(tmp_path) in path.read_text() for path in (tmp_path / "out").iterdir())
