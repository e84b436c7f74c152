"""Path statistics against the definition, written down slowly in numpy, one example at a time."""

import math

import numpy as np
import pytest
import torch

from oodgen.models.biva import BIVA
from oodgen.models.dense_vae import DenseVAE
from oodgen.models.ensemble import Ensemble
from oodgen.models.glow import Glow
from oodgen.models.hierarchy import BottomUpVAE
from oodgen.models.ladder import LadderVAE
from oodgen.models.likelihoods import Bernoulli, GaussianRows
from oodgen.models.vae import VAE
from oodgen.noise import ExampleNoise, RandomNoise
from oodgen.probes.members import Members
from oodgen.probes.path import Path, local_residuals

INDEX = torch.tensor([5, 2, 40])
LAYERS = [
    {"latent": 2, "channels": 3, "kernel": 3, "blocks": 1, "stride": 2},
    {"latent": 3, "dense": True, "channels": 3, "kernel": 3, "blocks": 1, "stride": 2},
    {"latent": 2, "dense": True, "channels": 2, "kernel": 3, "blocks": 1, "stride": 1},
]


def network(kind):
    torch.manual_seed(0)
    if kind is VAE:
        return VAE((1, 6, 5), 3, [4], [1], 3, Bernoulli()).eval()
    model = kind((1, 6, 5), LAYERS, Bernoulli())
    model.initialise(torch.rand(64, 1, 6, 5), RandomNoise())
    return model.eval()


@pytest.fixture(scope="module")
def x():
    return torch.randint(256, (3, 1, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def ask(model, x, index=INDEX, probe=None):
    return (probe or Path())(model, x, ExampleNoise(3, index))


def by_hand(r, q):
    """The statistics of the residuals [k] of one image, and its posteriors (mean, deviation), in float64."""
    found = {name: [(np.abs(a) ** p).sum() ** (1 / p) for a in r] for name, p in (("l2", 2), ("l8", 8), ("l05", 0.5))}
    found["tv"] = [np.abs(a[:, 1:] - a[:, :-1]).sum() + np.abs(a[:, :, 1:] - a[:, :, :-1]).sum() for a in r]
    found["mean"] = [math.sqrt(sum(v * v for v in mean.flat)) for mean, _ in q]
    found["scale"] = [math.sqrt(sum(v * v for v in s.flat)) for _, s in q]
    found["log_scale"] = [sum(map(math.log, s.flat)) for _, s in q]
    found["local"] = [sorted(np.abs(r[0]).mean(0).flat)[math.ceil(p * r[0][0].size) - 1] for p in (0.9, 0.99, 1)]
    return found


def test_hierarchy_by_hand(x):
    model, found = network(BottomUpVAE), ask(network(BottomUpVAE), x)
    for n in range(3):
        y = model.observe(x[[n]], ExampleNoise(3, INDEX[[n]]))
        with torch.no_grad():
            q = [model.posterior[0](y[None])]
            q.append(model.posterior[1](q[0].mean, y[None]))
            q.append(model.posterior[2](q[1].mean, q[0].mean))
            residuals, z = [], [None, *(one.mean for one in q)]
            for k in range(3):
                low = dict(enumerate(z))
                for i in range(k, 0, -1):
                    low[i] = model.prior[i - 1](low[i + 1], low.get(i + 2)).mean
                stage, head = model.decoder
                image = head(stage(low[1][0], low[2][0])).sigmoid()
                residuals.append(x[n].double().numpy() / 255 - image[0].double().numpy())
        expected = by_hand(residuals, [(one.mean.double().numpy(), one.stddev.double().numpy()) for one in q])
        assert set(found) == set(expected)
        for name, values in expected.items():
            np.testing.assert_allclose(found[name][:, n], values, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("kind", [LadderVAE, BIVA, VAE])
def test_an_example_does_not_depend_on_the_others(kind, x):
    model = network(kind)
    found, depth = ask(model, x), model.depth
    assert {name: len(value) for name, value in found.items()} == dict.fromkeys(found, depth) | {"local": 3}
    for n in range(3):
        for name, value in ask(model, x[[n]], INDEX[[n]]).items():
            torch.testing.assert_close(value[:, 0], found[name][:, n], rtol=1e-4, atol=1e-4)
    members = ask(Ensemble([model, network(kind)]).eval(), x, probe=Members(Path()))
    assert members["l2"].shape == (2, depth, 3)


def test_local_residuals_find_a_spot():
    residual = torch.zeros(2, 3, 30, 41)
    residual[0, 1, 10:12, 20] = -0.9
    # in one of three colours; of 28 x 39 windows of 9 pixels, six hold both pixels of the spot and six hold one
    expected = torch.tensor([[0.0, 0.0], [0.1 / 3, 0.0], [0.2 / 3, 0.0]])
    torch.testing.assert_close(local_residuals(residual), expected)


def test_rows_have_norms_and_no_neighbours():
    torch.manual_seed(0)
    model, x = DenseVAE((4,), 2, 3, 3, GaussianRows()).eval(), 100 * torch.randn(3, 4)
    found = ask(model, x)
    assert set(found) == {"l2", "l8", "l05", "mean", "scale", "log_scale"}
    with torch.no_grad():
        residual = x - model.decoder(model.encoder(x).mean[None]).mean[0]
    torch.testing.assert_close(found["l8"][0], residual.double().abs().pow(8).sum(1).pow(1 / 8).float())


def test_a_flow_has_no_path():
    assert not isinstance(Glow((1, 8, 8), 1, 1, 4), Path.needs)
