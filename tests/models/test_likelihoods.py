"""Observation models: what y becomes of stored pixels, and normalisation from network parameters."""

import pytest
import torch

from oodgen.errors import UserError
from oodgen.models.likelihoods import Bernoulli, Categorical, Gaussian, LogisticMixture, QuantisedGaussian
from oodgen.noise import ExampleNoise, RandomNoise

ALL = [
    Bernoulli(), Bernoulli("threshold"), Bernoulli("soft"), Gaussian(), Gaussian(None), QuantisedGaussian(),
    QuantisedGaussian(0.1), LogisticMixture(), LogisticMixture(5, "dequantised"), Categorical(),
]  # fmt: skip
DISCRETE = [Bernoulli("threshold"), QuantisedGaussian(), QuantisedGaussian(0.1), LogisticMixture(4), Categorical()]


def name(likelihood) -> str:
    return type(likelihood).__name__ + str(getattr(likelihood, "pixels", "")) + str(getattr(likelihood, "sigma", ""))


@pytest.fixture
def noise():
    return ExampleNoise(0, torch.arange(6))


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("likelihood", ALL, ids=name)
def test_from_pixels_to_nats(likelihood, colours, noise):
    x = torch.randint(256, (6, colours, 5, 7), dtype=torch.uint8)
    y = likelihood.observe(x, noise)
    assert y.shape == x.shape and y.dtype == torch.float32 and y.min() >= -1 and y.max() <= 1
    params = torch.randn(2, 6, likelihood.parameter_channels(colours), 5, 7)
    for dtype in (torch.float32, torch.bfloat16):
        leaf = params.to(dtype).requires_grad_()
        p = likelihood(leaf)
        log_prob = p.log_prob(y)
        assert log_prob.shape == (2, 6) and log_prob.dtype == torch.float32
        assert p.mean.shape == (2, 6, colours, 5, 7) and p.mean.min() >= 0 and p.mean.max() <= 1
        if likelihood.discrete:
            assert log_prob.max() <= 0
        (gradient,) = torch.autograd.grad(log_prob.sum(), leaf)
        # every parameter channel is used
        assert torch.isfinite(gradient).all() and gradient.float().abs().amax((0, 1, 3, 4)).min() > 0
    assert not Gaussian.discrete


@pytest.mark.parametrize("likelihood", DISCRETE, ids=name)
def test_masses_of_all_grey_levels_sum_to_one(likelihood):
    levels = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1)
    y = likelihood.observe(levels, RandomNoise())
    y = y[[0, 255]] if isinstance(likelihood, Bernoulli) else y
    params = torch.randn(1, 1, likelihood.parameter_channels(1), 1, 1, generator=torch.Generator().manual_seed(0))
    mass = likelihood(params.expand(1, len(y), -1, 1, 1)).log_prob(y).exp()
    assert mass.sum().item() == pytest.approx(1, abs=1e-4)


def test_dynamic_binarisation_has_the_pixel_as_mean_and_depends_on_the_noise_alone():
    x = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(4000, 1, 16, 16)
    likelihood, index = Bernoulli("dynamic"), torch.arange(4000)
    y = likelihood.observe(x, ExampleNoise(0, index))
    assert set(y.unique().tolist()) == {0.0, 1.0}
    p = x[0] / 255
    # five standard errors for each of 256 levels; 0 and 255 are never wrong
    assert ((y.mean(0) - p).abs() <= 5 * (p * (1 - p) / 4000).sqrt()).all()
    assert torch.equal(y, likelihood.observe(x, ExampleNoise(0, index)))
    assert torch.equal(y[7:9], likelihood.observe(x[7:9], ExampleNoise(0, index[7:9])))
    assert not torch.equal(y, likelihood.observe(x, ExampleNoise(1, index)))


def test_exact_observations():
    x = torch.tensor([0, 127, 128, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    noise = RandomNoise()
    assert Bernoulli("threshold").observe(x, noise).flatten().tolist() == [0, 0, 1, 1]
    for likelihood in (Bernoulli("soft"), Gaussian(), QuantisedGaussian(), Categorical()):
        torch.testing.assert_close(likelihood.observe(x, noise).flatten() * 255, torch.tensor([0.0, 127, 128, 255]))
    y = LogisticMixture().observe(x, noise).flatten()
    torch.testing.assert_close((y + 1) * 127.5, torch.tensor([0.0, 127, 128, 255]), atol=1e-4, rtol=0)


def test_dequantised_pixels_stay_in_their_256th():
    x = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    y = LogisticMixture(pixels="dequantised").observe(x, ExampleNoise(3, torch.tensor([0])))
    assert torch.equal(((y + 1) * 128).floor(), x.float())
    assert ((y + 1) * 128 - x).mean().item() == pytest.approx(0.5, abs=0.1)


def test_learned_sigma_starts_at_one_and_stays_above_its_floor():
    raw = torch.tensor([0.0, -1000.0]).view(1, 2, 1, 1, 1)
    p = Gaussian(None)(torch.cat([torch.zeros_like(raw), raw], 2))
    sigma = p.base_dist.scale.flatten().tolist()
    assert sigma == pytest.approx([1 + 1 / 2550, 1 / 2550])


def test_parameter_counts_of_the_papers():
    assert LogisticMixture(10).parameter_channels(3) == 100 and LogisticMixture(10).parameter_channels(1) == 30
    assert (
        Categorical().parameter_channels(3) == 768
        and Gaussian().parameter_channels(3) == 3
        and Gaussian(None).parameter_channels(3) == 6
    )


@pytest.mark.parametrize(("make", "words"), [
    (lambda: Bernoulli("binary"), "dynamic, threshold, soft"),
    (lambda: LogisticMixture(pixels="soft"), "exact, dequantised"),
    (lambda: Gaussian(0.0), "tenth of a grey level"),
    (lambda: QuantisedGaussian(1e-5), "tenth of a grey level"),
])  # fmt: skip
def test_mistakes_are_named(make, words):
    with pytest.raises(UserError, match=words) as error:
        make()
    assert "\n" not in str(error.value)
