r"""The informative loss: a lower bound on log p(x), made of the levels of `bounds`, its weights, and its gradients."""

import itertools
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from oodgen.data.resident import Batch
from oodgen.errors import UserError
from oodgen.methods.informative import Informative
from oodgen.methods.likelihood import FreeBits, MaximumLikelihood
from oodgen.models.density import HierarchyWithPosteriors
from oodgen.models.glow import Glow
from oodgen.models.hierarchy import BottomUpVAE
from oodgen.models.likelihoods import Bernoulli
from oodgen.noise import ExampleNoise, RandomNoise

sgd = partial(torch.optim.SGD, lr=0.1)
LAYERS = [
    {"latent": 2, "channels": 3, "kernel": 3, "blocks": 1, "stride": 2},
    {"latent": 3, "dense": True, "channels": 3, "kernel": 3, "blocks": 1, "stride": 2},
    {"latent": 2, "dense": True, "channels": 2, "kernel": 3, "blocks": 1, "stride": 1},
]


def make(skips=False, layers=LAYERS, seed=0):
    torch.manual_seed(seed)
    model = BottomUpVAE((1, 6, 5), layers, Bernoulli("threshold"), skips)
    model.initialise(torch.rand(64, 1, 6, 5), RandomNoise())
    return model


def method(model, **options):
    found = Informative(model, sgd, **options)
    found._trainer = SimpleNamespace(num_training_batches=10)
    return found


def batch(n=4, step=100):
    x = torch.randint(256, (n, 1, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(x, torch.arange(n), step)


@pytest.mark.parametrize(
    ("weights", "numbers"),
    [("mean", [1 / 3] * 3), ("sum", [1.0] * 3), (0.1, [1.0, 0.1, 0.1]), ([1.0, 0.5, 0.0], [1.0, 0.5, 0.0])],
)
def test_loss_is_made_of_the_levels_one_by_one(weights, numbers):
    model, noise = make(), ExampleNoise(0, torch.arange(4))
    x = batch()
    loss, terms = method(model, weights=weights, samples=2).loss(x, noise)
    y = model.observe(x.x, noise)
    levels = [model.bounds(y, noise, [k], [2], up="sample")[0] for k in range(3)]
    gain = sum(w * level.log_px.mean() for w, level in zip(numbers, levels, strict=True))
    torch.testing.assert_close(loss, levels[0].kls.sum(0).mean() - gain, rtol=1e-5, atol=1e-4)
    # what is watched is the ELBO, as of every method
    torch.testing.assert_close(terms["bound"], levels[0].elbo.mean(), rtol=1e-5, atol=1e-4)
    assert {"log_px", "log_px_1", "log_px_2", "kl_1", "kl_2", "kl_3"} < set(terms)


def test_warm_up_and_free_bits_are_those_of_maximum_likelihood():
    model, noise, x = make(), ExampleNoise(0, torch.arange(4)), batch(step=3)
    options = {"warmup": 1.0, "free_bits": FreeBits(50.0, hold=9)}
    plain = MaximumLikelihood(model, sgd, **options)
    plain._trainer = SimpleNamespace(num_training_batches=10)
    for only in (0, [1.0, 0.0, 0.0]):
        same = method(model, weights=only, **options)
        torch.testing.assert_close(same.loss(x, noise)[0], plain.loss(x, noise)[0])


def test_every_level_decodes_the_codes_whose_kl_is_paid(monkeypatch):
    model, seen = make(), []
    bounds = model.bounds
    monkeypatch.setattr(model, "bounds", lambda *a, **o: seen.append((a[2], o)) or bounds(*a, **o))
    method(model).loss(batch(), RandomNoise())
    assert seen == [(range(3), {"up": "sample"})]  # once, for all levels


class Walk(nn.Module):
    """A Gaussian conditional of one-dimensional latents, far from any optimum."""

    def __init__(self, gain, shift, scale):
        super().__init__()
        self.gain, self.shift, self.scale = gain, shift, scale

    def forward(self, z, beyond=None):
        mean = self.gain * torch.tanh(z.double().flatten(2).sum(2, keepdim=True)) + self.shift
        return torch.distributions.Normal(mean, torch.full_like(mean, self.scale), validate_args=False)


class Pixels(nn.Module):
    """One pixel's logit from z_1."""

    def forward(self, z, beyond=None):
        return (3 * z.double() - 0.5).reshape(*z.shape[:2], 1, 1, 1)


@pytest.mark.parametrize("seed", range(2))
def test_never_above_log_p_by_quadrature(seed):
    # one binary pixel and two layers of one number each: log p(x) by an integral over a grid
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(6, generator=g).tolist()
    model = BottomUpVAE((1, 1, 1), [{"latent": 1, "dense": True, "channels": 1, "blocks": 1}] * 2, Bernoulli())
    model.posterior = nn.ModuleList([Walk(a[0], a[1], 0.6), Walk(a[2], a[3], 0.8)])
    model.prior = nn.ModuleList([Walk(a[4], a[5], 0.5)])
    model.decoder = nn.ModuleList([Pixels(), nn.Identity()])
    model.latents = [None, (1,), (1,)]
    grid = torch.linspace(-8, 8, 401, dtype=torch.float64)
    z2, z1 = grid.view(1, -1, 1), grid.view(-1, 1)
    step = (grid[1] - grid[0]).item()
    p2 = torch.distributions.Normal(0.0, 1.0).log_prob(grid)
    p1 = model.prior[0](z2)
    for value in (0, 255):
        y = torch.tensor(value / 255).view(1, 1, 1, 1)
        p_x = torch.distributions.Bernoulli(logits=3 * grid - 0.5).log_prob(y.double().squeeze())
        z1_given = torch.distributions.Normal(p1.mean[0, :, 0], p1.stddev[0, :, 0]).log_prob(z1)  # (z1, z2)
        exact = torch.logsumexp(p_x.unsqueeze(1) + z1_given + p2, (0, 1)).item() + 2 * torch.tensor(step).log().item()
        n = 4000
        x = torch.full((n, 1, 1, 1), value, dtype=torch.uint8)
        loss, terms = method(model, weights="mean").loss(Batch(x, torch.arange(n), 0), ExampleNoise(0, torch.arange(n)))
        error = 3 / n**0.5
        assert -loss.item() < exact + error
        # and each of the levels it is the mean of
        assert terms["log_px_1"].item() - terms["kl_2"].item() < exact + error
    assert isinstance(model, HierarchyWithPosteriors)


def test_every_parameter_gets_a_gradient_from_the_top_reconstruction_too():
    model = make()
    loss, terms = method(model).loss(batch(), RandomNoise())
    loss.backward()
    for name, value in model.named_parameters():
        assert value.grad is not None and value.grad.abs().max() > 0, name
    top = torch.autograd.grad(
        method(model).loss(batch(), RandomNoise())[1]["log_px_2"], list(model.prior[1].parameters())
    )
    assert any(grad.any() for grad in top)
    assert terms["log_px_2"].isfinite()


def test_wrong_weights_and_models_are_one_line():
    for weights in ([1.0, 1.0], [0.0, 1.0, 1.0]):
        with pytest.raises(UserError, match=r"method.weights=") as error:
            method(make(), weights=weights)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"needs a model of type Hierarchy, which Glow is not.*model=hvae_tiny"):
        method(Glow((1, 4, 4), 1, 1, 4))


def test_levels_that_share_their_way_up_see_the_same_samples():
    model, y = make(), torch.rand(3, 1, 6, 5)
    noise = ExampleNoise(0, torch.arange(3))
    together = model.bounds(y, noise, range(4), [2, 3, 2, 1], up="sample")
    for (k, s), bound in zip(itertools.zip_longest(range(4), [2, 3, 2, 1]), together, strict=True):
        alone = model.bounds(y, noise, [k], [s], up="sample")[0]
        torch.testing.assert_close(bound.elbo, alone.elbo, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("skips", [False, True])
def test_levels_that_share_their_codes_ask_each_prior_once(skips):
    model, rows = make(skips, [LAYERS[0], *[{**LAYERS[1], "stride": 1}] * 3]), {}
    for i, prior in enumerate(model.prior, 1):
        prior.register_forward_hook(lambda _, z, p, i=i: rows.setdefault(i, []).append(len(z[0])))
    model.bounds(torch.rand(3, 1, 6, 5), RandomNoise(), range(4), [2] * 4, up="sample")
    # p(z_i | .): one for the levels k <= i, whose z_{>i} is that of the ELBO, and one for each above
    assert rows == {i: [2 * (1 + 3 - i)] for i in (1, 2, 3)}


def test_levels_of_as_many_samples_decode_the_very_samples_of_the_elbo():
    model, y = make(), torch.rand(3, 1, 6, 5)
    # noise that never repeats: only a shared way gives all levels one z_3, and the same ratio of it
    bounds = model.bounds(y, RandomNoise(), range(3), [2] * 3, up="sample")
    for bound in bounds[1:]:
        assert torch.equal(bound.log_ratios[-1], bounds[0].log_ratios[-1])
