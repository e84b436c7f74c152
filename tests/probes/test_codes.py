"""Codes and their statistics against slow definitions: quadrature, sums over frequencies, Gaussians by hand."""

import cmath
import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from oodgen.errors import UserError
from oodgen.models.biva import BIVA
from oodgen.models.density import Coded
from oodgen.models.ensemble import Ensemble
from oodgen.models.glow import Glow
from oodgen.models.hierarchy import BottomUpVAE
from oodgen.models.ladder import LadderVAE
from oodgen.models.likelihoods import Bernoulli
from oodgen.models.priors import Mixture
from oodgen.models.vae import VAE, Isotropic
from oodgen.noise import ExampleNoise, RandomNoise
from oodgen.probes.codes import CodeNormality, anderson_darling
from oodgen.probes.members import Members

INDEX = torch.tensor([5, 2, 40])
LAYERS = [
    {"latent": 3, "channels": 3, "stride": 2, "blocks": 1},
    {"latent": 5, "dense": True, "stride": 2, "blocks": 1},
]


def network(kind):
    torch.manual_seed(0)
    if kind is VAE:
        return VAE((1, 8, 8), 4, [4], [2], 4, Bernoulli("soft"), prior=Isotropic(0.5, 2.0)).eval()
    model = Glow((1, 8, 8), 1, 2, 4) if kind is Glow else kind((1, 8, 8), LAYERS, Bernoulli("threshold"))
    model.initialise(model.observe(torch.randint(256, (64, 1, 8, 8)), RandomNoise()), RandomNoise())
    return model.eval()


@pytest.fixture(scope="module")
def x():
    return torch.randint(256, (3, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def ask(model, x, index=INDEX, probe=None):
    return (probe or CodeNormality())(model, x, ExampleNoise(3, index))


def test_anderson_darling_is_the_weighted_distance_of_distributions():
    """n times the integral of (F_n - Phi)^2 / (Phi (1 - Phi)) dPhi, by quadrature."""
    values = np.array([-2.3, -0.4, 0.1, 0.15, 1.9, 3.0])
    u = (np.arange(200_000) + 0.5) / 200_000
    share = np.searchsorted(values, norm.ppf(u)) / 6
    expected = 6 * np.mean((share - u) ** 2 / (u * (1 - u)))
    mixed = torch.tensor(values)[torch.tensor([3, 0, 5, 1, 4, 2])]
    torch.testing.assert_close(
        anderson_darling(torch.stack([mixed, mixed.flip(0)])), torch.full((2,), expected).double(), rtol=1e-4, atol=0
    )
    # its mean under the prior is 1, and far codes are finite
    draws = torch.randn(5_000, 7, generator=torch.Generator().manual_seed(0)).double()
    assert abs(anderson_darling(draws).mean() - 1) < 0.05
    assert anderson_darling(torch.full((1, 3), -1e4).double()).isfinite()


@pytest.mark.parametrize("kind", [BottomUpVAE, LadderVAE, BIVA, VAE, Glow])
def test_statistics_of_each_layer_alone_and_in_a_batch(kind, x):
    model, found = network(kind), ask(network(kind), x)
    for n in range(3):
        alone = ask(model, x[[n]], INDEX[[n]])
        with torch.no_grad():
            codes = model.codes(model.observe(x[[n]], ExampleNoise(3, INDEX[[n]])))
        assert found["a2"].shape == (len(codes), 3)
        for layer, code in enumerate(code.double().flatten().tolist() for code in codes):
            d, ordered = len(code), sorted(code)
            a2 = -d - sum((2 * i + 1) * (norm.logcdf(ordered[i]) + norm.logsf(ordered[-1 - i])) for i in range(d)) / d
            waves = [
                sum(c * cmath.exp(-2j * math.pi * f * t / d) for t, c in enumerate(code)) for f in range(d // 2 + 1)
            ]
            power = np.array([abs(wave) ** 2 / d for wave in waves])
            expected = {"a2": a2, "power": power.mean(), "power_deviation": power.std()}
            for name, value in expected.items():
                np.testing.assert_allclose(alone[name][layer, 0], value, rtol=1e-4, atol=1e-5)
                np.testing.assert_allclose(found[name][layer, n], value, rtol=1e-3, atol=1e-3)


@torch.inference_mode()
def test_codes_of_hierarchies_by_hand(x):
    noise = ExampleNoise(3, INDEX)
    for kind in (BottomUpVAE, LadderVAE):
        model = network(kind)
        y = model.observe(x, noise)
        low, top = (q.mean for q in model.posteriors(y))
        p = model.prior[0](top)
        torch.testing.assert_close(model.codes(y), [((low - p.mean) / p.stddev)[0], top[0]], rtol=1e-4, atol=1e-5)
    model = network(BIVA)
    y = model.observe(x, noise)
    low, top = (q.mean for q in model.posteriors(y))
    mean, raw = model.prior[0](model.decoder[1](top[0])).chunk(2, 1)
    scale = torch.nn.functional.softplus(raw, beta=math.log(2)).sqrt()
    torch.testing.assert_close(model.codes(y), [(low[0] - mean) / scale, top[0]], rtol=1e-4, atol=1e-5)
    model = network(VAE)
    (code,) = model.codes(model.observe(x, noise))
    torch.testing.assert_close(code, (model.encoder(x / 255).mean - 0.5) / 2)


def test_members_and_models_without_such_codes(x):
    assert ask(Ensemble([network(Glow), network(Glow)]).eval(), x, probe=Members(CodeNormality()))["a2"].shape == (
        2,
        2,
        3,
    )
    assert not isinstance(Ensemble([network(VAE)] * 2), Coded)
    model = VAE((1, 8, 8), 4, [4], [2], 4, Bernoulli("soft"), prior=Mixture(4, 2))
    with pytest.raises(UserError, match="no standard form under a Mixture prior"):
        model.codes(torch.zeros(1, 1, 8, 8))
