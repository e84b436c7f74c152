"""Regret and L^{<l}: against closed forms and the slow definition, example by example."""

import pytest
import torch
from torch.distributions import Normal

from oodgen.models.biva import BIVA
from oodgen.models.density import HierarchyWithPosteriors
from oodgen.models.hierarchy import BottomUpVAE
from oodgen.models.ladder import LadderVAE
from oodgen.models.likelihoods import Bernoulli
from oodgen.models.vae import VAE
from oodgen.noise import ExampleNoise, RandomNoise
from oodgen.probes.below import Below
from oodgen.probes.probe import probe_grad_mode
from oodgen.probes.regret import Regret
from oodgen.scores import likelihood, ratio

INDEX = torch.tensor([5, 2, 40])
HIERARCHIES = [BottomUpVAE, LadderVAE, BIVA]


def network(hierarchy):
    torch.manual_seed(0)
    layers = [
        {"latent": 2, "channels": 3, "kernel": 3, "blocks": 1, "stride": 2},
        {"latent": 3, "dense": True, "channels": 3, "kernel": 3, "blocks": 1, "stride": 2},
        {"latent": 2, "dense": True, "channels": 2, "kernel": 3, "blocks": 1, "stride": 1},
    ]
    model = hierarchy((1, 6, 5), layers, Bernoulli("threshold"))
    model.initialise(torch.rand(64, 1, 6, 5), RandomNoise())
    return model.eval()


@pytest.fixture(scope="module")
def x():
    return torch.randint(256, (3, 1, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def ask(probe, model, x, index=INDEX):
    with probe_grad_mode(probe, model):
        return probe(model, x, ExampleNoise(0, index))


@pytest.mark.parametrize("kind", [*HIERARCHIES, VAE])
def test_regret_is_not_negative_and_batched_equals_one_by_one(x, kind):
    if kind is VAE:
        torch.manual_seed(0)
        model, x = VAE((1, 8, 8), 2, [3], [2], 4, Bernoulli("soft")).eval(), torch.randint(256, (3, 1, 8, 8)).byte()
    else:
        model = network(kind)
    weights = [value.clone() for value in model.parameters()]
    probe = Regret(steps=20, lr=0.05, samples=4, samples_bound=64)
    found = ask(probe, model, x)
    assert (found["regret"] > 0).all()
    torch.testing.assert_close(found["regret"], found["after"] - found["before"], rtol=1e-4, atol=1e-4)
    for i in range(3):
        alone = ask(probe, model, x[[i]], INDEX[[i]])
        for name, value in alone.items():
            torch.testing.assert_close(value, found[name][[i]], rtol=1e-3, atol=1e-3)
    # the model stays as it was
    assert all(map(torch.equal, weights, model.parameters())) and all(p.grad is None for p in model.parameters())


class Linear(torch.nn.Module):
    """p(x | z) = N(z, 1), p(z) = N(0, 1), for which log p(x) = N(x; 0, 2); q starts at N(3, 0.3^2)."""

    depth = 1

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(()))

    def observe(self, x, noise):
        return x.float()

    def posteriors(self, y, noise=None, samples=1):
        return [Normal(torch.full((1, *y.shape), 3.0), torch.full((1, *y.shape), 0.3))]

    def bound_with_posteriors(self, y, posteriors, noise, samples=1):
        (q,) = posteriors
        z = q.mean + q.stddev * noise.normal("q1", (samples, *y.shape), y.device)
        log_px = Normal(z * self.w, 1.0).log_prob(y).sum(2)
        elbo = log_px - torch.distributions.kl_divergence(q, Normal(0.0, 1.0)).sum(2)
        return type("Bound", (), {"elbo": elbo})


def test_regret_of_a_conjugate_model_is_the_gap_to_log_p():
    x = torch.tensor([[0.5], [-1.0], [2.0]])
    found = ask(Regret(steps=400, lr=0.05, samples=8, samples_bound=4000), Linear(), x)
    exact = Normal(0.0, 2**0.5).log_prob(x).sum(1)
    torch.testing.assert_close(found["after"], exact, rtol=0, atol=0.05)
    q, posterior = Normal(3.0, 0.3), Normal(x[:, 0] / 2, 0.5**0.5)
    torch.testing.assert_close(found["regret"], torch.distributions.kl_divergence(q, posterior), rtol=0.02, atol=0.05)


@torch.inference_mode()
def test_below_by_brute_force(x):
    model, s, noise = network(BottomUpVAE), 5, ExampleNoise(0, INDEX)
    y = model.observe(x, noise)
    expected = []
    for l in (2, 3):  # noqa: E741
        values = []
        for draw in range(s):
            n = ExampleNoise(0, INDEX, draw)
            up, log_q = [y.unsqueeze(0)], []
            for i in range(1, l):
                q = model.posterior[i - 1](up[-1], up[-2] if i >= 2 else None)
                up.append(q.mean + q.stddev * n.normal(f"q{i}", tuple(q.mean.shape), y.device))
                log_q.append(q.log_prob(up[-1]).flatten(2).sum(2))
            z, log_p = {i: value for i, value in enumerate(up) if i}, []
            for i in (3, 2, 1):
                shape = (1, 3, *model.latents[i])
                p = Normal(torch.zeros(shape), 1.0) if i == 3 else model.prior[i - 1](z[i + 1], z.get(i + 2))
                if i >= l:
                    z[i] = p.mean + p.stddev * n.normal(f"p{i}", shape, y.device)
                else:
                    log_p.append(p.log_prob(z[i]).flatten(2).sum(2))
            stage, head = model.decoder
            logits = head(stage(z[1][0], z[2][0]))
            log_px = -torch.nn.functional.binary_cross_entropy_with_logits(logits, y, reduction="none").sum((1, 2, 3))
            values.append(log_px + sum(log_p)[0] - sum(log_q)[0])
        expected.append(torch.stack(values).mean(0))
    found = ask(Below(samples=s), model, x)["l"]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=1e-4)
    # any budget gives the same
    for budget in (1, 7, 1000):
        torch.testing.assert_close(ask(Below(samples=s, budget=budget), model, x)["l"], found, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("hierarchy", HIERARCHIES)
@torch.inference_mode()
def test_posteriors_explain_the_elbo_and_no_posterior_the_prior(hierarchy, x):
    model, noise = network(hierarchy), ExampleNoise(0, INDEX)
    assert isinstance(model, HierarchyWithPosteriors)
    y = model.observe(x, noise)
    elbo, prior = model.bounds(y, noise, [0, 3], [4, 4])
    for bound, posteriors in ((elbo, model.posteriors(y, noise, 4)), (prior, [None] * 3)):
        explained = model.bound_with_posteriors(y, posteriors, noise, 4)
        for measure in ("log_px", "layer_log_ratios", "elbo", "log_weights"):
            mine, theirs = getattr(explained, measure), getattr(bound, measure)
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    # without noise a posterior is that of the means of the layers before, the same for all samples
    means = model.posteriors(y)
    assert [tuple(q.mean.shape) for q in means] == [(1, 3, *shape) for shape in model.latents[1:]]
    alone = model.posteriors(y[1:2])
    for q, one in zip(means, alone, strict=True):
        torch.testing.assert_close((q.mean[:, 1:2], q.stddev[:, 1:2]), (one.mean, one.stddev), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="2 posteriors do not fit"):
        model.bound_with_posteriors(y, [None] * 2, noise)


def test_scores_of_the_levels_below():
    g = torch.Generator().manual_seed(0)
    e = {"bounds/l": torch.randn(3, 9, generator=g), "below/l": torch.randn(2, 9, generator=g)}
    assert torch.equal(likelihood.below(e, 2), -e["below/l"][0])
    assert torch.equal(ratio.llr_between(e, 2, 3), e["below/l"][1] - e["bounds/l"][2])
    for k, layer in ((0, 2), (3, 2), (1, 1), (1, 4)):
        with pytest.raises(IndexError):
            ratio.llr_between(e, k, layer)
