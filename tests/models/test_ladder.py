"""The ladder VAE: its bounds against their definition, exact likelihoods and quadrature."""

import copy
import itertools
import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from oodgen.models.density import Bound, Hierarchy
from oodgen.models.gaussian import gaussian_product
from oodgen.models.hierarchy import BottomUpVAE
from oodgen.models.ladder import LadderVAE
from oodgen.models.likelihoods import Bernoulli
from oodgen.noise import ExampleNoise, RandomNoise

CPU = torch.device("cpu")
SPECS = [
    {"latent": 2, "channels": 3, "kernel": 3, "blocks": 1, "stride": 2},
    {"latent": 1, "channels": 4, "kernel": 3, "blocks": 2, "stride": 1},
    {"latent": 3, "dense": True, "channels": 3, "kernel": 3, "blocks": 1, "stride": 2},
    {"latent": 2, "dense": True, "channels": 2, "kernel": 3, "blocks": 1, "stride": 1},
]


def network(depth, skips=True):
    torch.manual_seed(depth)
    model = LadderVAE((1, 6, 5), SPECS[:depth], Bernoulli("soft"), skips=skips)
    model.initialise(torch.rand(64, 1, 6, 5), RandomNoise())
    return model, torch.rand(3, 1, 6, 5), torch.tensor([11, 4, 70])


# --- the definition, one example and one sample at a time ---


def gaussian(params):
    """(1, 2D, ...) to a Gaussian over (1, 1, D, ...)."""
    mean, raw = params.unsqueeze(0).chunk(2, 2)
    return Normal(mean, ((1 + 2**raw).log2() + 1e-6).sqrt())


def prior(model, i, z):
    if i == model.depth:
        zeros = torch.zeros(1, 1, *model.latents[i])
        return Normal(zeros, torch.ones_like(zeros))
    return model.prior[i - 1](z[i + 1], z.get(i + 2))


def decoded(model, z):
    stage, head = model.decoder
    return model.likelihood(head(stage(z[1][0], z[2][0] if model.depth >= 2 else None)).unsqueeze(0))


def definition(model, y, noise, k, down):
    """L^{>k} of one example and one sample: upward without chance, then down, with q above k and p below."""
    evidence, h = {}, y.unsqueeze(0)
    for i in range(1, model.depth + 1):
        h = model.encoder[i - 1](h)
        evidence[i] = gaussian(model.evidence[i - 1](h))
    z, ratios = {}, []
    for i in range(model.depth, 0, -1):
        p = prior(model, i, z)
        if i > k:
            e = evidence[i]
            if i == model.depth:
                q = e
            else:
                precision = 1 / e.variance + 1 / p.variance
                q = Normal((e.mean / e.variance + p.mean / p.variance) / precision, precision.rsqrt())
            z[i] = q.mean + q.stddev * noise.normal(f"q{i}", (1, 1, *model.latents[i]), CPU)
            ratios.insert(0, q.log_prob(z[i]) - p.log_prob(z[i]))
        elif down == "mode":
            z[i] = p.mean
        else:
            z[i] = p.mean + p.stddev * noise.normal(f"p{i}", (1, 1, *model.latents[i]), CPU)
    return decoded(model, z).log_prob(y.unsqueeze(0)), ratios


def close(a, b):
    torch.testing.assert_close(a.log_px, b.log_px, rtol=1e-5, atol=2e-5)
    for mine, other in zip(a.log_ratios, b.log_ratios, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@torch.no_grad()
def test_bounds_equal_their_definition(depth, skips):
    model, y, index = network(depth, skips)
    assert isinstance(model, Hierarchy)
    ks, samples = [*range(depth, -1, -1)], [3 - k % 2 for k in range(depth + 1)]  # any order, any number of samples
    values = {}
    for down in ("sample", "mode"):
        together = model.bounds(y, ExampleNoise(0, index), ks, samples, "mean", down)
        for k, s, bound in zip(ks, samples, together, strict=True):
            assert bound.log_px.shape == (s, 3) and len(bound.log_ratios) == depth - k
            assert bound.kls.shape == bound.layer_log_ratios.shape == (depth - k, s, 3)
            # nothing is drawn on the way up, and a level alone draws what it draws among others
            (alone,) = model.bounds(y, ExampleNoise(0, index), [k], [s], "sample", down)
            close(bound, alone)
            torch.testing.assert_close(bound.kls, alone.kls)
            for i, j in itertools.product(range(s), range(3)):
                slow = Bound(*definition(model, y[j], ExampleNoise(0, index[j : j + 1], i), k, down))
                ratios = tuple(r[i : i + 1, j : j + 1] for r in bound.log_ratios)
                close(Bound(bound.log_px[i : i + 1, j : j + 1], ratios), slow)
            values[down, k] = bound.elbo[:2]
    for k in range(1, depth + 1):
        assert (values["sample", k] - values["mode", k]).abs().min() > 1e-4


@torch.no_grad()
def test_divergences_are_the_means_of_the_log_ratios():
    model, y, index = network(3)
    n = 4000
    for k, bound in enumerate(model.bounds(y, ExampleNoise(0, index), [0, 1, 2, 3], [n] * 4)):
        assert (bound.kls >= 0).all()
        if k < 3:
            difference = bound.layer_log_ratios - bound.kls  # of mean zero given the layers above
            assert (difference.mean(1).abs() < 4 * difference.std(1) / n**0.5).all(), k
    assert torch.equal(bound.elbo, bound.log_px) and bound.kls.shape == (0, n, 3)


def test_a_merged_gaussian_is_the_product_of_both():
    torch.manual_seed(0)
    a, b = (Normal(torch.randn(4, 1), torch.rand(4, 1) + 0.1) for _ in range(2))
    z = torch.randn(4, 50)
    rest = gaussian_product(a, b).log_prob(z) - a.log_prob(z) - b.log_prob(z)
    torch.testing.assert_close(rest, rest[:, :1].expand(4, 50), rtol=1e-4, atol=1e-4)
    vague = gaussian_product(Normal(torch.full((4, 1), 3.0), torch.full((4, 1), 1e12)), b)
    torch.testing.assert_close((vague.mean, vague.stddev), (b.mean, b.stddev))


class Common:
    """Gives a variable the same noise whether it is drawn from q or from p."""

    def __init__(self, noise):
        self.noise = noise

    def normal(self, site, shape, device):
        return self.noise.normal(site.replace("q", "p"), shape, device)


@torch.no_grad()
def test_with_q_equal_to_p_all_levels_coincide():
    model, y, index = network(4)
    for i, head in enumerate(model.evidence, 1):
        head.layer.g.zero_()  # evidence that no image changes: nothing below the top, at the top the prior
        head.layer.b.copy_(
            torch.tensor([0.0, 0.0 if i == model.depth else 1e9]).repeat_interleave(len(head.layer.b) // 2)
        )
    bounds = model.bounds(y, Common(ExampleNoise(0, index)), range(5), [5] * 5)
    for bound in bounds[1:]:
        torch.testing.assert_close(bound.log_px, bounds[0].log_px, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(bound.elbo, bounds[0].elbo, rtol=1e-4, atol=1e-3)
    assert bounds[0].layer_log_ratios.abs().max() < 1e-4 and bounds[0].kls.abs().max() < 1e-4


def test_the_generative_model_is_that_of_the_hvae():
    torch.manual_seed(0)
    ladder, plain = (make((1, 6, 5), SPECS, Bernoulli("soft")) for make in (LadderVAE, BottomUpVAE))
    shared = {k: v for k, v in plain.state_dict().items() if not k.startswith("posterior")}
    assert set(shared) == {k for k in ladder.state_dict() if not k.startswith(("encoder", "evidence"))}
    ladder.load_state_dict(shared, strict=False)
    noise = ExampleNoise(0, torch.arange(4))
    torch.testing.assert_close(ladder.generate(4, noise), plain.generate(4, noise))
    assert ladder.generate(4, noise).shape == (4, 1, 6, 5)


# --- exact likelihoods ---


def test_merging_is_the_exact_posterior_of_a_linear_gaussian_chain():
    """z_2 -> z_1 -> x with diagonal conditionals: every importance weight is p(x) itself."""
    double = {"dtype": torch.float64}
    a, c, s1 = torch.tensor([1.5, -0.8], **double), torch.tensor([0.4, -0.2], **double), 0.5
    columns, _ = torch.linalg.qr(torch.randn(4, 2, generator=torch.Generator().manual_seed(0), **double))
    weight, b, s = columns * torch.tensor([2.0, 0.7], **double), torch.tensor([0.3, -1.0, 0.5, 2.0], **double), 0.6
    lengths = (weight**2).sum(0)

    class Linear(LadderVAE):
        def _evidence(self, y):
            # what x says of z_1 is a Gaussian around the least squares, and of z_2 the posterior
            found = ((y - b) @ weight / lengths).unsqueeze(0)
            scatter = s1**2 + s**2 / lengths
            variance = 1 / (1 + a**2 / scatter)
            return {
                1: Normal(found, (s**2 / lengths).sqrt().expand_as(found)),
                2: Normal(variance * a / scatter * (found - c), variance.sqrt().expand_as(found)),
            }

        def _priors(self, i, paths, device):
            if i == 2:
                return [Normal(torch.zeros(1, 1, 2, **double), torch.ones(1, 1, 2, **double)) for _ in paths]
            return [Normal(a * z[2] + c, torch.full_like(z[2], s1)) for z in paths]

        def _likelihood(self, paths):
            mean = torch.cat([z[1] for z in paths]) @ weight.T + b
            return torch.distributions.Independent(Normal(mean, s), 1)

    model = Linear((1, 1, 1), [{"latent": 2, "dense": True, "channels": 1}] * 2, Bernoulli())
    covariance = weight @ torch.diag(a**2 + s1**2) @ weight.T + s**2 * torch.eye(4, **double)
    marginal = MultivariateNormal(weight @ c + b, covariance)
    y, index = 3 * torch.randn(20, 4, generator=torch.Generator().manual_seed(1), **double), torch.arange(20)
    exact, n = marginal.log_prob(y), 20_000
    bounds = model.bounds(y, ExampleNoise(0, index), [0, 1, 2], [7, n, n])
    torch.testing.assert_close(bounds[0].log_weights, exact.expand(7, 20), rtol=1e-10, atol=1e-10)
    # above k q is the posterior too, so that the gap is the divergence of p(z_{<=k} | z_{>k}) from it
    gaps = [(exact - bound.elbo.mean(0)).mean().item() for bound in bounds[1:]]
    assert 0.5 < gaps[0] < gaps[1]


@torch.no_grad()
def test_no_bound_exceeds_log_p_and_the_weights_of_every_level_average_to_p():
    torch.manual_seed(4)
    layers = [{"latent": 1, "dense": True, "channels": 2, "blocks": 1}] * 2
    model = LadderVAE((1, 1, 2), layers, Bernoulli("soft"))
    images = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2))).view(4, 1, 1, 2)
    model.initialise(images, RandomNoise())
    for head in model.evidence:  # a q with heavier tails than the posterior, or the weights had no variance
        head.layer.g.mul_(0.5)
        head.layer.b[1] += 2
    # p(x) by midpoints over both variables' standard noise, in float64
    double, e = copy.deepcopy(model).double(), torch.linspace(-6, 6, 241, dtype=torch.float64)
    z2, e1 = (axis.reshape(1, -1, 1) for axis in torch.meshgrid(e, e, indexing="ij"))
    p1 = double.prior[0](z2)
    log_px = decoded(double, {1: p1.mean + p1.stddev * e1, 2: z2})
    mass = (-(z2**2 + e1**2) / 2).flatten().softmax(0)
    exact = torch.stack([(log_px.log_prob(image.expand(len(mass), 1, 1, 2))[0].exp() * mass).sum() for image in images])
    assert exact.sum().item() == pytest.approx(1, abs=1e-5) and exact.min() > 0.01
    n, noise = 40_000, ExampleNoise(0, torch.arange(4))
    # any posteriors will do, and wider ones, again, leave no heavy tails where z_2 comes from the prior
    wide = [[Normal(q.mean, 3 * q.stddev) for q in model.posteriors(images, *own)] for own in ((noise, n), ())]
    below, factorised = (
        model.bound_with_posteriors(images, found, noise, n) for found in ([wide[0][0], None], wide[1])
    )
    for k, bound in enumerate([*model.bounds(images, noise, [0, 1, 2], [n] * 3), below, factorised]):
        weights = bound.log_weights.exp()
        assert ((weights.mean(0) - exact).abs() < 4 * weights.std(0) / n**0.5 + 1e-4).all(), k
        assert (bound.elbo.mean(0) < exact.log() + 4 * bound.elbo.std(0) / n**0.5).all(), k
        assert (exact.log() - bound.elbo.mean(0)).max() > 1e-3 and math.isfinite(bound.elbo.sum()), k


# --- mistakes ---
