"""Scores are algebra on evidence: against the recipes' other forms, and with the right sign."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from oodgen.errors import UserError
from oodgen.scores import likelihood, ratio


def evidence(levels=3, n=50, seed=0, offset=-100.0):
    g = torch.Generator().manual_seed(seed)
    log_px = offset + 10 * torch.randn(levels, n, generator=g, dtype=torch.float64)
    kl = torch.rand(levels, n, generator=g, dtype=torch.float64)
    l = log_px - 3 * torch.rand(levels, n, generator=g, dtype=torch.float64)  # noqa: E741
    l[0] = log_px[0] - kl.sum(0)
    bits = {
        f"image/{codec}_bits": 500 + 100 * torch.rand(n, generator=g, dtype=torch.float64)
        for codec in ("png", "jpeg2000")
    }
    return {"bounds/l": l, "bounds/log_px": log_px, "bounds/kl": kl, "bounds/iw": l[0] + 1.5} | bits


def test_bounds_and_divergences_are_read_from_their_rows():
    e = evidence()
    for k in range(3):
        assert torch.equal(likelihood.bound(e, k), -e["bounds/l"][k])
        assert torch.equal(likelihood.kl(e, k + 1), e["bounds/kl"][k])
    assert torch.equal(likelihood.importance(e), -e["bounds/iw"])
    assert torch.equal(likelihood.statistic(e, "png_bits"), e["image/png_bits"])
    other = {name.replace("bounds", "mode"): value for name, value in e.items()}
    assert torch.equal(ratio.llr(other, 1, probe="mode"), ratio.llr(e, 1))


@pytest.mark.parametrize("importance", [False, True])
@pytest.mark.parametrize("k", [1, 2])
def test_llr(k, importance):
    e = evidence()
    top = e["bounds/iw"] if importance else e["bounds/l"][0]
    torch.testing.assert_close(ratio.llr(e, k, importance), top - e["bounds/l"][k])
    # importance lifts L alone: L>k stays a plain average
    torch.testing.assert_close(ratio.llr(e, k, True) - ratio.llr(e, k), torch.full((50,), 1.5, dtype=torch.float64))


@pytest.mark.parametrize("k", [1, 2])
def test_llr_with_the_elbos_kl_is_the_gap_of_the_reconstructions(k):
    e = evidence()
    torch.testing.assert_close(ratio.llr(e, k, kl="elbo"), e["bounds/log_px"][0] - e["bounds/log_px"][k])
    torch.testing.assert_close(
        ratio.llr(e, k, True, kl="elbo"), e["bounds/iw"] - e["bounds/log_px"][k] + e["bounds/kl"].sum(0)
    )


@pytest.mark.parametrize("levels", [3, 5])
@pytest.mark.parametrize("kl", ["own", "elbo"])
def test_adaptive_ratio_equals_its_sum_by_parts(levels, kl):
    # papers/adaptive_llr, section 4, item 2
    e = evidence(levels)
    ell = e["bounds/log_px"].numpy()
    llr = [None, *(ratio.llr(e, k, kl=kl).numpy() for k in range(1, levels))]
    w = [None, *(ell[k] / ell[k - 1] for k in range(1, levels))]
    expected = w[levels - 1] * llr[levels - 1] + sum((w[k] - w[k + 1]) * llr[k] for k in range(1, levels - 1))
    np.testing.assert_allclose(ratio.llr_ada(e, kl=kl).numpy(), expected, rtol=1e-10)


def test_adaptive_ratio_from_its_printed_form():
    # eq. 11 term by term, R_k = 1 / log p(x | z_{>k}), R_{-1} = R_0, LLR^{>-1} = 0, for one example worked by hand
    e = {
        "bounds/l": torch.tensor([[-10.0], [-16.0], [-40.0]]),
        "bounds/log_px": torch.tensor([[-4.0], [-8.0], [-24.0]]),
    }
    r = [-1 / 4, -1 / 8, -1 / 24]
    llr = [0.0, 6.0, 30.0]
    expected = r[0] / r[0] * llr[0] + r[0] / r[1] * (llr[1] - llr[0]) + r[1] / r[2] * (llr[2] - llr[1])
    assert ratio.llr_ada(e).item() == pytest.approx(expected) == pytest.approx(84)


def test_adaptive_ratio_with_equal_reconstructions_is_the_top_ratio():
    e = evidence()
    e["bounds/log_px"] = torch.full((3, 50), -70.0, dtype=torch.float64)
    torch.testing.assert_close(ratio.llr_ada(e), ratio.llr(e, 2))


def test_adaptive_weights_stay_positive_and_bounded_where_log_p_is_small_or_positive():
    l = torch.tensor([[-1.0], [-3.0], [-8.0]])  # noqa: E741
    for small in (-1e-6, 0.0, 5.0, 1e4):
        e = {"bounds/l": l, "bounds/log_px": torch.tensor([[small], [-2.0], [small]])}
        # as if each were -1 nat: w_1 = 2, w_2 = 1/2
        assert ratio.llr_ada(e).item() == pytest.approx(2 * 2 + 0.5 * 5)
    e = {"bounds/l": l, "bounds/log_px": torch.tensor([[-1.5], [-2.0], [-3.0]])}
    assert ratio.llr_ada(e).item() == pytest.approx(2 / 1.5 * 2 + 3 / 2 * 5)


def test_deviating_level_against_numpy():
    inlier, out = evidence(seed=1, n=300), evidence(seed=2)
    rule = ratio.DeviatingLevel()
    fitted = rule.fit(inlier)
    assert rule.reference is None  # fitting returns a new rule
    llr = [ratio.llr(inlier, k).numpy() for k in (1, 2)]
    z = [np.abs(ratio.llr(out, k).numpy() - a.mean()) / a.std(ddof=1) for k, a in zip((1, 2), llr, strict=True)]
    np.testing.assert_allclose(fitted(out).numpy(), np.maximum(*z), rtol=1e-10)
    with pytest.raises(ValueError, match="must be fitted"):
        rule(out)


@pytest.mark.parametrize("scale", [1e-2, 1e4])
def test_deviating_level_does_not_depend_on_the_unit(scale):
    inlier, out = evidence(seed=1), evidence(seed=2)
    scaled = [{name: scale * value for name, value in e.items()} for e in (inlier, out)]
    torch.testing.assert_close(
        ratio.DeviatingLevel().fit(scaled[0])(scaled[1]), ratio.DeviatingLevel().fit(inlier)(out)
    )


def test_deviating_level_lets_no_level_of_another_magnitude_win_by_its_size():
    inlier = evidence(seed=1, n=1000)
    inlier["bounds/l"][2] *= 1e4
    fitted = ratio.DeviatingLevel().fit(inlier)
    plain = {name: value[..., :1].clone() for name, value in inlier.items()}
    at_reference = dict(plain)
    at_reference["bounds/l"] = torch.tensor([[0.0], [0.0], [0.0]], dtype=torch.float64) - torch.cat(
        [torch.zeros(1, 1), fitted.reference[0].view(2, 1)]
    )
    assert fitted(at_reference).item() == pytest.approx(0, abs=1e-9)
    for k in (0, 1):  # three standard deviations off at one level counts three, in either direction
        for sign in (1, -1):
            moved = {**at_reference, "bounds/l": at_reference["bounds/l"].clone()}
            moved["bounds/l"][k + 1] += sign * 3 * fitted.reference[1][k]
            assert fitted(moved).item() == pytest.approx(3, rel=1e-6)


def test_input_complexity_is_in_bits():
    e = evidence()
    for codec in ("png", "jpeg2000"):
        expected = -e["bounds/l"][0] / math.log(2) - e[f"image/{codec}_bits"]
        torch.testing.assert_close(ratio.input_complexity(e, codec), expected)


def test_the_background_ratio_is_the_difference_of_two_log_densities():
    log_p = -100 + 10 * torch.randn(2, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    e = {"members/iw": log_p, "members/l": log_p.unsqueeze(1) - 3.0}
    for score in (likelihood.importance, likelihood.bound):
        torch.testing.assert_close(ratio.background(e, partial(score, probe="members")), log_p[1] - log_p[0])
    # an image that only the background finds likely is out
    e = {"members/iw": torch.tensor([[-80.0, -120.0], [-100.0, -100.0]])}
    inlier, out = ratio.background(e, partial(likelihood.importance, probe="members"))
    assert out > inlier
    with pytest.raises(IndexError, match="3 members"):
        ratio.background({"members/iw": torch.zeros(3, 4)}, partial(likelihood.importance, probe="members"))


def test_larger_means_more_out_of_distribution():
    # the out example is explained worse at every level, loses more on the way up, and compresses better
    e = {
        "bounds/l": torch.tensor([[-90.0, -100.0], [-91.0, -120.0], [-93.0, -180.0]]),
        "bounds/log_px": torch.tensor([[-80.0, -85.0], [-84.0, -110.0], [-90.0, -175.0]]),
        "bounds/kl": torch.tensor([[5.0, 7.0], [3.0, 4.0], [2.0, 4.0]]),
        "bounds/iw": torch.tensor([-88.0, -97.0]),
        "image/png_bits": torch.tensor([900.0, 700.0]),
    }
    inlier = {"bounds/l": torch.tensor([[-90.0, -90.0, -90.0], [-91.0, -91.1, -90.9], [-93.0, -93.2, -92.8]])}
    scores = [
        *(likelihood.bound(e, k) for k in range(3)),
        likelihood.importance(e),
        *(likelihood.kl(e, layer) for layer in (1, 2, 3)),
        *(ratio.llr(e, k, importance, kl) for k in (1, 2) for importance in (False, True) for kl in ("own", "elbo")),
        ratio.llr_ada(e),
        ratio.llr_ada(e, kl="elbo"),
        ratio.DeviatingLevel().fit(inlier)(e),
        ratio.input_complexity(e),
    ]
    assert all(score[1] > score[0] for score in scores)


@pytest.mark.parametrize(
    ("score", "k"),
    [
        (likelihood.bound, 3),
        (likelihood.bound, -1),
        (likelihood.kl, 0),
        (likelihood.kl, 4),
        (ratio.llr, 0),
        (ratio.llr, 3),
        (ratio.llr, -1),
    ],
)
def test_a_level_that_is_not_there_is_an_error_and_never_another_level(score, k):
    with pytest.raises(IndexError, match=f"={k} of [01]..[23]"):
        score(evidence(), k)


def test_a_model_of_one_layer_has_no_ratio_of_levels():
    one = evidence(levels=1)
    for call in (ratio.llr_ada, ratio.DeviatingLevel().fit, lambda e: ratio.llr(e, 1)):
        with pytest.raises(IndexError, match="k=1 of "):
            call(one)


def test_an_unknown_reading_is_one_line():
    for call in (lambda: ratio.llr(evidence(), 1, kl="all"), lambda: ratio.llr_ada(evidence(), kl="all")):
        with pytest.raises(UserError, match="kl='all' is not one of: own, elbo"):
            call()
