"""The bounds L^{>k} against exact likelihoods and quadrature: the same code around other conditionals."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from oodgen.models.hierarchy import BottomUpVAE
from oodgen.models.likelihoods import Bernoulli
from oodgen.noise import ExampleNoise

OPTIONS = list(itertools.product(["mean", "sample"], ["sample", "mode"]))

# --- linear Gaussian models, where log p(x) and the posterior are known ---


class Affine(nn.Module):
    """N(W z + V beyond + b, diag(s^2)), in float64."""

    def __init__(self, weight, bias, scale, beyond=None):
        super().__init__()
        self.weight, self.bias, self.scale, self.beyond = weight.double(), bias.double(), scale, beyond

    def forward(self, z, beyond=None):
        mean = z.double() @ self.weight.T + self.bias
        if self.beyond is not None and beyond is not None:
            mean = mean + beyond.double() @ self.beyond.T
        return Normal(mean, torch.as_tensor(self.scale, dtype=torch.float64).expand_as(mean), validate_args=False)


class AffineMean(Affine):
    def forward(self, z, beyond=None):
        return super().forward(z, beyond).mean


class FixedGaussian(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, params):
        return Independent(Normal(params, self.scale, validate_args=False), 1, validate_args=False)


def assembled(posterior, prior, decoder, likelihood, latents):
    """The bounds of BottomUpVAE around other conditionals."""
    layers = [{"latent": 1, "dense": True, "channels": 1, "blocks": 1}] * len(posterior)
    model = BottomUpVAE((1, 1, 1), layers, Bernoulli())
    model.posterior, model.prior = nn.ModuleList(posterior), nn.ModuleList(prior)
    model.decoder, model.likelihood = nn.ModuleList([decoder, nn.Identity()]), likelihood
    model.latents = [None, *latents]
    return model


def orthogonal(rows, columns, norms):
    """A matrix with orthogonal columns of the given norms, so that posteriors are diagonal."""
    generator = torch.Generator().manual_seed(rows)
    q, _ = torch.linalg.qr(torch.randn(rows, columns, generator=generator, dtype=torch.float64))
    return q * torch.tensor(norms, dtype=torch.float64)


def regression(weight, bias, noise, prior_mean, prior_variance):
    """p(z | x) of x = W z + b + noise N(0, 1), z ~ N(m, diag(v)), W with orthogonal columns."""
    precision = 1 / prior_variance + (weight**2).sum(0) / noise**2
    gain = weight.T / noise**2 / precision.unsqueeze(1)
    return Affine(gain, prior_mean / prior_variance / precision - gain @ bias, precision.rsqrt())


def one_layer(inflate=1.0, shift=0.0):
    b = torch.tensor([0.3, -1.0, 0.5, 2.0, 0.1], dtype=torch.float64)
    weight, noise = orthogonal(5, 3, [2.0, 0.7, 1.2]), 0.6
    q = regression(weight, b, noise, torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    q.scale, q.bias = q.scale * inflate, q.bias + shift
    model = assembled([q], [], AffineMean(weight, b, 1.0), FixedGaussian(noise), [(3,)])
    return model, MultivariateNormal(b, weight @ weight.T + noise**2 * torch.eye(5, dtype=torch.float64))


def two_layers():
    a, c = torch.diag(torch.tensor([1.5, -0.8], dtype=torch.float64)), torch.tensor([0.4, -0.2], dtype=torch.float64)
    b = torch.tensor([0.3, -1.0, 0.5, 2.0], dtype=torch.float64)
    weight, s1, noise = orthogonal(4, 2, [2.0, 0.7]), 0.5, 0.6
    variance = torch.diagonal(a) ** 2 + s1**2
    q1 = regression(weight, b, noise, c, variance)
    # the exact posterior factorises bottom-up: given z_1, x says nothing more about z_2
    q2 = regression(a, c, s1, torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    model = assembled([q1, q2], [Affine(a, c, s1)], AffineMean(weight, b, 1.0), FixedGaussian(noise), [(2,), (2,)])
    covariance = weight @ torch.diag(variance) @ weight.T + noise**2 * torch.eye(4, dtype=torch.float64)
    return model, MultivariateNormal(weight @ c + b, covariance)


@pytest.mark.parametrize("make", [one_layer, two_layers])
def test_with_the_exact_posterior_every_sample_of_the_elbo_is_log_p(make):
    model, marginal = make()
    torch.manual_seed(0)
    y = 3 * torch.randn(50, marginal.event_shape[0], dtype=torch.float64)
    exact = marginal.log_prob(y)
    value = model(y, ExampleNoise(0, torch.arange(50)), 7).elbo
    assert value.dtype == torch.float64
    torch.testing.assert_close(value, exact.expand(7, 50), rtol=1e-12, atol=1e-12)
    # and a wrong level knows less
    for k in range(1, model.depth + 1):
        (bound,) = model.bounds(y, ExampleNoise(0, torch.arange(50)), [k], [2000])
        assert bound.elbo.mean(0).mean() < exact.mean() - 1


def test_the_importance_bound_rises_with_s_to_log_p():
    model, marginal = one_layer(inflate=1.4, shift=0.3)
    torch.manual_seed(0)
    y = marginal.sample((20,))
    exact, total = marginal.log_prob(y), 2**14
    value = model(y, ExampleNoise(0, torch.arange(20)), total).elbo
    gaps = []
    for s in (1, 4, 16, 64, 256):
        bounds = value.view(total // s, s, 20).logsumexp(1) - math.log(s)
        gaps.append((exact - bounds).mean().item())
    assert gaps[0] > 0.5 and all(0 < b < a / 2 for a, b in itertools.pairwise(gaps)), gaps
    final = value.logsumexp(0) - math.log(total)
    assert (final - exact).abs().max() < 0.05
    # the plain average stays where the divergence of q from the posterior puts it
    right, _ = one_layer()
    q, p = model.posterior[0](y), right.posterior[0](y)
    divergence = kl_divergence(q, p).sum(1)
    assert ((exact - value.mean(0) - divergence).abs() < 5 * value.std(0) / total**0.5).all()


def test_with_q_equal_to_p_all_levels_coincide():
    def flat(mean, scale):
        return Affine(torch.zeros(2, 2), torch.as_tensor(mean), scale)

    b, weight = torch.tensor([0.3, -1.0, 0.5, 2.0]), orthogonal(4, 2, [2.0, 0.7])
    p1, p3 = flat([0.5, -1.0], 0.7), flat([0.0, 0.0], 1.0)
    q1 = Affine(torch.zeros(2, 4), p1.bias, 0.7)
    model = assembled(
        [q1, flat([1.0, 2.0], 1.3), p3],
        [p1, flat([1.0, 2.0], 1.3)],
        AffineMean(weight, b, 1.0),
        FixedGaussian(1.0),
        [(2,)] * 3,
    )
    y, n = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 40_000
    for up in ("mean", "sample"):
        means, errors = [], []
        for bound in model.bounds(y, ExampleNoise(0, torch.arange(3)), range(4), [n] * 4, up):
            assert not bound.kls.any()
            means.append(bound.elbo.mean(0))
            errors.append(bound.elbo.std(0) / n**0.5)
        for mean, error in zip(means[1:], errors[1:], strict=True):
            assert ((mean - means[0]).abs() < 4 * (error + errors[0])).all()


def test_a_bottom_up_q_with_the_marginals_of_p_has_ratios_that_cancel():
    # q(z_1) q(z_2 | z_1) = p(z_2) p(z_1 | z_2), though no factor of the one is a factor of the other
    model, marginal = two_layers()
    prior = model.prior[0]
    variance = torch.diagonal(prior.weight) ** 2 + prior.scale**2
    model.posterior[0] = Affine(torch.zeros(2, 4), prior.bias, variance.sqrt())
    y, n = marginal.sample((3,)), 40_000
    elbo, _, alone = model.bounds(y, ExampleNoise(0, torch.arange(3)), [0, 1, 2], [n] * 3, "sample")
    assert elbo.kls[0].abs().mean() > 0.1
    torch.testing.assert_close(elbo.elbo, elbo.log_px, rtol=1e-12, atol=1e-12)
    error = (elbo.elbo.std(0) + alone.elbo.std(0)) / n**0.5
    assert ((elbo.elbo.mean(0) - alone.elbo.mean(0)).abs() < 4 * error).all()


# --- quadrature: nonlinear conditionals of one-dimensional latents ---


class Curved(nn.Module):
    """N(sin(a z + c beyond + b), (0.3 + 0.2 cos z)^2)."""

    def __init__(self, a, b, c):
        super().__init__()
        self.a, self.b, self.c = a, b, c

    def forward(self, z, beyond=None):
        lean = 0 if beyond is None else self.c * beyond.double()
        z = z.double()
        return Normal(1.5 * torch.sin(self.a * z + lean + self.b), 0.3 + 0.2 * torch.cos(z), validate_args=False)


class CurvedMean(Curved):
    def forward(self, z, beyond=None):
        return super().forward(z, beyond).mean


@pytest.mark.parametrize(("up", "down"), OPTIONS)
def test_bounds_of_two_one_dimensional_layers_match_quadrature(up, down):
    q1, q2, p1, px = Curved(0.9, 0.2, 0), Curved(1.1, -0.3, 0.5), Curved(0.8, 0.1, 0), CurvedMean(1.3, 0.4, 0.7)
    model = assembled([q1, q2], [p1], px, FixedGaussian(0.5), [(1,), (1,)])
    x, n = torch.tensor([[0.7]], dtype=torch.float64), 200_000
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    e, w = torch.tensor(nodes).view(-1, 1), torch.tensor(weights / math.sqrt(2 * math.pi))
    standard = Normal(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))

    def along(p, probability):
        """The points of one more integral: z, and the weights of all points so far."""
        z = p.mean.unsqueeze(-2) + p.stddev.unsqueeze(-2) * e
        return z, probability.unsqueeze(-1) * w

    def spread(z, like):
        return z.unsqueeze(-2).expand_as(like)

    def log_px(z1, z2):
        return Normal(px(z1, z2), 0.5).log_prob(x.squeeze())

    def downward(z2, mass):
        """Points z_1 below z_2, with z_2 repeated for them, and their weights."""
        p = p1(z2)
        if down == "mode":
            return p.mean, z2, mass
        z1, mass = along(p, mass)
        return z1, spread(z2, z1), mass

    one = torch.ones((), dtype=torch.float64)
    q = q1(x[0])
    expected = []
    # k = 0
    z1, mass = along(q, one)
    z2, mass2 = along(q2(z1, x[0]), mass)
    z1, q_z1 = spread(z1, z2), spread(q.log_prob(z1), z2)
    q_z2 = q2(z1, x[0]).log_prob(z2)
    f = log_px(z1, z2) + p1(z2).log_prob(z1) + standard.log_prob(z2) - q_z1 - q_z2
    expected.append((mass2 * f.squeeze(-1)).sum())
    # k = 1
    z1, mass = (q.mean, one) if up == "mean" else along(q, one)
    z2, mass = along(q2(z1, x[0]), mass)
    ratio = q2(spread(z1, z2), x[0]).log_prob(z2) - standard.log_prob(z2)
    kl = (mass * ratio.squeeze(-1)).sum()
    z1, z2, mass = downward(z2, mass)
    expected.append((mass * log_px(z1, z2).squeeze(-1)).sum() - kl)
    # k = 2: in the mode of p all is fixed
    if down == "mode":
        z2, mass = torch.zeros(1, dtype=torch.float64), one
    else:
        z2, mass = e, w
    z1, z2, mass = downward(z2, mass)
    expected.append((mass * log_px(z1, z2).squeeze(-1)).sum())

    bounds = model.bounds(x, ExampleNoise(0, torch.zeros(1, dtype=torch.int64)), [0, 1, 2], [n] * 3, up, down)
    for k, (bound, exact) in enumerate(zip(bounds, expected, strict=True)):
        error = bound.elbo.std().item() / n**0.5
        assert abs(bound.elbo.mean().item() - exact.item()) < 4 * error + 1e-5, k
        assert error < 0.02
    assert len({round(value.item(), 2) for value in expected}) == 3
