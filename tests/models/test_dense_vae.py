"""The VAE of rows: what it says against formulas, its gradients, and the layers of its config."""

import math

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn

from oodgen.errors import UserError
from oodgen.models.dense_vae import DenseVAE
from oodgen.models.density import Hierarchy
from oodgen.models.likelihoods import GaussianRows
from oodgen.noise import ExampleNoise, RandomNoise
from oodgen.probes.bounds import Bounds
from oodgen.runs.locations import config_dir

INDEX = torch.tensor([5, 2, 40, 7])


def tiny(sigma=None, **options):
    torch.manual_seed(0)
    options = {"shape": (5,), "latent": 2, "encoder": 7, "decoder": 6} | options
    return DenseVAE(**options, likelihood=GaussianRows(sigma))


def rows(count=4, columns=5):
    return torch.randn(count, columns, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("sigma", [None, 0.3])
def test_bounds_are_the_slow_definition(sigma):
    model, noise = tiny(sigma), ExampleNoise(3, INDEX)
    assert isinstance(model, Hierarchy)
    x = rows()
    y = model.observe(x, noise)
    assert torch.equal(y, x), "rows are explained as they are"
    bounds = model.bounds(y, noise, (0, 1), (3, 2))
    q = model.encoder(y)
    for k, bound in enumerate(bounds):
        for s in range(bound.log_px.shape[0]):
            eps = ExampleNoise(3, INDEX, s).normal("pq"[1 - k] + "1", (1, 4, 2), y.device)
            z = q.mean + q.stddev * eps if k == 0 else eps
            out = model.decoder.features(z[0])
            mean = out[:, :5]
            deviation = 1e-3 + (1 + 2 ** out[:, 5:]).log2() if sigma is None else torch.tensor(sigma)
            terms = -(((y - mean) / deviation) ** 2) / 2 - deviation.log() - math.log(2 * math.pi) / 2
            log_px = terms.expand(4, 5).sum(1)
            torch.testing.assert_close(bound.log_px[s], log_px, rtol=1e-5, atol=1e-4)
            kl = (q.mean**2 + q.stddev**2 - 1) / 2 - q.stddev.log()
            torch.testing.assert_close(bound.elbo[s], log_px - (kl.sum(1) if k == 0 else 0), rtol=1e-5, atol=1e-4)


def test_a_linear_model_with_the_exact_posterior_has_the_exact_likelihood():
    """Identity and a fixed sigma make it probabilistic PCA, whose bound is tight at the true posterior."""
    model, sigma = tiny(0.5, activation="Identity", latent=1), 0.5
    first, _, second = model.decoder.features
    with torch.no_grad():
        w = (second.weight @ first.weight).double()  # (5, 1)
        b = (second.weight @ first.bias + second.bias).double()
        variance = 1 / (1 + (w.T @ w) / sigma**2)
        gain = (variance / sigma**2) @ w.T
        # the encoder that computes it, through its own linear hidden layer
        model.encoder.features[0].weight.zero_()[0] = gain[0].float()
        model.encoder.features[0].bias.zero_()[0] = -(gain @ b).float()
        model.encoder.head.weight.zero_()[0, 0] = 1
        model.encoder.head.bias.copy_(torch.tensor([0, variance.log()]))
        x = rows()
        bound = model(model.observe(x, RandomNoise()), RandomNoise(), 3)
    exact = torch.distributions.MultivariateNormal(b, w @ w.T + sigma**2 * torch.eye(5, dtype=torch.double))
    torch.testing.assert_close(
        bound.log_weights.double(), exact.log_prob(x.double()).expand(3, 4), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("activation", ["LeakyReLU", "ReLU", "Identity"])
@pytest.mark.parametrize("sigma", [None, 0.3])
def test_every_parameter_gets_a_gradient(sigma, activation):
    model = tiny(sigma, activation=activation)
    model(model.observe(rows(50), RandomNoise()), RandomNoise(), 2).elbo.mean().backward()
    for name, value in model.named_parameters():
        assert value.grad is not None and value.grad.isfinite().all() and value.grad.abs().max() > 0, name


def test_activation_identity_is_linear():
    z = torch.randn(1, 9, 2)
    for activation, linear in (("Identity", True), ("LeakyReLU", False)):
        f = tiny(activation=activation).decoder.features
        middle = f((z + z.flip(1)) / 2)
        assert torch.allclose(middle, (f(z) + f(z.flip(1))) / 2, atol=1e-5) == linear


@torch.inference_mode()
def test_neither_batch_nor_chunk_changes_evidence():
    model, x = tiny(), rows()

    def ask(x, index, budget):
        return Bounds(samples=7, prior=True, budget=budget)(model, x, ExampleNoise(0, index))

    whole = ask(x, INDEX, 10_000)
    assert (whole["iw"] >= whole["l"][0]).all()
    for budget in (1, 12):
        for name, value in ask(x, INDEX, budget).items():
            torch.testing.assert_close(value, whole[name], rtol=1e-5, atol=1e-4)
    for i in range(4):
        for name, value in ask(x[[i]], INDEX[[i]], 10_000).items():
            torch.testing.assert_close(value, whole[name][..., [i]], rtol=1e-5, atol=1e-4)


def test_rows_are_means_of_the_decoder():
    model, noise = tiny(), ExampleNoise(0, INDEX)
    assert torch.equal(model.generate(4, noise), model.reconstruct(rows(), noise, 1))
    assert model.reconstruct(rows(), noise, 0).shape == (4, 5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shape": (1, 8, 8)}, "not a row shape"),
        ({"sigma": 1e-4}, "sigma=0.0001 must be at least 0.001"),
    ],
)
def test_what_does_not_fit_is_one_line(options, words):
    with pytest.raises(UserError, match=words) as error:
        tiny(**options)
    assert "\n" not in str(error.value)


def test_the_config_has_the_layers_of_the_paper():
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        model = instantiate(compose("run", ["model=vae_fraud"]).model, _convert_="all")
    assert [tuple(layer.weight.shape) for layer in model.modules() if isinstance(layer, nn.Linear)] == [
        *((32, 30), (16, 32)),  # encoder: mean and variance of eight coordinates
        *((30, 8), (60, 30)),  # decoder: mean and deviation of thirty columns
    ]
