"""Metrics against brute force with ties, against scikit-learn, and the bootstrap against a direct one."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from oodgen.errors import UserError
from oodgen.metrics import METRICS, Interval, auprc, auroc, bootstrap, fpr_at_tpr

NAMES = ["auroc", "auprc", "auprc_in", "fpr80", "fpr95"]


def scores(seed: int, n: int = 80, m: int = 50, distinct: int | None = 12):
    rng = np.random.default_rng(seed)
    inlier, out = rng.normal(size=n), rng.normal(0.7, 1.3, size=m)
    return (inlier, out) if distinct is None else (np.round(inlier * distinct / 6), np.round(out * distinct / 6))


def brute(inlier, out):
    """Every metric by its definition, threshold by threshold."""
    auc = np.mean([(o > i) + 0.5 * (o == i) for o in out for i in inlier])

    def precision(positive, negative):
        total, recall = 0.0, 0.0
        for t in sorted(set(positive) | set(negative), reverse=True):
            tp, fp = np.sum(positive >= t), np.sum(negative >= t)
            total, recall = total + (tp / len(positive) - recall) * tp / (tp + fp), tp / len(positive)
        return total

    def fpr(tpr):
        return next(np.mean(inlier >= t) for t in sorted({*inlier, *out}, reverse=True) if np.mean(out >= t) >= tpr)

    return dict(zip(NAMES, [auc, precision(out, inlier), precision(-inlier, -out), fpr(0.8), fpr(0.95)], strict=True))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("distinct", [1, 4, 12, None])
def test_against_brute_force(seed, distinct):
    inlier, out = scores(seed, distinct=distinct)
    expected = brute(inlier, out)
    assert list(METRICS) == NAMES
    for name in NAMES:
        assert METRICS[name](inlier, out) == pytest.approx(expected[name], abs=1e-12), name


@pytest.mark.parametrize("distinct", [12, None])
def test_against_sklearn(distinct):
    inlier, out = scores(7, 500, 300, distinct)
    y, s = np.r_[np.zeros(500), np.ones(300)], np.r_[inlier, out]
    assert auroc(inlier, out) == pytest.approx(roc_auc_score(y, s), abs=1e-12)
    assert auprc(inlier, out) == pytest.approx(average_precision_score(y, s), abs=1e-12)
    assert auprc(inlier, out, positive="in") == pytest.approx(average_precision_score(1 - y, -s), abs=1e-12)
    fpr, tpr, _ = roc_curve(y, s, drop_intermediate=False)
    for q in (0.5, 0.8, 0.95, 1.0):
        assert fpr_at_tpr(inlier, out, q) == fpr[np.argmax(tpr >= q)]


def test_tpr_is_reached_exactly():
    """19 of 20 is 95 %: the twentieth need not be caught."""
    out, inlier = np.arange(20.0), np.array([0.5, -1.0])
    assert fpr_at_tpr(inlier, out, 0.95) == 0 and fpr_at_tpr(inlier, out, 0.951) == 0.5


def test_invariance_and_reversal():
    inlier, out = scores(3, 400, 300, None)
    for name, metric in METRICS.items():
        assert metric(1e4 * inlier + 3e3, 1e4 * out + 3e3) == metric(inlier, out), name
    assert auroc(-inlier, -out) == pytest.approx(1 - auroc(inlier, out), abs=1e-14)
    assert auprc(-out, -inlier) == pytest.approx(auprc(inlier, out, "in"), abs=1e-14)


def test_chance_and_perfection():
    same = {"auroc": 0.5, "auprc": 0.25, "auprc_in": 0.75, "fpr80": 1.0, "fpr95": 1.0}
    best = {"auroc": 1.0, "auprc": 1.0, "auprc_in": 1.0, "fpr80": 0.0, "fpr95": 0.0}
    for name, metric in METRICS.items():
        assert metric(np.zeros(30), np.zeros(10)) == same[name]
        assert metric(np.zeros(30), np.ones(10)) == best[name]


def test_scores_in_nats_survive_where_torchmetrics_squashes_them():
    """Near -3000 torchmetrics' sigmoid maps every score to 0 and answers one half; ours stays exact."""
    from torchmetrics.functional.classification import binary_auroc

    inlier, out = (torch.tensor(s) * 100 - 3000 for s in scores(1, 500, 500, None))
    theirs = binary_auroc(torch.cat([inlier, out]), torch.cat([torch.zeros(500), torch.ones(500)]).int())
    assert theirs.item() == pytest.approx(0.5)
    assert auroc(inlier, out) == pytest.approx(brute(inlier.numpy(), out.numpy())["auroc"], abs=1e-12)
    assert auroc(inlier, out) > 0.6


def test_any_container_of_numbers():
    inlier, out = scores(2)
    expected = auroc(inlier, out)
    assert auroc(list(inlier), torch.tensor(out, dtype=torch.bfloat16, requires_grad=True)) == expected
    assert auroc(inlier.astype(np.int64), out.reshape(5, 10)) == expected


def test_bootstrap_holds_the_value_and_is_reproducible():
    for distinct in (6, None):
        inlier, out = scores(4, 300, 200, distinct)
        intervals = bootstrap(inlier, out, resamples=300)
        assert list(intervals) == NAMES and all(isinstance(i, Interval) for i in intervals.values())
        for name, (value, low, high) in intervals.items():
            assert value == METRICS[name](inlier, out)
            assert low <= value <= high and low < high
        assert bootstrap(inlier, out, resamples=300) == intervals
        assert bootstrap(inlier, out, resamples=300, seed=1) != intervals


def test_bootstrap_has_the_distribution_of_the_direct_one():
    inlier, out = scores(5, 120, 90)
    fast, rng = bootstrap(inlier, out, resamples=4000), np.random.default_rng(0)
    slow = {name: [] for name in NAMES}
    for _ in range(1500):
        drawn = rng.choice(inlier, len(inlier)), rng.choice(out, len(out))
        for name, metric in METRICS.items():
            slow[name].append(metric(*drawn))
    for name in NAMES:
        spread = np.std(slow[name])
        ends = np.quantile(slow[name], [0.025, 0.975])
        assert np.abs(ends - fast[name][1:]).max() < 0.35 * spread, name


def test_bootstrap_covers_the_truth():
    """N(0,1) against N(1,1) has AUROC Phi(1/sqrt 2) = .76025; about 95 % of the intervals hold it."""
    rng, held = np.random.default_rng(0), 0
    for trial in range(200):
        interval = bootstrap(rng.normal(size=150), rng.normal(1, 1, size=150), resamples=200, seed=trial)["auroc"]
        held += interval.low <= 0.760250 <= interval.high
    assert 0.89 <= held / 200 <= 0.99


def test_an_infinite_score_has_its_rank():
    inlier, out = np.array([0.0, 1.0, 2.0, -np.inf]), np.array([0.5, np.inf, np.inf])
    finite = np.nan_to_num(inlier, neginf=-9.0), np.nan_to_num(out, posinf=9.0)
    assert bootstrap(inlier, out) == bootstrap(*finite)
    assert auroc(inlier, out) == (2 + 4 + 4) / 12


def test_bad_scores_are_named():
    good = np.zeros(4)
    with pytest.raises(UserError, match="1 of 3 out scores are not a number"):
        auroc(good, [1.0, np.nan, np.inf])
    with pytest.raises(UserError, match="1 of 1 inlier scores"):
        bootstrap([np.nan], good)
    for metric in METRICS.values():
        with pytest.raises(UserError, match="no inlier scores"):
            metric([], good)
        with pytest.raises(UserError, match="no out scores"):
            metric(good, torch.zeros(0))
