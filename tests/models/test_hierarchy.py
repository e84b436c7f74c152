"""The bounds L^{>k} against their definition, written out for one example and one sample."""

import itertools
import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from oodgen.models.density import Bound, Hierarchy
from oodgen.models.gaussian import to_gaussian
from oodgen.models.hierarchy import BottomUpVAE
from oodgen.models.likelihoods import Bernoulli
from oodgen.noise import ExampleNoise, RandomNoise

CPU = torch.device("cpu")
SPECS = [
    {"latent": 2, "channels": 3, "kernel": 3, "blocks": 1, "stride": 2},
    {"latent": 1, "channels": 4, "kernel": 3, "blocks": 2, "stride": 1},
    {"latent": 3, "dense": True, "channels": 3, "kernel": 3, "blocks": 1, "stride": 2},
    {"latent": 2, "dense": True, "channels": 2, "kernel": 3, "blocks": 1, "stride": 1},
]
OPTIONS = list(itertools.product(["mean", "sample"], ["sample", "mode"]))


# --- the definition, one example and one sample at a time ---


def definition(model, y, noise, k, up, down):
    """L^{>k} of one example and one sample, as papers/hierarchical_llr, section 2, tells it step by step."""

    def epsilon(site, like):
        return noise.normal(site, (1, 1, *like.shape[2:]), CPU)

    def posterior(i, z):
        return model.posterior[i - 1](z[i - 1], z[i - 2] if i >= 2 else None)

    top = model.depth
    z = {0: y.view(1, 1, *y.shape)}
    for i in range(1, k + 1):  # only to find the way up to z_{k+1}
        q = posterior(i, z)
        z[i] = q.mean if up == "mean" else q.mean + q.stddev * epsilon(f"q{i}", q.mean)
    log_q = {}
    for i in range(k + 1, top + 1):
        q = posterior(i, z)
        z[i] = q.mean + q.stddev * epsilon(f"q{i}", q.mean)
        log_q[i] = q.log_prob(z[i])
    z = {i: z[i] for i in z if i > k}  # from here on the image and the way up are forgotten
    log_p = {}
    for i in range(top, 0, -1):
        if i == top:
            zeros = torch.zeros(1, 1, *model.latents[top])
            p = Normal(zeros, torch.ones_like(zeros))
        else:
            p = model.prior[i - 1](z[i + 1], z.get(i + 2))
        if i > k:
            log_p[i] = p.log_prob(z[i])
        else:
            z[i] = p.mean if down == "mode" else p.mean + p.stddev * epsilon(f"p{i}", p.mean)
    stage, head = model.decoder
    params = head(stage(z[1][0], z[2][0] if top >= 2 else None)).unsqueeze(0)
    log_px = model.likelihood(params).log_prob(y.unsqueeze(0))
    return log_px, [log_q[i] - log_p[i] for i in range(k + 1, top + 1)]


def network(depth, skips):
    torch.manual_seed(depth)
    model = BottomUpVAE((1, 6, 5), SPECS[:depth], Bernoulli("soft"), skips=skips)
    model.initialise(torch.rand(64, 1, 6, 5), RandomNoise())
    return model, torch.rand(3, 1, 6, 5), torch.tensor([11, 4, 70])


@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@torch.no_grad()
def test_bounds_equal_their_definition(depth, skips):
    model, y, index = network(depth, skips)
    ks, samples = list(range(depth + 1)), [3 - k % 2 for k in range(depth + 1)]  # different numbers of samples
    values = {}
    for up, down in OPTIONS:
        together = model.bounds(y, ExampleNoise(0, index), ks, samples, up, down)
        for k, s, bound in zip(ks, samples, together, strict=True):
            assert bound.log_px.shape == (s, 3) and len(bound.log_ratios) == depth - k
            (alone,) = model.bounds(y, ExampleNoise(0, index), [k], [s], up, down)
            close(bound, alone)
            for i, j in itertools.product(range(s), range(3)):
                log_px, ratios = definition(model, y[j], ExampleNoise(0, index[j : j + 1], i), k, up, down)
                slow = Bound(log_px, tuple(ratios))
                close(
                    Bound(bound.log_px[i : i + 1, j : j + 1], tuple(r[i : i + 1, j : j + 1] for r in bound.log_ratios)),
                    slow,
                )
            values[up, down, k] = bound.elbo[:2]
    # the options are really options: where one has a say, it changes the bound
    for k in range(1, depth):
        assert (values["mean", "sample", k] - values["sample", "sample", k]).abs().min() > 1e-4
    for k in range(1, depth + 1):
        assert (values["mean", "sample", k] - values["mean", "mode", k]).abs().min() > 1e-4


def close(a, b):
    torch.testing.assert_close(a.log_px, b.log_px, rtol=1e-5, atol=1e-5)
    for mine, other in zip(a.log_ratios, b.log_ratios, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=2e-5)


@torch.no_grad()
def test_forward_is_the_elbo_and_levels_may_come_in_any_order():
    model, y, index = network(3, True)
    noise = ExampleNoise(0, index)
    assert isinstance(model, Hierarchy)
    close(model(y, noise, 2), model.bounds(y, noise, [0], [2])[0])
    straight = model.bounds(y, noise, [0, 1, 2, 3], [2, 2, 2, 2])
    for k, bound in zip([3, 1, 0], model.bounds(y, noise, [3, 1, 0], [2, 2, 2]), strict=True):
        close(bound, straight[k])
    torch.testing.assert_close(
        straight[0].elbo, straight[0].log_px - sum(r.sum(tuple(range(2, r.ndim))) for r in straight[0].log_ratios)
    )


@torch.no_grad()
def test_the_full_prior_bound_sees_the_image_through_the_likelihood_alone():
    model, y, index = network(3, True)
    noise = ExampleNoise(0, index)
    other = torch.rand_like(y)
    torch.testing.assert_close(model.reconstruct(y, noise, 3), model.reconstruct(other, noise, 3))
    assert (model.reconstruct(y, noise, 2) - model.reconstruct(other, noise, 2)).abs().max() > 1e-3
    (bound,) = model.bounds(y, noise, [3], [1])
    assert bound.log_ratios == () and torch.equal(bound.elbo, bound.log_px)
    expected = Bernoulli().forward(torch.logit(model.generate(3, noise)).unsqueeze(0)).log_prob(y)
    torch.testing.assert_close(bound.log_px, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_reconstruction_is_the_mean_behind_the_bound():
    model, y, index = network(3, True)
    noise = ExampleNoise(0, index)
    for k, bound in enumerate(model.bounds(y, noise, [0, 1, 2, 3], [1] * 4)):
        logits = torch.logit(model.reconstruct(y, noise, k)).unsqueeze(0)
        torch.testing.assert_close(Bernoulli().forward(logits).log_prob(y), bound.log_px, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_top_ratio_estimates_a_true_kl():
    model, y, index = network(3, True)
    (bound,) = model.bounds(y, ExampleNoise(0, index), [2], [20_000])
    # with means on the way up q(z_3 | .) is one distribution, whose divergence from N(0, 1) is known
    path = [y.unsqueeze(0)]
    for i in (1, 2):
        path.append(model.posterior[i - 1](path[i - 1], path[i - 2] if i >= 2 else None).mean)
    q = model.posterior[2](path[2], path[1])
    exact = kl_divergence(q, Normal(torch.zeros_like(q.loc), torch.ones_like(q.loc)))[0].sum(1)
    error = bound.kls[0].std(0) / 20_000**0.5
    assert (exact > 0).all() and ((bound.kls[0].mean(0) - exact).abs() < 4 * error).all()
    for k in (0, 1):
        (bound,) = model.bounds(y, ExampleNoise(0, index), [k], [2000])
        assert (bound.kls[-1].mean(0) > -4 * bound.kls[-1].std(0) / 2000**0.5).all()


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_means_and_scales_lie_as_noise_does(kind):
    rows = torch.randn(6, 4, 5, 5, dtype=kind).to(memory_format=torch.channels_last)
    for params in (rows, rows.contiguous()):
        q = to_gaussian(params.unflatten(0, (2, 3)), "deviation")
        assert q.loc.is_contiguous() and q.scale.is_contiguous() and q.loc.dtype == torch.float32
        assert torch.equal(q.loc, params.float()[:, :2].unflatten(0, (2, 3)))


@pytest.mark.parametrize("scale", ["variance", "deviation"])
def test_scale_is_one_at_zero_and_means_what_its_name_says(scale):
    torch.manual_seed(0)
    model = BottomUpVAE((1, 6, 5), SPECS[2:3], Bernoulli(), scale=scale)
    q = model.posterior[0]
    with torch.no_grad():
        q.head.layer.g.zero_()
        y = torch.rand(1, 2, 1, 6, 5)
        torch.testing.assert_close(q(y).variance, torch.ones(1, 2, 3), rtol=0, atol=1e-5)
        q.head.layer.b.fill_(3.0)
        expected = math.log2(1 + 2**3.0)
        torch.testing.assert_close(
            getattr(q(y), "variance" if scale == "variance" else "stddev"), torch.full((1, 2, 3), expected)
        )
        torch.testing.assert_close(q(y).mean, torch.full((1, 2, 3), 3.0))
