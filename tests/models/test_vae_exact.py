"""The KL and the bounds of the VAE against formulas, Monte Carlo, exact likelihoods and quadrature."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

from oodgen.models.likelihoods import Bernoulli
from oodgen.models.vae import VAE, Isotropic
from oodgen.noise import ExampleNoise, RandomNoise

INDEX = torch.tensor([5, 2, 40, 7])
PRIORS = [(0.0, 1.0), (0.0, 0.1), (0.0, 3.0), (8.0, 1.0), (-0.5, 0.7)]


def tiny(shape=(1, 8, 8), latent=3, likelihood=None, **options):
    """A small VAE whose code matters to its decoder more than freshly drawn weights make it."""
    torch.manual_seed(0)
    options = {"channels": [4, 5], "strides": [2, 2], "kernel": 4} | options
    model = VAE(shape, latent, likelihood=likelihood or Bernoulli("soft"), **options)
    with torch.no_grad():
        model.encoder.head.weight *= 3
        model.decoder.lift[0].weight *= 10
    return model.eval()


def images(shape=(1, 8, 8), count=4):
    return torch.randint(256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


# --- the KL ---


class Posterior(nn.Module):
    """The same codes whatever the image."""

    def __init__(self, mean, scale):
        super().__init__()
        self.q = Normal(mean, scale)

    def forward(self, y):
        return self.q


@pytest.fixture(params=PRIORS, ids=str)
def shifted(request):
    """A VAE under the prior N(m 1, sigma^2 I) with given posteriors, m, sigma, and the posteriors' parameters."""
    m, sigma = request.param
    model = tiny(prior=Isotropic(m, sigma))
    g = torch.Generator().manual_seed(3)
    mean, scale = 2 * torch.randn(4, 3, generator=g), 0.05 + 2 * torch.rand(4, 3, generator=g)
    model.encoder = Posterior(mean, scale)
    return model, m, sigma, mean.double(), scale.double()


def test_the_kl_is_the_formula_of_the_papers(shifted):
    model, m, sigma, mean, scale = shifted
    bound = model(torch.rand(4, 1, 8, 8), RandomNoise(), 2)
    formula = (((mean - m) ** 2 + scale**2) / sigma**2 - 1 - (scale**2 / sigma**2).log()).sum(1) / 2
    assert bound.kls.shape == (1, 2, 4)
    torch.testing.assert_close(bound.kls, formula.float().expand(1, 2, 4), rtol=1e-5, atol=1e-5)
    if m == 0:  # BPVAE, eq. 4 and section 2 of the recipe
        one = (mean**2 + scale**2) / sigma**2 - 1 - (scale**2 / sigma**2).log()
        torch.testing.assert_close(formula, one.sum(1) / 2)
    if sigma == 1:  # negative sampling, section 1 of the recipe
        one = (mean - m) ** 2 + scale**2 - 1 - (scale**2).log()
        torch.testing.assert_close(formula, one.sum(1) / 2)


def test_the_kl_is_the_mean_of_the_sampled_ratio(shifted):
    model, *_ = shifted
    torch.manual_seed(0)
    n = 20_000
    ratio, closed = [], None
    for _ in range(10):
        bound = model(torch.rand(4, 1, 8, 8), RandomNoise(), n // 10)
        ratio.append(bound.layer_log_ratios[0].double())
        closed = bound.kls[0, 0].double()
    ratio = torch.cat(ratio)
    assert ((ratio.mean(0) - closed).abs() < 4.5 * ratio.std(0) / n**0.5).all()
    assert ratio.std(0).min() > 0.1


def test_the_bound_takes_the_closed_form_and_the_weights_the_sampled_ratio():
    model = tiny(prior=Isotropic(0.3, 0.8))
    noise = ExampleNoise(0, INDEX)
    y = model.observe(images(), noise)
    bound = model(y, noise, 5)
    q = model.encoder(y)
    z = q.mean + q.stddev * noise.normal("q1", (5, 4, 3), y.device)
    ratio = (Normal(q.mean, q.stddev).log_prob(z) - Normal(0.3, 0.8).log_prob(z)).sum(2)
    torch.testing.assert_close(bound.layer_log_ratios, ratio.unsqueeze(0), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(bound.elbo, bound.log_px - bound.kls[0])
    torch.testing.assert_close(bound.log_weights, bound.log_px - ratio, rtol=1e-5, atol=1e-4)
    # the closed form is no sample's, the ratio every sample's own
    assert bound.kls.std(1).max() < 1e-6 and bound.layer_log_ratios.std(1).min() > 0.01


# --- exact likelihoods ---


class Affine(nn.Module):
    """N(W z + b, diag(s^2)), in float64."""

    def __init__(self, weight, bias, scale, event=False):
        super().__init__()
        self.weight, self.bias, self.scale, self.event = weight, bias, scale, event

    def forward(self, z):
        mean = z.double() @ self.weight.T + self.bias
        p = Normal(mean, torch.as_tensor(self.scale, dtype=torch.float64).expand_as(mean))
        return Independent(p, 1) if self.event else p


def linear(inflate=1.0, shift=0.0, m=0.5, sigma=0.8, noise=0.6):
    """p(z) = N(m, sigma^2), p(x|z) = N(W z + b, noise^2) with orthogonal columns; q is exact but for the options."""
    g = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(4, 2, generator=g, dtype=torch.float64))
    weight, b = q * torch.tensor([2.0, 0.7]), torch.tensor([0.3, -1.0, 0.5, 2.0], dtype=torch.float64)
    precision = 1 / sigma**2 + (weight**2).sum(0) / noise**2
    gain = weight.T / noise**2 / precision.unsqueeze(1)
    model = tiny(latent=2, prior=Isotropic(m, sigma))
    model.encoder = Affine(gain, m / sigma**2 / precision - gain @ b + shift, precision.rsqrt() * inflate)
    model.decoder = Affine(weight, b, noise, event=True)
    covariance = sigma**2 * weight @ weight.T + noise**2 * torch.eye(4, dtype=torch.float64)
    return model, MultivariateNormal(weight @ torch.full((2,), m, dtype=torch.float64) + b, covariance)


def test_with_the_exact_posterior_every_weight_is_log_p():
    model, marginal = linear()
    torch.manual_seed(0)
    y = 3 * torch.randn(20, 4, dtype=torch.float64)
    exact, n = marginal.log_prob(y), 4000
    bound = model(y, ExampleNoise(0, torch.arange(20)), n)
    # sigma and m are float32
    torch.testing.assert_close(bound.log_weights, exact.expand(n, 20), rtol=1e-6, atol=1e-6)
    # the closed form leaves the noise of log p(x|z) in each sample, but not in their mean
    error = bound.elbo.std(0) / n**0.5
    assert error.min() > 1e-4 and ((bound.elbo.mean(0) - exact).abs() < 4.5 * error).all()


def test_the_importance_bound_rises_with_s_to_log_p():
    model, marginal = linear(inflate=1.4, shift=0.3)
    torch.manual_seed(0)
    y = marginal.sample((20,))
    exact, total = marginal.log_prob(y), 2**14
    weights = model(y, ExampleNoise(0, torch.arange(20)), total).log_weights
    gaps = []
    for s in (1, 4, 16, 64, 256):
        bounds = weights.view(total // s, s, 20).logsumexp(1) - math.log(s)
        gaps.append((exact - bounds).mean().item())
    assert gaps[0] > 0.3 and all(0 < b < a / 2 for a, b in itertools.pairwise(gaps)), gaps
    assert (weights.logsumexp(0) - math.log(total) - exact).abs().max() < 0.05


@torch.inference_mode()
def test_the_bounds_of_a_real_network_are_those_of_quadrature():
    m, sigma = 0.4, 0.9
    model = tiny(latent=1, prior=Isotropic(m, sigma))
    noise = ExampleNoise(0, INDEX)
    y = model.observe(images(), noise)

    def log_px(z):
        return model.decoder(z.float().unsqueeze(2)).log_prob(y).double()

    # the trapezoid rule on a smooth function that vanishes at both ends
    t = torch.linspace(-8, 8, 401, dtype=torch.float64).unsqueeze(1)
    mass = Normal(0.0, 1.0).log_prob(t).exp() * (t[1] - t[0])
    along_p = log_px((m + sigma * t).expand(-1, 4))
    q = model.encoder(y)
    mean, scale = q.mean.double().T, q.stddev.double().T
    kl = ((mean - m) ** 2 + scale**2) / sigma**2 / 2 - 0.5 - (scale / sigma).log()
    exact = {
        "l": (mass * log_px(mean + scale * t)).sum(0) - kl[0],
        "iw": (mass.log() + along_p).logsumexp(0),
        "prior": (mass * along_p).sum(0),
    }
    assert min((exact["iw"] - exact[name]).min() for name in ("l", "prior")) > 0.2
    n = 10_000
    posterior, prior = model.bounds(y, noise, (0, 1), (n, n))
    for name, bound in (("l", posterior), ("prior", prior)):
        error = bound.elbo.std(0) / n**0.5
        assert ((bound.elbo.mean(0) - exact[name]).abs() < 4.5 * error).all(), name
        assert error.max() < 0.05
    ratio = (posterior.log_weights - exact["iw"]).exp()
    assert ((ratio.mean(0) - 1).abs() < 4.5 * ratio.std(0) / n**0.5).all()
    assert ratio.std(0).max() < 5
    torch.testing.assert_close(posterior.kls[:, 0], kl.float(), rtol=1e-5, atol=1e-5)
