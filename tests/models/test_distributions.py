"""The image distributions against brute force in float64, their normalisation, and their behaviour at extremes."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import special
from torch.nn.functional import softplus

from oodgen.models.distributions import Bernoulli, Categorical, Gaussian, LogisticMixture, QuantisedGaussian

LEVELS = torch.arange(256) / 255


def every_level(low: float, high: float) -> torch.Tensor:
    """256 one-pixel grey images, one for each level."""
    return (low + (high - low) * LEVELS).view(256, 1, 1, 1)


def mixture(shape: tuple[int, ...], colours: int, seed: int = 0, dtype=torch.float32) -> LogisticMixture:
    draw = torch.Generator().manual_seed(seed)
    (s, b, k), size = shape[:3], shape[3:]
    pairs = colours * (colours - 1) // 2
    normal = [torch.randn(s, b, *c, k, *size, generator=draw).to(dtype) for c in [(), (colours,), (colours,), (pairs,)]]
    return LogisticMixture(normal[0], 0.5 * normal[1], normal[2] - 2, normal[3])


def test_shapes_and_float32_from_bfloat16():
    y = torch.rand(5, 3, 4, 6)
    params = torch.randn(2, 5, 3, 4, 6).bfloat16()
    cases = [
        Bernoulli(params),
        Gaussian(params.sigmoid(), 1.0),
        Gaussian(params.sigmoid(), params.exp()),
        QuantisedGaussian(params.sigmoid(), 0.1),
        mixture((2, 5, 4, 4, 6), 3, dtype=torch.bfloat16),
        Categorical(torch.randn(2, 5, 3, 256, 4, 6).bfloat16()),
    ]
    for p in cases:
        with torch.autocast("cpu", torch.bfloat16):
            log_prob, mean = p.log_prob(y), p.mean
        assert log_prob.shape == (2, 5) and log_prob.dtype == torch.float32
        assert mean.shape == (2, 5, 3, 4, 6) and mean.dtype == torch.float32
        assert mean.min() >= 0 and mean.max() <= 1
        assert (p.batch_shape, p.event_shape) == ((2, 5), (3, 4, 6)) and type(p).__name__ in repr(p)
        # examples and samples do not mix
        torch.testing.assert_close(p.log_prob(y)[:, 2], p.log_prob(y[2:3].expand_as(y))[:, 2])


def test_bernoulli_is_a_cross_entropy_for_soft_targets():
    logits, y = torch.randn(2, 3, 1, 4, 4), torch.rand(3, 1, 4, 4)
    mu = logits.double().sigmoid()
    expected = (y * mu.log() + (1 - y) * (1 - mu).log()).sum((2, 3, 4))
    torch.testing.assert_close(Bernoulli(logits).log_prob(y).double(), expected, rtol=1e-5, atol=1e-5)
    masses = sum(Bernoulli(logits[:1, :1, :, :1, :1]).log_prob(torch.full((1, 1, 1, 1), v)).exp() for v in (0.0, 1.0))
    assert masses.item() == pytest.approx(1, abs=1e-6)


def test_gaussian_matches_the_formula():
    mean, y = torch.rand(2, 3, 1, 4, 4), torch.rand(3, 1, 4, 4)
    sigma = 0.1 + torch.rand(2, 3, 1, 4, 4)
    expected = (-((y - mean) ** 2) / (2 * sigma**2) - sigma.log() - math.log(2 * math.pi) / 2).sum((2, 3, 4))
    torch.testing.assert_close(Gaussian(mean, sigma).log_prob(y), expected)
    # the floor of the recipe: a perfect reconstruction with sigma 1 costs 0.919 nats per dimension
    assert Gaussian(y.unsqueeze(0), 1.0).log_prob(y)[0, 0].item() / -16 == pytest.approx(0.918939, abs=1e-5)


@pytest.mark.parametrize("sigma", [1 / 2550, 0.002, 0.03, 0.0399, 0.3, 1.0, 20.0])
@pytest.mark.parametrize("mu", [0.0, 0.3, 0.5019608, 1.0])
def test_quantised_gaussian_against_float64(sigma, mu):
    p = QuantisedGaussian(torch.full((1, 256, 1, 1, 1), mu), sigma)
    log_mass = p.log_prob(every_level(0, 1))[0].double()
    assert log_mass.exp().sum().item() == pytest.approx(1, abs=3e-5)
    y, sigma, mu = LEVELS.double().numpy(), float(np.float32(sigma)), float(np.float32(mu))  # as it is given them
    a, b = (y - mu - 1 / 510) / sigma, (y - mu + 1 / 510) / sigma
    a[0], b[-1] = -np.inf, np.inf
    a, b = np.where(a + b > 0, -b, a), np.where(a + b > 0, -a, b)  # the lower tail, where log Phi is accurate
    expected = special.log_ndtr(b) + np.log1p(-np.exp(special.log_ndtr(a) - special.log_ndtr(b)))
    np.testing.assert_allclose(log_mass, expected, rtol=2e-5, atol=1e-4)


def test_quantised_gaussian_gradient_against_float64():
    mu = torch.linspace(0.01, 0.99, 256).view(1, 256, 1, 1, 1).requires_grad_()
    for sigma in (0.004, 0.03, 0.2, 1.0):
        (gradient,) = torch.autograd.grad(QuantisedGaussian(mu, sigma).log_prob(every_level(0, 1).flip(0)).sum(), mu)
        y, m = LEVELS.flip(0).double().numpy(), mu.detach().double().numpy().ravel()
        m_high, m_low = m + 1e-6, m - 1e-6

        def log_mass(m, y=y, sigma=sigma):
            a, b = (y - m - 1 / 510) / sigma, (y - m + 1 / 510) / sigma
            a, b = np.where(y == 0, -np.inf, a), np.where(y == 1, np.inf, b)
            a, b = np.where(a + b > 0, -b, a), np.where(a + b > 0, -a, b)
            return special.log_ndtr(b) + np.log1p(-np.exp(special.log_ndtr(a) - special.log_ndtr(b)))

        expected = (log_mass(m_high) - log_mass(m_low)) / (m_high - m_low)
        np.testing.assert_allclose(gradient.ravel(), expected, rtol=2e-3, atol=5e-3 / sigma)


def logistic_mass(level: int, m: float, s: float) -> float:
    """Difference of two logistic CDFs in float64."""
    low = -np.inf if level == 0 else (2 * level - 1) / 255 - 1
    high = np.inf if level == 255 else (2 * level + 1) / 255 - 1
    return special.expit((high - m) / s) - special.expit((low - m) / s)


def test_logistic_mixture_of_greys_against_float64():
    p = mixture((1, 256, 3, 1, 1), 1)
    p = LogisticMixture(p.logits[:, :1].expand(1, 256, 3, 1, 1), p.means[:, :1].expand(1, 256, 1, 3, 1, 1),
                        p.log_scales[:, :1].expand(1, 256, 1, 3, 1, 1), p.coupling)  # fmt: skip
    mass = p.log_prob(every_level(-1, 1))[0].double().exp()
    assert mass.sum().item() == pytest.approx(1, abs=1e-5)
    pi, m, s = p.logits[0, 0].softmax(0).flatten(), p.means[0, 0].flatten(), p.log_scales[0, 0].exp().flatten()
    expected = [sum(float(pi[k]) * logistic_mass(v, float(m[k]), float(s[k])) for k in range(3)) for v in range(256)]
    np.testing.assert_allclose(mass, expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("log_scale", [-7.0, -3.0, 0.0, 5.0])
def test_logistic_tails_keep_their_log_mass(log_scale):
    """Far from the mean the mass underflows but its logarithm is known: the density's tail times the bin."""
    s = math.exp(log_scale)
    p = LogisticMixture(*[torch.tensor(v).view(1, 1, *c, 1, 1, 1) for v, c in
                          [(0.0, ()), (-0.9, (1,)), (log_scale, (1,))]], torch.zeros(1, 1, 0, 1, 1, 1))  # fmt: skip
    y = 2 * 200 / 255 - 1
    a, b = (y + 0.9 + 1 / 255) / s, (y + 0.9 - 1 / 255) / s
    expected = -np.logaddexp(0, -a) - np.logaddexp(0, b) + np.log(-np.expm1(b - a))
    assert p.log_prob(torch.full((1, 1, 1, 1), y)).item() == pytest.approx(expected, rel=1e-5)


def test_coupled_colours_sum_to_one_and_follow_the_chain_rule():
    """Blue sums to one given red and green for any of their levels, green given red, and red alone."""
    p = mixture((1, 1, 2, 1, 1), 3, seed=3)
    pi, s = p.logits[0, 0].softmax(0).flatten().double(), p.log_scales[0, 0].exp().view(3, 2).double()
    mu, a = p.means[0, 0].view(3, 2).double(), p.coupling[0, 0].view(3, 2).tanh().double()

    def mass(levels: tuple[int, int, int]) -> float:
        r, g = (2 * v / 255 - 1 for v in levels[:2])
        total = 0.0
        for k in range(2):
            where = mu[0, k], mu[1, k] + a[0, k] * r, mu[2, k] + a[1, k] * r + a[2, k] * g
            total += float(pi[k]) * math.prod(
                logistic_mass(v, float(m), float(s[c, k])) for c, (v, m) in enumerate(zip(levels, where, strict=True))
            )
        return total

    grid = list(itertools.product([0, 1, 90, 200, 255], repeat=3))
    y = torch.tensor(grid).view(-1, 3, 1, 1) / 127.5 - 1
    ours = LogisticMixture(
        *(t.expand(1, len(grid), *t.shape[2:]) for t in (p.logits, p.means, p.log_scales, p.coupling))
    )
    np.testing.assert_allclose(ours.log_prob(y)[0].double().exp(), [mass(v) for v in grid], rtol=2e-3, atol=1e-9)
    # all 256 levels of blue at fixed red and green, divided by the mass of red and green alone, sum to one
    for red, green in [(0, 0), (40, 255), (128, 77)]:
        blue = torch.stack([torch.full((256,), red), torch.full((256,), green), torch.arange(256)], 1).view(
            256, 3, 1, 1
        )
        q = LogisticMixture(*(t.expand(1, 256, *t.shape[2:]) for t in (p.logits, p.means, p.log_scales, p.coupling)))
        rg = LogisticMixture(p.logits, p.means[:, :, :2], p.log_scales[:, :, :2], p.coupling[:, :, :1])
        marginal = rg.log_prob(blue[:1, :2] / 127.5 - 1)[0, 0].double().exp()
        assert (q.log_prob(blue / 127.5 - 1)[0].double().exp().sum() / marginal).item() == pytest.approx(1, abs=1e-4)


def test_mixture_mean_is_the_expectation():
    """Of grey pixels by enumeration, to half a bin; of coupled narrow colours by sampling their chain."""
    p = mixture((1, 1, 3, 1, 1), 1, seed=1)
    q = LogisticMixture(p.logits.expand(1, 256, 3, 1, 1), p.means.expand(1, 256, 1, 3, 1, 1),
                        p.log_scales.expand(1, 256, 1, 3, 1, 1), p.coupling)  # fmt: skip
    expected = (q.log_prob(every_level(-1, 1))[0].exp() * LEVELS).sum()
    assert abs(p.mean.item() - expected.item()) < 0.5 / 255
    c = torch.tensor([0.5, -0.3, 0.8]).view(1, 1, 3, 1, 1, 1)
    chain = LogisticMixture(torch.zeros(1, 1, 1, 1, 1), torch.tensor([0.2, -0.1, 0.1]).view(1, 1, 3, 1, 1, 1),
                            torch.full((1, 1, 3, 1, 1, 1), -6.0), c)  # fmt: skip
    t = c.tanh().flatten()
    r = 0.2
    g = -0.1 + t[0] * r
    b = 0.1 + t[1] * r + t[2] * g
    torch.testing.assert_close(chain.mean.flatten(), (torch.stack([torch.tensor(r), g, b]) + 1) / 2, atol=1e-4, rtol=0)


def test_categorical_mass_and_mean():
    logits = 3 * torch.randn(1, 1, 1, 256, 1, 1)
    p = Categorical(logits.expand(1, 256, 1, 256, 1, 1))
    mass = p.log_prob(every_level(0, 1))[0].exp()
    torch.testing.assert_close(mass, logits.flatten().softmax(0))
    assert Categorical(logits).mean.item() == pytest.approx((mass * LEVELS).sum().item(), abs=1e-5)


EXTREMES = list(itertools.product([-50.0, 0.0, 50.0], [-50.0, -7.0, 0.0, 50.0], [0.0, 0.5019608, 1.0]))


@pytest.mark.parametrize(("location", "scale", "y"), EXTREMES)
def test_values_and_gradients_are_finite_at_extremes(location, scale, y):
    a, b = (torch.full((1, 1, 1, 1, 1), v, requires_grad=True) for v in (location, scale))
    image, slope = torch.full((1, 1, 1, 1), y), torch.linspace(-1, 1, 256).view(256, 1, 1)
    cases = [
        (lambda: Bernoulli(a), image),
        (lambda: Gaussian(a.sigmoid(), 1 / 2550 + softplus(b)), image),
        (lambda: QuantisedGaussian(a.sigmoid(), 1 / 2550 + softplus(b)), image),
        (lambda: LogisticMixture(a, a.unsqueeze(2), b.unsqueeze(2), torch.zeros(1, 1, 0, 1, 1, 1)), 2 * image - 1),
        (lambda: Categorical(a.unsqueeze(3) * slope), image),
    ]
    for make, target in cases:
        p = make()
        log_prob, mean = p.log_prob(target).sum(), p.mean
        gradients = torch.autograd.grad(log_prob + mean.sum(), (a, b), allow_unused=True)
        assert torch.isfinite(log_prob), p
        assert all(torch.isfinite(g).all() for g in gradients if g is not None), p
        assert 0 <= mean.item() <= 1
        assert isinstance(p, Gaussian) or log_prob <= 1e-6


def test_mean_is_differentiable_where_components_are_clipped():
    means = torch.tensor([1.2, -1.5]).view(1, 1, 1, 2, 1, 1).requires_grad_()
    p = LogisticMixture(
        torch.zeros(1, 1, 2, 1, 1), means, torch.full((1, 1, 1, 2, 1, 1), -2.0), torch.zeros(1, 1, 0, 2, 1, 1)
    )
    (gradient,) = torch.autograd.grad(p.mean.sum(), means)
    assert (gradient > 0).all()


def test_with_closed_ends_a_wide_quantised_gaussian_is_the_density_of_a_bin():
    mean = torch.rand(1, 256, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    closed = QuantisedGaussian(mean, 1.0, open_ends=False).log_prob(every_level(0, 1))
    torch.testing.assert_close(closed + math.log(255), Gaussian(mean, 1.0).log_prob(every_level(0, 1)))
    opened = QuantisedGaussian(mean, 1.0).log_prob(every_level(0, 1))
    assert torch.equal(opened[:, 1:-1], closed[:, 1:-1])
    assert (opened[:, [0, -1]] > closed[:, [0, -1]] + 3).all()  # a third of all mass, or more, for one level


def test_a_mixture_without_any_width_left_is_still_a_number():
    # 1 / s of so flat a component vanishes in float32, and its logarithm times a closed end would be none
    ones = torch.ones(1, 1, 1, 2, 1, 1)
    p = LogisticMixture(torch.zeros(1, 1, 2, 1, 1), 0 * ones, 500 * ones, torch.zeros(1, 1, 0, 2, 1, 1))
    for y in (-1.0, 0.0, 1.0):
        assert p.log_prob(torch.full((1, 1, 1, 1), y)).isfinite()
