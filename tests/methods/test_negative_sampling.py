"""Negative sampling: its loss source by source, where negatives come from, and whom they teach."""

import math
from functools import partial

import pytest
import torch

from oodgen.data.resident import Batch
from oodgen.errors import UserError
from oodgen.methods.negative_sampling import SOURCES, NegativeSampling
from oodgen.models.likelihoods import Bernoulli, LogisticMixture
from oodgen.models.vae import VAE
from oodgen.noise import RandomNoise

LATENT, SIZE, SHIFT = 2, 6, 3.0
sgd = partial(torch.optim.SGD, lr=0.0)
close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-4)


def tiny(likelihood=None, **options):
    torch.manual_seed(0)
    model = VAE((1, 8, 8), LATENT, [4], [2], 4, likelihood or Bernoulli("soft"), activation="Softplus", **options)
    with torch.no_grad():
        model.decoder.lift[0].weight *= 5  # codes matter
    return model


def images(seed, count=SIZE):
    return torch.randint(256, (count, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def batch(step=3):
    return Batch(images(0), torch.arange(SIZE), step, negative=images(1))


# --- the loss, written out ---


def divergence(q, m=0.0):
    return ((q.mean - m) ** 2 + q.stddev**2 - 1 - (q.stddev**2).log()).sum(1).mean() / 2


def reconstruction(model, q, y, draw):
    return (
        model.likelihood(model.decoder.features(model.decoder.lift(q.mean + q.stddev * draw))[None]).log_prob(y).mean()
    )


def generated(model, draw):
    return model.decoder(draw[None]).mean[0]


def slowly(model, source, x, negative, sigma=0.25):
    """log p(x|z), the KL of x and the KL of the negatives: sets apart, the draws in the order of the method's."""
    scaled = model.likelihood.from_unit_interval
    y = scaled(x / 255)
    if source == "dataset":
        other = scaled(negative / 255)
    elif source == "uniform":
        other = scaled(torch.rand(y.shape))
    elif source == "noisy":
        other = scaled(x / 255 + sigma * torch.randn(y.shape))
    else:
        other = scaled(generated(model, torch.randn(SIZE, LATENT))).detach()
    q = model.encoder(y)
    log_px = reconstruction(model, q, y, torch.randn(SIZE, LATENT))
    return log_px, divergence(q), divergence(model.encoder(other), SHIFT)


@pytest.mark.parametrize("likelihood", [Bernoulli("soft"), LogisticMixture(2)], ids=["bernoulli", "logistic"])
@pytest.mark.parametrize("source", SOURCES)
def test_the_loss_is_the_formula(source, likelihood):
    method = NegativeSampling(tiny(likelihood), sgd, source, shift=SHIFT)
    torch.manual_seed(11)
    loss, terms = method.loss(batch(), RandomNoise())
    torch.manual_seed(11)
    log_px, kl, pushed = slowly(method.model, source, images(0), images(1))
    close(terms, {"log_px": log_px, "kl_1": kl, "kl_negative": pushed, "bound": log_px - kl})
    close(loss, -(log_px - kl) + pushed)
    assert pushed > 1


def test_without_negatives_it_is_the_plain_vae():
    method = NegativeSampling(tiny(), sgd)
    torch.manual_seed(11)
    loss, terms = method.loss(batch(), RandomNoise())
    torch.manual_seed(11)
    bound = method.model(images(0) / 255, RandomNoise())
    close(loss, -bound.elbo.mean())
    assert terms.keys() == {"log_px", "kl_1", "bound"}


def seen(source, x, negative=None, likelihood=None, **options):
    """What the encoder is shown as negatives."""
    model, shown = tiny(likelihood), []
    model.encoder.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    method = NegativeSampling(model, sgd, source, **options)
    torch.manual_seed(5)
    method.loss(Batch(x, torch.arange(len(x)), 0, negative=negative), RandomNoise())
    (y,) = shown
    assert len(y) == 2 * len(x)
    return y[len(x) :]


def test_where_negatives_come_from():
    x, other = images(0, 400), images(1, 400)
    assert torch.equal(seen("dataset", x, other), other / 255)
    uniform = seen("uniform", x)
    assert 0 <= uniform.min() < 0.01 and 0.99 < uniform.max() <= 1
    # five standard errors of mean and variance
    assert abs(uniform.mean().item() - 1 / 2) < 5 * math.sqrt(1 / 12 / uniform.numel())
    assert abs(uniform.var().item() - 1 / 12) < 5 * math.sqrt(1 / 180 / uniform.numel())
    for sigma in (0.25, 0.5):
        noise = seen("noisy", x, sigma=sigma) - x / 255
        assert abs(noise.mean().item()) < 5 * sigma / math.sqrt(noise.numel())
        assert abs(noise.var().item() / sigma**2 - 1) < 5 * math.sqrt(2 / noise.numel())
    found, model = seen("generated", x), tiny()
    torch.manual_seed(5)
    assert torch.equal(found, model.generate(400, RandomNoise())) and not found.requires_grad


def test_negatives_are_on_the_scale_of_what_is_observed():
    x = images(0, 400)
    found = {source: seen(source, x, images(1, 400), LogisticMixture(2)) for source in SOURCES}
    assert found["dataset"].min() == -1 and found["dataset"].max() == 1
    assert -1 <= found["uniform"].min() < -0.99 and 0.99 < found["uniform"].max() <= 1
    assert (found["noisy"] - (x / 127.5 - 1)).std().item() == pytest.approx(0.5, rel=0.02)
    assert found["generated"].min() < 0


@pytest.mark.parametrize("source", ["dataset", "uniform", "noisy"])
def test_negatives_teach_the_encoder_alone(source):
    gradients = []
    for shift in (0.0, 5.0):
        method = NegativeSampling(tiny(), sgd, source, shift=shift)
        torch.manual_seed(11)
        method.loss(batch(), RandomNoise())[0].backward()
        gradients.append({name: p.grad for name, p in method.model.named_parameters()})
    for name, grad in gradients[0].items():
        assert torch.equal(grad, gradients[1][name]) == name.startswith("decoder"), name


# --- options ---


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"negatives": "mnist"}, "negatives='mnist' is not one of: dataset, uniform, noisy, generated"),
        ({"negatives": "uniform", "clip": 1.0}, r"trainer\.gradient_clip_val"),
        ({"clip": 1.0}, r"trainer\.gradient_clip_val"),
        ({"negatives": "uniform", "pull": 0.0}, "pull needs method.negatives=generated"),
    ],
)
def test_wrong_options_are_one_line(options, words):
    with pytest.raises(UserError, match=words) as error:
        NegativeSampling(tiny(), sgd, **options)
    assert "\n" not in str(error.value)


def test_a_negative_set_that_is_not_there_is_said_before_training():
    method = NegativeSampling(tiny(), sgd, "dataset")
    with pytest.raises(UserError, match=r"needs a negative set; .* \+dataset@data\.negative="):
        method.initialise(Batch(images(0), torch.arange(SIZE), 0))
    method.initialise(batch(0))
