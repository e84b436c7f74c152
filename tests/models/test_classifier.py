"""Classifiers and the bottleneck: shapes, the rate in closed form and by sampling, every parameter in use."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch.distributions import Normal

from oodgen.errors import UserError
from oodgen.models.classifier import Bottleneck, Classifier, ConvolutionalClassifier, DenseClassifier
from oodgen.models.density import Hierarchy
from oodgen.models.vib import VIB
from oodgen.noise import ExampleNoise, RandomNoise
from oodgen.runs.locations import config_dir

MODELS = ("classifier_grey", "classifier_fraud", "vib_grey", "vib_colour")


def vib():
    torch.manual_seed(0)
    return VIB((1, 8, 8), 3, 5, [4], 6).eval()


def images(count=4):
    return torch.randint(256, (count, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", MODELS)
def test_every_model_tells_its_classes_and_learns_with_every_parameter(name):
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        model = instantiate(compose("run", [f"model={name}"]).model, _convert_="all")
    assert isinstance(model, Classifier) and not isinstance(model, Hierarchy)
    assert isinstance(model, Bottleneck) == name.startswith("vib")
    image = len(model.shape) == 3
    x = torch.randint(256, (4, *model.shape), dtype=torch.uint8) if image else torch.randn(4, *model.shape)
    y = model.observe(x, RandomNoise())
    assert torch.equal(y, x / 255 if image else x)
    logits, spent = model.encode(y, RandomNoise()) if name.startswith("vib") else (model.logits(y), torch.zeros(()))
    assert logits.shape == (4, model.classes) and model.features(y).shape == (4, model.head.in_features)
    (logits.square().sum() + spent.sum()).backward()
    for parameter, value in model.named_parameters():
        assert value.grad is not None and value.grad.any(), parameter


def test_the_rate_is_the_kl_in_closed_form_and_what_sampling_tends_to():
    model = vib()
    with torch.no_grad():
        model.encoder[1].weight.mul_(3)  # a code that differs from its prior
        y = model.observe(images(), RandomNoise())
        mean, log_variance = model.encoder(y).chunk(2, 1)
        closed = (mean**2 + log_variance.exp() - 1 - log_variance).sum(1) / 2
        torch.testing.assert_close(model.rate(y), closed)
        assert (closed > 0.1).all()
        q = Normal(mean, (log_variance / 2).exp())
        z = q.sample((20_000,))
        sampled = (q.log_prob(z) - Normal(0, 1).log_prob(z)).sum(2).mean(0)
        torch.testing.assert_close(sampled, closed, rtol=0.03, atol=0.03)


def test_a_draw_of_the_code_is_the_noise_scaled_and_the_logits_are_linear_in_it():
    model, noise = vib(), ExampleNoise(0, torch.arange(4))
    y = model.observe(images(), noise)
    q = model.code(y)
    z = q.mean + q.stddev * noise.normal("q1", (1, 4, 5), y.device)[0]
    logits, rate = model.encode(y, noise)
    torch.testing.assert_close(logits, z @ model.head.weight.T + model.head.bias)
    torch.testing.assert_close(model.logits(y), q.mean @ model.head.weight.T + model.head.bias)
    torch.testing.assert_close(rate, model.rate(y))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ConvolutionalClassifier((30,), 2, [4], 6), r"shape=\[30\] is not an image shape"),
        (lambda: ConvolutionalClassifier((1, 8, 8), 2, [4] * 4, 6), "too many: each halves the image of 8 x 8"),
        (lambda: DenseClassifier((1, 8, 8), 1, [4]), "not a row shape"),
        (lambda: DenseClassifier((3,), 1, []), "at least one layer"),
    ],
)
def test_what_cannot_be_built_is_named(make, words):
    with pytest.raises(UserError, match=words):
        make()
