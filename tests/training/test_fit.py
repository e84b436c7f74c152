"""What a training refuses before it begins."""

from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from oodgen.data.resident import Batch
from oodgen.errors import UserError
from oodgen.methods.bpvae import BPVAE
from oodgen.methods.classifier import CrossEntropy
from oodgen.methods.ensemble import GenerativeEnsemble
from oodgen.methods.informative import Informative
from oodgen.methods.likelihood import MaximumLikelihood
from oodgen.methods.negative_sampling import NegativeSampling
from oodgen.methods.wgan import Turns, WassersteinGAN
from oodgen.models.classifier import DenseClassifier
from oodgen.models.dense_vae import DenseVAE
from oodgen.models.hierarchy import BottomUpVAE
from oodgen.models.likelihoods import Bernoulli, GaussianRows
from oodgen.models.wgan import WGAN
from oodgen.noise import RandomNoise
from oodgen.training import fit
from oodgen.training.device import Device

sgd = partial(torch.optim.SGD, lr=0.0)


def vae():
    return DenseVAE((3,), 2, 4, 4, GaussianRows(1.0))


def hierarchy():
    return BottomUpVAE((1, 4, 4), [{"latent": 2, "channels": 2, "blocks": 1}] * 2, Bernoulli())


def likelihood(seed=0):
    return MaximumLikelihood(vae(), sgd, seed)


@pytest.mark.parametrize(
    "make",
    [
        lambda: WassersteinGAN(WGAN((1, 4, 4), 2, 2), sgd, Turns()),
        lambda: CrossEntropy(DenseClassifier((3,), 3, [4]), sgd),
        lambda: GenerativeEnsemble(likelihood, 2),
        lambda: Informative(hierarchy(), sgd),
        lambda: NegativeSampling(vae(), sgd),
        lambda: BPVAE(vae(), sgd),
    ],
)
def test_a_method_that_calls_no_forward_pass_is_not_said_to_be_compiled(tmp_path, make):
    device, method = Device("cpu", "32", False, compile=True), make()
    with pytest.raises(UserError, match=f"device.compile .* which {type(method).__name__} does not call; remove it"):
        fit.fit(method, None, tmp_path, device, {})
    assert not list(tmp_path.iterdir())


class Called(Exception):
    pass


@pytest.mark.parametrize(
    "make", [likelihood, lambda: Informative(hierarchy(), sgd), lambda: NegativeSampling(vae(), sgd)]
)
def test_what_a_method_says_of_the_forward_pass_is_what_its_steps_do(monkeypatch, make):
    method = make()
    method._trainer = SimpleNamespace(num_training_batches=10)
    model, shape = method.model, method.model.shape

    def forward(*_):
        raise Called

    monkeypatch.setattr(model, "forward", forward)
    x = torch.zeros(2, *shape, dtype=torch.uint8 if len(shape) == 3 else torch.float32)
    with pytest.raises(Called) if method.calls_forward else nullcontext():
        method.loss(Batch(x, torch.arange(2), 1), RandomNoise())
