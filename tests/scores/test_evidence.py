"""Densities of the evidence: each against a slow definition, and what all of them promise."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.svm import OneClassSVM

from oodgen.errors import Diverged, UserError
from oodgen.evaluation.evaluate import compute_scores, fit_scores
from oodgen.scores.columns import NormalScores, table
from oodgen.scores.evidence import Mahalanobis, Neighbours, SupportVectors
from oodgen.scores.marginals import Copod, KernelDensities, PValues

EVERY = ("*",)
ALL = [
    *(Neighbours(EVERY), Neighbours(EVERY, whiten=True), Neighbours(EVERY, scaling="deviation"), Mahalanobis(EVERY)),
    *(
        Mahalanobis(EVERY, scaling="deviation"),
        SupportVectors(EVERY),
        KernelDensities(EVERY),
        Copod(EVERY),
        PValues(EVERY),
    ),
    PValues(EVERY, how="minimum"),
]
every_form = pytest.mark.parametrize("form", ALL, ids=repr)


def evidence(n=60, seed=0):
    """Five dependent columns, one of them skewed."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((5, n)) + rng.standard_normal(n)
    x[4] = np.exp(x[4])
    return {"bounds/l": torch.from_numpy(x[:3]), "image/mean": torch.from_numpy(x[3]), "path/u": torch.from_numpy(x[4])}


def planted(form, **values):
    """The scores of an inlier, and of this inlier with other numbers."""
    inlier = {"bounds/l": torch.zeros(3, 2), "image/mean": torch.zeros(2), "path/u": torch.ones(2)}
    for name, value in values.items():
        inlier[name.replace("_", "/")][..., 1] = value
    return form(inlier).tolist()


def plain(scale=lambda rows: rows):
    """Scaled rows of the reference and of examples."""
    reference, x = (table(evidence(n, seed), ["*"])[1] for n, seed in ((60, 0), (30, 1)))
    return scale(reference), scale(x)


def normal_scores():
    return plain(NormalScores.fit(plain()[0]))


def shrunk_covariance(x):
    """Ledoit and Wolf 2004, section 3.3, literally, and the ridge."""
    n, d = x.shape
    x = x - x.mean(0)
    sample = x.T @ x / n
    centre = np.trace(sample) / d * np.eye(d)
    norm_squared = lambda a: (a**2).sum() / d  # noqa: E731
    b = min(norm_squared(sample - centre), sum(norm_squared(np.outer(r, r) - sample) for r in x) / n**2)
    share = b / norm_squared(sample - centre)
    return (share + 1e-6) * centre + (1 - share) * sample


@pytest.mark.parametrize("whiten", [False, True])
def test_neighbours_by_all_distances(whiten):
    reference, x = normal_scores()
    form = replace(Neighbours(EVERY), whiten=whiten).fit(evidence())
    metric = np.linalg.inv(shrunk_covariance(reference)) if whiten else np.eye(5)
    slow = [np.mean(sorted(np.sqrt((a - b) @ metric @ (a - b)) for b in reference)[:10]) for a in x]
    np.testing.assert_allclose(form(evidence(30, 1)), slow, rtol=1e-6)


def test_mahalanobis_by_inversion():
    reference, x = normal_scores()
    inverse, mean = np.linalg.inv(shrunk_covariance(reference)), reference.mean(0)
    slow = [np.sqrt((a - mean) @ inverse @ (a - mean)) for a in x]
    np.testing.assert_allclose(Mahalanobis(EVERY).fit(evidence())(evidence(30, 1)), slow, rtol=1e-9)


def test_support_vectors_are_those_of_the_machine():
    reference, x = normal_scores()
    machine = OneClassSVM(gamma=1 / 5, nu=0.1, tol=1e-8).fit(reference)
    given = SupportVectors(EVERY).fit(evidence())(evidence(30, 1)).numpy()
    np.testing.assert_allclose(np.exp(-given), machine.score_samples(x), rtol=1e-6)


def test_kernel_densities_by_all_kernels_also_in_gaps_and_tails():
    reference = {"image/mean": torch.cat([torch.linspace(0, 1, 50), torch.tensor([40.0])]).double()}
    values, x = reference["image/mean"].numpy(), np.linspace(-3, 45, 500)
    spread = min(values.std(), np.subtract(*np.quantile(values, [0.75, 0.25])) / 1.34)
    h = 0.9 * spread * len(values) ** -0.2
    slow = -np.logaddexp.reduce(norm.logpdf(x[:, None], values, h), 1) + np.log(len(values))
    given = KernelDensities(EVERY).fit(reference)({"image/mean": torch.from_numpy(x)}).numpy()
    near = np.abs(x[:, None] - values).min(1) < 4 * h
    np.testing.assert_allclose(given[near], slow[near], atol=0.1)
    np.testing.assert_allclose(given, slow, rtol=0.02, atol=0.1)


def test_copod_and_p_values_by_counting():
    reference, x = plain()
    x = np.clip(x, reference.min(0), reference.max(0))
    given = {
        "bounds/l": torch.from_numpy(x.T[:3]),
        "image/mean": torch.tensor(x[:, 3]),
        "path/u": torch.tensor(x[:, 4]),
    }
    below, ties = (x[:, None] > reference).sum(1), (x[:, None] == reference).sum(1)
    left = (below + ties / 2 + 0.5) / (len(reference) + 1)
    skew = ((reference - reference.mean(0)) ** 3).mean(0)
    tails = [left, 1 - left, np.where(skew < 0, left, 1 - left)]
    np.testing.assert_allclose(
        Copod(EVERY).fit(evidence())(given), np.max([-np.log(tail).sum(1) for tail in tails], axis=0)
    )
    p = 2 * np.minimum(left, 1 - left)
    fitted = PValues(EVERY).fit(evidence())
    np.testing.assert_allclose(fitted(given), -2 * np.log(p).sum(1))
    np.testing.assert_allclose(PValues(EVERY, how="minimum").fit(evidence())(given), -np.log(5 * p.min(1)))
    np.testing.assert_allclose(torch.stack(list(fitted.p_values(given).values()), 1), p)


@every_form
def test_what_is_odd_is_found_and_named_and_the_farther_the_odder(form):
    fitted = form.fit(evidence())
    for name, sign in (("image_mean", -1), ("image_mean", 1), ("path_u", 1)):
        values = [planted(fitted, **{name: sign * far})[1] for far in (1e3, 1e4, 1e5)]
        assert fitted(evidence(500, 2)).quantile(0.95) < values[0] < values[1] < values[2]
    odd = {"bounds/l": torch.tensor([[0.0], [0.5], [-9.0]]), "image/mean": torch.zeros(1), "path/u": torch.ones(1)}
    assert min(fitted.p_values(odd).items(), key=lambda item: item[1])[0] == "bounds/l[2]"
    assert fitted.normal_scores(odd)["bounds/l[2]"] < -3


@every_form
def test_a_score_is_of_its_example_and_of_the_set_of_references(form):
    fitted, x = form.fit(evidence()), evidence(30, 1)
    one = {name: value[..., 7:8] for name, value in x.items()}
    assert fitted(x).dtype == torch.float64
    torch.testing.assert_close(fitted(one)[0], fitted(x)[7], rtol=1e-9, atol=1e-9)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    shuffled = form.fit({name: value[..., order] for name, value in reversed(evidence().items())})
    torch.testing.assert_close(shuffled(x), fitted(x), rtol=1e-5, atol=1e-5)


@every_form
def test_a_constant_column_counts_where_it_is_not_the_constant(form):
    reference = {**evidence(), "path/constant": torch.full((60,), 3.0)}
    alone, fitted = form.fit(evidence()), form.fit(reference)
    x = evidence(30, 1)
    same, other = (fitted({**x, "path/constant": torch.full((30,), value)}) for value in (3.0, 3.5))
    assert (same.argsort() == alone(x).argsort()).all() or isinstance(form, SupportVectors)  # whose width is 1 / d
    assert (other - same).mean() > 0.1


@every_form
def test_what_is_not_finite_is_infinitely_odd_and_no_reference(form):
    fitted, x = form.fit(evidence()), evidence(4, 1)
    x["bounds/l"][1, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    assert fitted(x).isposinf().tolist() == [True, True, True, False]
    assert fitted.p_values(x)["bounds/l[1]"][:3].tolist() == [0, 0, 0]
    with pytest.raises(Diverged, match=r"bounds/l\[1\] is not finite for 3 of the 4 inliers"):
        form.fit(x)


@every_form
def test_one_column_and_hardly_any_reference(form):
    for columns, n in ((["image/*"], 60), (["*"], 2), (["*"], 1)):
        given = replace(form, columns=columns).fit(evidence(n))(evidence(30, 1))
        assert given.isfinite().all() and (n == 1 or len(given.unique()) > 10)


def test_other_columns_than_the_references_are_named():
    fitted = fit_scores({"x": Neighbours(EVERY)}, evidence())
    x = evidence(3, 1)
    with pytest.raises(UserError, match=r"score x needs 'bounds/l\[2\]'"):
        compute_scores(fitted, {**x, "bounds/l": x["bounds/l"][:2]})
    with pytest.raises(UserError, match=r"path/v was not in the evidence"):
        compute_scores(fitted, {**x, "path/v": x["path/u"]})
    with pytest.raises(UserError, match=r"needs 'codes/\*, flow/\*'"):
        fit_scores({"x": Neighbours(["codes/*", "flow/*"])}, evidence())
    with pytest.raises(ValueError, match="must be fitted"):
        Neighbours(EVERY)(x)


def test_a_large_reference_is_represented_by_some_of_it():
    few = replace(Neighbours(EVERY), most=1000).fit(evidence(4000))
    again = replace(Neighbours(EVERY), most=1000).fit(evidence(4000))
    x = evidence(300, 1)
    assert torch.equal(few(x), again(x))
    assert torch.corrcoef(torch.stack([few(x), Neighbours(EVERY).fit(evidence(4000))(x)]))[0, 1] > 0.9
