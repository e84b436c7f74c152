"""Learned priors: densities against quadrature and brute force, draws through named noise, gradients, bounds."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from oodgen.errors import UserError
from oodgen.models.likelihoods import Bernoulli
from oodgen.models.priors import Flow, Mixture
from oodgen.models.vae import VAE, Isotropic
from oodgen.noise import ExampleNoise, RandomNoise

CPU = torch.device("cpu")
INDEX = torch.tensor([5, 2, 40, 7])


def flow(latent, hidden=(12, 12)):
    """A flow far from the identity that a fresh one is close to."""
    torch.manual_seed(1)
    made = Flow(latent, transforms=3, hidden=hidden)
    for value in made.parameters():
        nn.init.normal_(value, std=0.5)
    return made


def mixture(latent, components=7):
    torch.manual_seed(1)
    made = Mixture(latent, components)
    for value in made.parameters():
        nn.init.normal_(value, std=0.8)
    return made


def made(kind, latent):
    return {"flow": flow, "mixture": mixture, "standard": lambda _: Isotropic(0.5, 1.3)}[kind](latent)


# --- densities ---


@torch.no_grad()
@pytest.mark.parametrize("prior", [flow(2), mixture(2)], ids=["flow", "mixture"])
def test_a_density_in_two_dimensions_integrates_to_one(prior):
    # the midpoint rule on a square that holds nearly all of the mass, which the second moments of draws say
    z = prior.draw(ExampleNoise(0, torch.arange(4000)), (1, 4000, 2), CPU)[0].double()
    prior = prior.double()
    middle, reach = z.mean(0), 9 * z.std(0)
    t = (torch.arange(1600, dtype=torch.float64) + 0.5) / 800 - 1
    grid = middle + reach * torch.cartesian_prod(t, t)
    density = torch.cat([prior().log_prob(part) for part in grid.split(200_000)]).exp()
    assert density.mean().item() * 4 * reach.prod().item() == pytest.approx(1, abs=2e-3)
    assert abs(density.log().max() - Normal(0.0, 1.0).log_prob(torch.tensor(0.0)) * 2) > 0.05  # no standard normal


def test_the_flows_density_is_that_of_its_jacobian():
    prior = flow(4).double()
    z = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for code, found in zip(z, prior().log_prob(z), strict=True):
        jacobian = torch.autograd.functional.jacobian(prior().transform, code)
        base = Normal(0.0, 1.0).log_prob(prior().transform(code)).sum()
        assert found.item() == pytest.approx((base + torch.linalg.slogdet(jacobian).logabsdet).item(), abs=1e-9)
        # each coordinate's transform looks at those before it in one order or another, so in all it is no triangle
        assert jacobian.tril(-1).abs().max() > 1e-6 and jacobian.triu(1).abs().max() > 1e-6


def test_the_mixtures_density_is_the_sum_over_components():
    prior = mixture(3).double()
    z = 2 * torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = prior.logits.exp() / prior.logits.exp().sum()
    density = torch.zeros(2, 5, dtype=torch.float64)
    for weight, mean, scale in zip(weights, prior.mean, prior.log_scale.exp(), strict=True):
        one = (-(((z - mean) / scale) ** 2) / 2 - scale.log() - math.log(2 * math.pi) / 2).sum(2).exp()
        density = density + weight * one
    torch.testing.assert_close(prior().log_prob(z), density.log())


def test_a_fresh_mixture_is_about_standard_normal():
    torch.manual_seed(0)
    prior = Mixture(2, 2000)
    z = prior.draw(ExampleNoise(0, torch.arange(20_000)), (1, 20_000, 2), CPU)[0]
    torch.testing.assert_close(z.mean(0), torch.zeros(2), rtol=0, atol=0.06)
    torch.testing.assert_close(z.T.cov(), torch.eye(2), rtol=0, atol=0.08)


# --- draws ---


@torch.no_grad()
def test_draws_of_a_flow_are_its_base_pulled_back():
    prior, noise = flow(4), ExampleNoise(0, INDEX)
    z = prior.draw(noise, (3, 4, 4), CPU)
    torch.testing.assert_close(prior().transform(z), noise.normal("p1", (3, 4, 4), CPU), rtol=1e-4, atol=1e-4)
    centre = prior.centre((3, 4, 4), CPU)
    torch.testing.assert_close(prior().transform(centre), torch.zeros(3, 4, 4), rtol=0, atol=1e-4)


@torch.no_grad()
def test_draws_of_a_mixture_have_its_weights_moments_and_centre():
    prior, n = mixture(2, 3), 40_000
    z = prior.draw(ExampleNoise(0, torch.arange(n)), (1, n, 2), CPU)[0]
    w, mean, scale = prior.logits.softmax(0), prior.mean, prior.log_scale.exp()
    first = (w.unsqueeze(1) * mean).sum(0)
    second = (w.unsqueeze(1) * (mean**2 + scale**2)).sum(0)
    assert ((z.mean(0) - first).abs() < 4.5 * z.std(0) / n**0.5).all()
    assert (((z**2).mean(0) - second).abs() < 4.5 * (z**2).std(0) / n**0.5).all()
    torch.testing.assert_close(prior.centre((1, 1, 2), CPU)[0, 0], first)
    # components so far apart that a draw says whose it is
    prior.mean.copy_(torch.tensor([[-100.0, 0], [0, 0], [100, 0]]))
    z = prior.draw(ExampleNoise(0, torch.arange(n)), (1, n, 2), CPU)[0, :, 0]
    shares = torch.stack([(z < -50).float().mean(), (z.abs() < 50).float().mean(), (z > 50).float().mean()])
    assert ((shares - w).abs() < 4.5 * (w * (1 - w) / n).sqrt()).all()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["flow", "mixture", "standard"])
def test_a_draw_is_a_function_of_seed_example_and_sample(kind):
    prior = made(kind, 3)

    def draw(index, samples, first=0, seed=0):
        return prior.draw(ExampleNoise(seed, index, first), (samples, len(index), 3), CPU)

    whole = draw(INDEX, 5)
    assert torch.equal(whole, draw(INDEX, 5))
    for i in range(4):
        torch.testing.assert_close(draw(INDEX[[i]], 5)[:, 0], whole[:, i], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(draw(INDEX, 2, first=3), whole[3:], rtol=1e-5, atol=1e-5)
    assert (draw(INDEX, 5, seed=1) - whole).abs().min() > 1e-6
    assert len({tuple(code) for code in whole.flatten(0, 1).tolist()}) == 20


# --- under a VAE ---


def vae(prior, latent=3):
    torch.manual_seed(0)
    model = VAE((1, 8, 8), latent, [4, 5], [2, 2], 4, Bernoulli("soft"), prior=prior)
    with torch.no_grad():
        model.encoder.head.weight *= 3
        model.decoder.lift[0].weight *= 10
    return model


Y = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["flow", "mixture"])
def test_bounds_under_a_learned_prior_are_the_slow_definition(kind):
    model, noise = vae(made(kind, 3)), ExampleNoise(0, INDEX)
    posterior, prior = model.bounds(Y, noise, (0, 1), (5, 2))
    q = model.encoder(Y)
    z = q.mean + q.stddev * noise.normal("q1", (5, 4, 3), CPU)
    log_px, ratio = model.decoder(z).log_prob(Y), q.log_prob(z).sum(2) - model.prior().log_prob(z)
    torch.testing.assert_close(posterior.log_px, log_px)
    assert posterior.closed_kls is None and posterior.kls.shape == (1, 5, 4)
    torch.testing.assert_close(posterior.kls[0], ratio)
    torch.testing.assert_close(posterior.elbo, log_px - ratio)
    torch.testing.assert_close(posterior.log_weights, posterior.elbo)
    drawn = model.decoder(model.prior.draw(noise, (2, 4, 3), CPU)).log_prob(Y)
    torch.testing.assert_close(prior.elbo, drawn)
    middle = model.bounds(Y, noise, (1,), (2,), down="mode")[0].elbo
    torch.testing.assert_close(middle, model.decoder(model.prior.centre((2, 4, 3), CPU)).log_prob(Y))
    torch.testing.assert_close(model.generate(4, noise), model.decoder(model.prior.draw(noise, (1, 4, 3), CPU)).mean[0])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["flow", "mixture", "standard"])
def test_explained_by_its_own_posterior_or_by_none_an_example_has_the_two_bounds(kind):
    model, noise = vae(made(kind, 3)), ExampleNoise(0, INDEX)
    own, none = model.bounds(Y, noise, (0, 1), (5, 5))
    posteriors = model.posteriors(Y, noise, 5)
    torch.testing.assert_close(model.bound_with_posteriors(Y, posteriors, noise, 5).elbo, own.elbo)
    torch.testing.assert_close(model.bound_with_posteriors(Y, [None], noise, 5).elbo, none.elbo)
    wide = [Normal(posteriors[0].mean, 2 * posteriors[0].stddev)]
    assert (model.bound_with_posteriors(Y, wide, noise, 5).elbo - own.elbo).abs().min() > 1e-3


@torch.no_grad()
def test_a_mixture_of_one_gives_the_bounds_of_that_gaussian():
    one = Mixture(3, 1)
    one.mean.fill_(0.4), one.log_scale.fill_(math.log(0.7))
    found, exact = (vae(prior)(Y, ExampleNoise(0, INDEX), 4000) for prior in (one, Isotropic(0.4, 0.7)))
    torch.testing.assert_close(found.log_weights, exact.log_weights, rtol=1e-5, atol=1e-3)
    error = found.kls[0].std(0) / 4000**0.5
    assert ((found.kls[0].mean(0) - exact.kls[0, 0]).abs() < 4.5 * error).all()


@torch.no_grad()
def test_precision_does_not_reach_the_density_of_a_flow():
    model = vae(flow(3, (64, 64)))
    with torch.autocast("cpu", torch.bfloat16):
        bound = model(Y, ExampleNoise(0, INDEX), 3)
        z = model.prior.draw(ExampleNoise(0, INDEX), (3, 4, 3), CPU)
    assert bound.layer_log_ratios.dtype == torch.float32
    torch.testing.assert_close(z, model.prior.draw(ExampleNoise(0, INDEX), (3, 4, 3), CPU))


@pytest.mark.parametrize("kind", ["flow", "mixture"])
def test_a_prior_learns_from_codes_and_codes_from_it(kind):
    model = vae(made(kind, 3))
    model(Y, RandomNoise(), 4).layer_log_ratios.mean().backward()
    for name, value in [*model.prior.named_parameters(), *model.encoder.named_parameters()]:
        assert value.grad.isfinite().all() and value.grad.abs().max() > 0, name
    model.zero_grad()
    model.generate(2, RandomNoise()).sum().backward()
    assert all(value.grad.abs().max() > 0 for value in model.decoder.parameters())


def test_a_prior_of_another_size_is_refused():
    with pytest.raises(UserError, match=r"prior has dimension 4, but model\.latent=3"):
        vae(Mixture(4))
